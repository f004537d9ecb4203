"""Sigstore bundles: judged offline against the roots of a synthetic world; each refusal beside its control."""

from __future__ import annotations

import base64
import copy
import dataclasses
import datetime
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sigstore", reason="the extra 'sigstore' is not installed")

from sigstore_world import IDENTITY, ISSUER, SIGNED, SigstoreWorld

from appliance.image.sigstore_bundle import MAX_BUNDLE_BYTES, Signer, SigstoreError, sign_bundle, verify_bundle

sys.path.append(str(Path(__file__).resolve().parents[1] / "host"))

from host_support import make

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = make().encode()
SIGNER = Signer(IDENTITY, ISSUER)


@pytest.fixture(scope="module")
def world() -> SigstoreWorld:
    return SigstoreWorld()


@pytest.fixture(scope="module")
def root(world: SigstoreWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("root") / "trusted_root.json"
    path.write_bytes(world.trusted_root())
    return path


def encoded(bundle: dict[str, Any]) -> bytes:
    return json.dumps(bundle).encode()


def test_a_bundle_of_the_right_person_holds(world: SigstoreWorld, root: Path) -> None:
    verify_bundle(DATA, encoded(world.bundle(DATA)), SIGNER, root)


@pytest.mark.parametrize(
    ("data", "signer", "said"),
    [
        (make(release=8).encode(), SIGNER, "digest mismatch"),
        (DATA, Signer("other@example.org", ISSUER), "SANs do not match"),
        (DATA, Signer(IDENTITY, "https://other.example.org"), "OIDCIssuer does not match"),
    ],
)
def test_what_nobody_signed_is_refused(
    world: SigstoreWorld, root: Path, data: bytes, signer: Signer, said: str
) -> None:
    bundle = encoded(world.bundle(DATA))
    verify_bundle(DATA, bundle, SIGNER, root)  # control
    with pytest.raises(SigstoreError, match=said):
        verify_bundle(data, bundle, signer, root)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ({"seen": False}, "certificate timestamp"),
        ({"logged": b"other"}, "inconsistent with other materials"),
        ({"at": SIGNED + datetime.timedelta(hours=1)}, "certificate chain"),
        ({"at": SIGNED - datetime.timedelta(hours=1)}, "certificate chain"),
    ],
)
def test_a_bundle_that_was_made_wrongly_is_refused(
    world: SigstoreWorld, root: Path, attack: dict[str, Any], said: str
) -> None:
    verify_bundle(DATA, encoded(world.bundle(DATA)), SIGNER, root)  # control
    with pytest.raises(SigstoreError, match=said):
        verify_bundle(DATA, encoded(world.bundle(DATA, **attack)), SIGNER, root)


@pytest.mark.parametrize("part", ["authority", "certificates", "log"])
def test_a_bundle_of_another_world_is_refused(world: SigstoreWorld, root: Path, part: str) -> None:
    """One key of three is another's."""
    keys = {name: getattr(world, name) for name in ("authority", "certificates", "log")}
    same = dataclasses.replace(world, **keys)
    same.root = world.root
    verify_bundle(DATA, encoded(same.bundle(DATA)), SIGNER, root)  # control
    foreign = SigstoreWorld(**{name: key for name, key in keys.items() if name != part})
    with pytest.raises(SigstoreError):
        verify_bundle(DATA, encoded(foreign.bundle(DATA)), SIGNER, root)


def _flip(place: dict[str, Any] | list[Any], key: Any) -> None:
    raw = bytearray(base64.b64decode(place[key]))
    raw[-1] ^= 1
    place[key] = base64.b64encode(raw).decode()


