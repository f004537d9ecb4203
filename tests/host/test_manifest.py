"""Manifests: one encoding, bounded parsing, signatures that cover it; every refusal beside a control."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from host_support import BEGIN, END, digest, make, recipe
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from measurements.manifest import (
    MAX_LIFETIME_S,
    MAX_MANIFEST_BYTES,
    Manifest,
    ManifestDateError,
    ManifestError,
    Registers,
    canonical,
    parse_manifest,
)
from measurements.signature import (
    MAX_SIGNERS,
    ManifestSignatureError,
    parse_public_key,
    parse_signatures,
    sign_manifest,
    verify_manifest,
)

if TYPE_CHECKING:
    from pathlib import Path

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in range(1, 20)]


def entry(name: str) -> dict[str, Any]:
    return {"name": name, "size": 1, "sha256": digest(name)}


def predicted(**changes: Any) -> dict[str, Any]:
    return {"platform": "tpm", "boot": "disk", "shape": "any", "values": {"pcr4": digest("x")}} | changes


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def plain(manifest: Manifest) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(manifest.encode())
    return value


def test_the_encoding_is_golden() -> None:
    """The form is fixed: other programs read it, and signatures cover it."""
    data = make().encode()
    assert data.startswith(b'{"artefacts":[{"name":"chrysalis.efi","sha256":"')
    assert hashlib.sha256(data).hexdigest() == "28a83e50be5cd7d8538fa85989a40a5a1e96fc437e6db758ae2598480e147aa4"


def test_what_was_written_is_read_again() -> None:
    manifest = make()
    assert parse_manifest(manifest.encode()) == manifest
    assert manifest.artefact("chrysalis.raw").size == 4
    with pytest.raises(ManifestError, match=r"lists no other\.raw; it lists chrysalis\.efi, chrysalis\.raw"):
        manifest.artefact("other.raw")


@given(
    st.builds(
        make,
        files=st.dictionaries(
            st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True), st.binary(), min_size=1
        ),
        release=st.integers(1, 2**53 - 1),
        expires=st.integers(BEGIN + 1, BEGIN + MAX_LIFETIME_S),
        debug=st.booleans(),
        source_commit=st.none() | st.just("b" * 40),
        source_date_epoch=st.integers(0, 2**53 - 1),
    )
)
def test_every_manifest_reads_back_the_same(manifest: Manifest) -> None:
    assert parse_manifest(manifest.encode()) == manifest


@given(st.binary(max_size=400))
def test_any_bytes_give_a_manifest_or_a_named_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@given(st.data())
def test_an_altered_byte_is_refused_or_gives_other_values(data: st.DataObject) -> None:
    good = make().encode()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([data.draw(st.integers(0, 255).filter(lambda value: value != good[at]))]) + good[at + 1 :]
    with contextlib.suppress(ManifestError):
        assert parse_manifest(bad) != parse_manifest(good)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "chrysalis image manifest 1"}, "format"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"release": -1}, "release"),
        ({"release": 2**53}, "release"),
        ({"release": 1.0}, "release"),
        ({"release": "1"}, "release"),
        ({"release": True}, "release"),
        ({"debug": 0}, "debug"),
        ({"profile": "../etc"}, "profile"),
        ({"profile": ""}, "profile"),
        ({"command_line": "quiet"}, "does not carry the root_hash"),
        ({"command_line": "a\nb"}, "command_line"),
        ({"root_hash": "A" * 64}, "root_hash"),
        ({"source_commit": "abc"}, "source_commit"),
        ({"artefacts": []}, "artefacts"),
        ({"artefacts": [entry("../x")]}, "name"),
        ({"artefacts": [entry("b"), entry("a")]},
         "not sorted"),
        ({"artefacts": [entry("a")] * 2}, "appears twice"),
        ({"artefacts": [entry("manifest.json")]}, "cannot list"),
        ({"artefacts": [entry(f"a{n:03}") for n in range(65)]}, "artefacts"),
        ({"registers": [predicted(boot="usb")]}, "boot"),
        ({"registers": [predicted(values={"PCR4": digest("x")})]}, "values"),
        ({"registers": [predicted(values={"pcr4": "00"})]}, "values"),
        ({"registers": [predicted(values={})]}, "values"),
        ({"locks": {"a/b": digest("x")}}, "locks"),
        ({"registers": [predicted(values={"pcr123": digest("x")})]}, "values"),
        ({"registers": [predicted(shape="a", values={"pcr4": digest("x")}), predicted(shape="a")]}, "appears twice"),
        ({"registers": [predicted(shape=f"s{n:03}") for n in range(257)]}, "registers"),
        ({"release": 0}, "not_before and expires are a release's"),
        ({"not_before": 0}, "a release needs not_before"),
        ({"expires": 0}, "a release needs not_before"),
        ({"expires": BEGIN}, "expires after it"),
        ({"expires": BEGIN + MAX_LIFETIME_S + 1}, "two years at most"),
        ({"expires": float(END)}, "expires"),
        ({"not_before": 253402300800}, "not_before"),
        ({"recipe": {}}, "recipe.command"),
        ({"recipe": recipe("base").model_dump()}, "recipe builds base"),
        ({"locks": {"tools.json": digest("other tools")}}, "another tools lock"),
    ],
)  # fmt: skip
def test_wrong_values_are_named(change: dict[str, Any], said: str) -> None:
    assert parse_manifest(canonical(plain(make())))  # control: the same way without the change
    with pytest.raises(ManifestError, match=said):
        parse_manifest(canonical(plain(make()) | change))


def test_missing_values_are_named() -> None:
    for name in plain(make()):
        # What has a default is always written: absent, the text is not canonical.
        said = {"registers": "canonical", "expires": "not_before"}.get(name, name)
        with pytest.raises(ManifestError, match=said):
            parse_manifest(canonical({key: value for key, value in plain(make()).items() if key != name}))


@pytest.mark.parametrize("again", ["indent", "newline", "duplicate", "unsorted", "escape", "long", "deep", "number"])
def test_a_second_way_to_write_it_is_refused(again: str) -> None:
    good = make().encode()
    text = {
        "indent": json.dumps(json.loads(good), sort_keys=True, indent=1).encode(),
        "newline": good + b"\n",
        "duplicate": good.replace(b'"debug":false', b'"debug":false,"debug":false'),
        "unsorted": json.dumps(dict(reversed(json.loads(good).items())), separators=(",", ":")).encode(),
        "escape": good.replace(b"engine-cpu", b"\\u0065ngine-cpu"),
        "long": good + b" " * MAX_MANIFEST_BYTES,
        "deep": b"[" * 100_000,
        "number": good.replace(b'"release":7', b'"release":' + b"7" * 5000),
    }[again]
    assert text != good
    with pytest.raises(ManifestError):
        parse_manifest(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"debug": True}, "debug build"),
        ({"source_modified": True}, "no commit holds"),
        ({"source_commit": None}, "no commit holds"),
        ({"release": 0}, "nobody released"),
    ],
)
def test_what_no_release_policy_takes(change: dict[str, Any], said: str) -> None:
    make().require_release()
    with pytest.raises(ManifestError, match=said):
        make(**change).require_release()


def test_ones_own_build_has_no_number() -> None:
    make(release=0).require_release(numbered=False)
    with pytest.raises(ManifestError, match="debug build"):
        make(release=0, debug=True).require_release(numbered=False)


def test_release_numbers_only_rise() -> None:
    make(release=8).require_newer_than(make(release=7))
    for release in (7, 6, 0):
        with pytest.raises(ManifestError, match="numbers only rise"):
            make(release=release).require_newer_than(make(release=7))
    with pytest.raises(ManifestError, match="does not follow chrysalis/engine-gpu"):
        make(release=8).require_newer_than(make(release=7, profile="engine-gpu"))


def test_a_release_counts_from_its_first_second_to_before_its_last() -> None:
    manifest = make()
    for now in (BEGIN, BEGIN + 0.5, END - 1, END - 0.001):
        manifest.require_current(now)
    for now in (BEGIN - 0.001, 0, -1e30):
        with pytest.raises(ManifestDateError, match=r"release 7 of engine-cpu counts from 2026-09-21T14:13:20Z"):
            manifest.require_current(now)
    for now in (END, END + 1, 1e30):
        with pytest.raises(ManifestDateError, match=r"release 7 of engine-cpu expired at 2027-01-15T08:00:00Z"):
            manifest.require_current(now)
    make(release=0).require_current(0)


@pytest.mark.parametrize(
    ("platform", "boot", "names", "decides"),
    [
        ("tdx", "disk", ("mrtd", "rtmr0", "rtmr1", "rtmr2"), True),
        ("tdx", "direct", ("mrtd", "rtmr1", "rtmr2"), True),
        ("tdx", "disk", ("rtmr0", "rtmr1", "rtmr2"), False),
        ("tdx", "disk", ("mrtd", "rtmr0", "rtmr2"), False),
        ("tdx", "disk", ("mrtd", "rtmr0", "rtmr1"), False),
        ("tdx", "disk", ("pcr4", "pcr11"), False),
        ("snp", "direct", ("measurement",), True),
        ("snp", "disk", ("measurement",), False),
        ("snp", "direct", ("host_data",), False),
        ("tpm", "disk", ("pcr4", "pcr11"), True),
        ("tpm", "disk", ("pcr4", "pcr9"), False),
        ("tpm", "disk", ("pcr9", "pcr11"), False),
        ("azure", "disk", ("pcr4", "pcr11", "pcr12"), True),
        ("azure", "disk", ("measurement",), False),
        ("gcp", "disk", ("pcr2", "pcr4", "pcr11"), True),
        ("gcp", "disk", ("pcr4", "pcr11"), False),
        ("gcp", "disk", ("mrtd", "rtmr1", "rtmr2"), True),
        ("gcp", "disk", ("mrtd", "pcr4"), False),
        ("sgx", "disk", ("mrtd", "rtmr1", "rtmr2", "pcr4", "pcr11", "measurement"), False),
    ],
)
def test_which_registers_decide_the_image(platform: str, boot: str, names: tuple[str, ...], decides: bool) -> None:
    values = {name: digest(name) for name in names}
    entry = Registers.model_validate({"platform": platform, "boot": boot, "values": values})
    assert entry.decides_image is decides


def test_construction_checks_too() -> None:
    with pytest.raises(ValidationError):
        make(profile="a b")


def test_signed_and_verified() -> None:
    data = make().encode()
    file = sign_manifest(data, KEYS[0])
    manifest, signers = verify_manifest(data, file, [public(KEYS[0]), public(KEYS[1])])
    assert manifest == make()
    assert signers == (public(KEYS[0]),)


def test_several_sign_one_manifest_and_signing_again_changes_nothing() -> None:
    data = make().encode()
    file = sign_manifest(data, KEYS[1], sign_manifest(data, KEYS[0]))
    assert file == sign_manifest(data, KEYS[0], sign_manifest(data, KEYS[1]))
    assert sign_manifest(data, KEYS[0], file) == file
    assert verify_manifest(data, file, [public(KEYS[1])])[1] == (public(KEYS[1]),)
    for key in KEYS[2:MAX_SIGNERS]:
        file = sign_manifest(data, key, file)
    with pytest.raises(ManifestSignatureError, match="at most"):
        sign_manifest(data, KEYS[MAX_SIGNERS], file)


def test_a_new_build_drops_the_signatures_of_the_old_one() -> None:
    old = sign_manifest(make().encode(), KEYS[0])
    new = sign_manifest(make(release=8).encode(), KEYS[1], old)
    assert [item.key for item in parse_signatures(new)] == [public(KEYS[1])]


def test_refused_signatures() -> None:
    data = make().encode()
    file = sign_manifest(data, KEYS[0])
    trusted = [public(KEYS[0])]
    verify_manifest(data, file, trusted)  # control
    with pytest.raises(ManifestSignatureError, match="does not cover these bytes"):
        verify_manifest(make(release=8).encode(), file, trusted)
    with pytest.raises(ManifestSignatureError, match="trusted keys"):
        verify_manifest(data, file, [public(KEYS[1])])
    with pytest.raises(ManifestSignatureError, match="none given"):
        verify_manifest(data, file, [])
    other = sign_manifest(data, KEYS[1], file).replace(
        base64.b64encode(KEYS[1].sign(data)), base64.b64encode(bytes(64))
    )
    with pytest.raises(ManifestSignatureError, match="does not cover"):
        verify_manifest(data, other, trusted)
    signed = sign_manifest(data, KEYS[0]).replace(b"ed25519 ", b"ed448 ")
    with pytest.raises(ManifestSignatureError, match="line 1"):
        verify_manifest(data, signed, trusted)


@pytest.mark.parametrize("spoil", [b"", b"\n", b"x" * 5000, b"ed25519 a b\n", b"\xff\n"])
def test_malformed_signature_files(spoil: bytes) -> None:
    with pytest.raises(ManifestSignatureError):
        parse_signatures(spoil)


def test_signature_files_have_one_form() -> None:
    data = make().encode()
    one, two = sorted([sign_manifest(data, KEYS[0]), sign_manifest(data, KEYS[1])])
    assert len(parse_signatures(one + two)) == 2
    for wrong in (two + one, one + one, one + two[:-1], one + b"\n" + two, one.replace(b" ", b"  ", 1)):
        with pytest.raises(ManifestSignatureError):
            parse_signatures(wrong)


@given(st.binary(max_size=300))
def test_any_bytes_are_signatures_or_a_named_error(data: bytes) -> None:
    with pytest.raises(ManifestSignatureError):
        parse_signatures(data)


def test_public_keys_are_read_in_both_spellings() -> None:
    raw = public(KEYS[0])
    assert parse_public_key(raw.hex()) == parse_public_key(base64.b64encode(raw).decode() + "\n") == raw
    for wrong in ("", "zz", raw.hex()[2:], "not base64!"):
        with pytest.raises(ManifestSignatureError, match="no Ed25519 public key"):
            parse_public_key(wrong)


def test_another_program_verifies_the_signature(tmp_path: Path) -> None:
    """OpenSSL checks the plain signature over the file as it is."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    data = make().encode()
    (line,) = parse_signatures(sign_manifest(data, KEYS[0]))
    (tmp_path / "m").write_bytes(data)
    (tmp_path / "s").write_bytes(line.signature)
    (tmp_path / "k").write_bytes(
        KEYS[0].public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "k", "-rawin", "-in", "m", "-sigfile", "s"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "m").write_bytes(make(release=8).encode())
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0