def _larger(proof: dict[str, Any]) -> None:
    note = proof["checkpoint"]["envelope"]
    proof["checkpoint"]["envelope"] = note.replace("\n3\n", "\n4\n")


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], object]] = {
    "promise": lambda _bundle, entry, _proof: _flip(entry["inclusionPromise"], "signedEntryTimestamp"),
    "promise gone": lambda _bundle, entry, _proof: entry.pop("inclusionPromise"),
    "proof gone": lambda _bundle, entry, _proof: entry.pop("inclusionProof"),
    "checkpoint": lambda _bundle, _entry, proof: _larger(proof),
    "root": lambda _bundle, _entry, proof: _flip(proof, "rootHash"),
    "hashes": lambda _bundle, _entry, proof: _flip(proof["hashes"], 0),
    "index": lambda _bundle, _entry, proof: proof.update(logIndex="0"),
    "size": lambda _bundle, _entry, proof: proof.update(treeSize="2"),
    "time": lambda _bundle, entry, _proof: entry.update(integratedTime=str(int(entry["integratedTime"]) + 1)),
    "body": lambda _bundle, entry, _proof: _flip(entry, "canonicalizedBody"),
    "signature": lambda bundle, _entry, _proof: _flip(bundle["messageSignature"], "signature"),
    "certificate": lambda bundle, _entry, _proof: _flip(bundle["verificationMaterial"]["certificate"], "rawBytes"),
    "no entry": lambda bundle, _entry, _proof: bundle["verificationMaterial"].update(tlogEntries=[]),
    "two entries": lambda bundle, entry, _proof: bundle["verificationMaterial"]["tlogEntries"].append(entry),
    "media type": lambda bundle, _entry, _proof: bundle.update(mediaType="application/json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_part_is_refused(world: SigstoreWorld, root: Path, change: str) -> None:
    good = world.bundle(DATA)
    verify_bundle(DATA, encoded(good), SIGNER, root)  # control
    bad = copy.deepcopy(good)
    entry = bad["verificationMaterial"]["tlogEntries"][0]
    CHANGES[change](bad, entry, entry["inclusionProof"])
    assert bad != good
    with pytest.raises(SigstoreError):
        verify_bundle(DATA, encoded(bad), SIGNER, root)


@pytest.fixture(scope="module")
def good(world: SigstoreWorld) -> bytes:
    return encoded(world.bundle(DATA))


@given(at=st.floats(0, 1), cut=st.integers(0, 40), put=st.binary(max_size=4))
@settings(max_examples=80)
def test_any_bytes_are_refused_with_our_error(good: bytes, root: Path, at: float, cut: int, put: bytes) -> None:
    place = int(at * len(good))
    bad = good[:place] + put + good[place + cut :]
    try:
        verify_bundle(DATA, bad, SIGNER, root)
    except SigstoreError:
        return
    # What was changed is spelling (white space, the promise of an index that nobody asks for), not what is proven.
    assert json.loads(bad)["messageSignature"] == json.loads(good)["messageSignature"]


@pytest.mark.parametrize("bad", [b"", b"{}", b"[]", b"\xff", b"null", b"[" * 100_000, b" " * (MAX_BUNDLE_BYTES + 1)])
def test_what_is_no_bundle_is_refused(root: Path, bad: bytes) -> None:
    with pytest.raises(SigstoreError):
        verify_bundle(DATA, bad, SIGNER, root)


def test_a_root_that_is_none_is_named(world: SigstoreWorld, tmp_path: Path) -> None:
    bundle = encoded(world.bundle(DATA))
    with pytest.raises(SigstoreError, match=r"absent\.json: No such file"):
        verify_bundle(DATA, bundle, SIGNER, tmp_path / "absent.json")
    for text in (b"", b"{}", b"[" * 100_000, world.trusted_root().replace(b"trustedroot+json", b"bundle+json")):
        (tmp_path / "root.json").write_bytes(text)
        with pytest.raises(SigstoreError, match=r"root\.json"):
            verify_bundle(DATA, bundle, SIGNER, tmp_path / "root.json")


def test_verifying_uses_no_network(
    world: SigstoreWorld, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither against a given root nor against the public instance's, which this bundle is none of."""
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))

    def connect(*_: object) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    verify_bundle(DATA, encoded(world.bundle(DATA)), SIGNER, root)
    with pytest.raises(SigstoreError, match="certificate chain"):
        verify_bundle(DATA, encoded(world.bundle(DATA)), SIGNER)


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch, world: SigstoreWorld, root: Path) -> None:
    bundle = encoded(world.bundle(DATA))
    verify_bundle(DATA, bundle, SIGNER, root)  # control
    monkeypatch.setitem(sys.modules, "sigstore", None)
    with pytest.raises(SigstoreError, match=r"chrysalis-appliance\[sigstore\]"):
        verify_bundle(DATA, bundle, SIGNER, root)


def test_signing_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance at an address of this machine where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    world = SigstoreWorld()
    nobody = "http://127.0.0.1:9"
    service = {"url": nobody, "majorApiVersion": 1, "operator": "nobody", "validFor": {"start": "2026-01-01T00:00:00Z"}}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({
        "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
        "trustedRoot": json.loads(world.trusted_root()),
        "signingConfig": {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": [service],
            "oidcUrls": [service],
            "rekorTlogUrls": [service],
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": [],
            "tsaConfig": {"selector": "ANY"},
        },
    }))  # fmt: skip
    with pytest.raises(SigstoreError, match="sigstore did not sign") as found:
        sign_bundle(DATA, config)
    assert "needs the network" in found.value.hint
