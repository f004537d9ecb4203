"""``chrysalis attest`` on real bundles of the synthetic worlds: the tree, the page, JSON, exit codes, hostile text."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import HOSTILE, NONCE, ROOT, Site, chrysalis, chrysalis_process, make_bundle

from attestation.collateral.entry import Entry
from attestation.collateral.offline import OfflineBundle
from attestation.report import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {
    "accepted", "assurance", "checks", "evidence", "expires_at", "image_hash", "machine", "ok", "policy", "public_key",
    "schema", "statement", "tree",
}  # fmt: skip
"""What docs/attestation.md promises of ``--json``; more may come, none of these may go."""


def told(*words: str | Path, ok: bool) -> dict[str, Any]:
    done = chrysalis(*words, "--json", ok=ok)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def failing(found: dict[str, Any]) -> list[str]:
    return [check["name"] for check in found["checks"] if not check["passed"]]


def test_a_good_bundle_prints_the_tree_and_exits_zero(site: Site) -> None:
    done = chrysalis("attest", "verify", site.file, "--policy", site.policy(), ok=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("no assurance"), "assurance comes first"
    assert lines[1] == "ACCEPTED by policy 'site'"
    text = done.stdout
    for words in ("The machine", "What the machine started, step by step", "GPU 0", "What the machine says it runs"):
        assert words in text
    assert "\n  ok   report data: " in text
    assert "FAIL" not in text
    assert "(not judged: " in text, "what no rule asks is listed as unchecked"
    assert hashlib.sha256(site.bundle).hexdigest() in text


def test_the_short_form_is_the_same_command(site: Site) -> None:
    options = [site.file, "--policy", site.policy(), "--at", "made"]
    short = chrysalis_process("verify", *options, ok=True)
    assert short.stdout == chrysalis("attest", "verify", *options, ok=True).stdout


def test_json_has_the_documented_form(site: Site) -> None:
    found = told("attest", "verify", site.file, "--policy", site.policy(), "--nonce", NONCE.hex(), ok=True)
    assert found.keys() >= KEYS
    assert found["schema"] == SCHEMA
    assert SCHEMA in (ROOT / "docs/attestation.md").read_text()
    assert (found["ok"], found["accepted"], found["assurance"]) == (True, True, "none")
    assert found["image_hash"] == site.image.hex()
    assert found["evidence"]["sha256"] == hashlib.sha256(site.bundle).hexdigest()
    assert found["evidence"]["nonce_ours"] is True
    assert found["tree"]["name"] == "verdict"
    states = {item["state"] for group in found["tree"]["checks"] for item in group["checks"] if "state" in item}
    assert states == {"passed", "unchecked"}


@pytest.mark.parametrize(
    ("option", "value", "check"),
    [("--nonce", "11" * 32, "nonce"), ("--image", "11" * 32, "image"), ("--at", "2001-01-01", "made at")],
)
def test_what_is_asked_for_and_not_there_is_named(site: Site, option: str, value: str, check: str) -> None:
    found = told("attest", "verify", site.file, "--policy", site.policy(), option, value, ok=False)
    assert failing(found)[0] == check


def test_a_hardware_policy_refuses_a_run_s_roots(site: Site) -> None:
    """The control is the first test: the same bundle, the same rules, other roots."""
    found = told("attest", "verify", site.file, "--policy", "tdx", ok=False)
    assert failing(found)[0] == "quote"
    assert found["assurance"] == "none"


def test_simulated_roots_work_as_options_too(site: Site) -> None:
    bundle = site.directory / "bare.cbor"
    bundle.write_bytes(make_bundle(site.tdx, None, engine={}))
    options = ["verify", bundle, "--policy", "simulated", "--root", site.directory / "tdx.der"]
    assert told(*options, ok=True)["accepted"]
    assert failing(told(*options[:-2], "--root", site.directory / "gpu.der", ok=False)) == ["quote"]
    devices = ["--gpu-root", site.directory / "gpu.der", "--rim-root", site.directory / "rim.der"]
    whole = ["verify", site.file, *options[2:]]
    assert told(*whole, *devices, ok=True)["accepted"]
    assert "gpu evidence" in failing(told(*whole, ok=False)), "no maker of devices is trusted"


def test_nothing_is_verified_by_show_and_it_says_so(site: Site) -> None:
    done = chrysalis("attest", "show", site.file, ok=True)
    assert done.stdout.startswith("notice: NOTHING HERE IS VERIFIED")
    assert "rtmr0" in done.stdout
    found = told("attest", "show", site.file, ok=True)
    assert found["verified"] is False
    assert found["statement"]["model"].startswith("stub/model@")
    assert found["devices"][0]["kind"] == "gpu"


@pytest.fixture(scope="module")
def hostile(site: Site) -> Path:
    """A machine whose every text is an attack on whoever reads it; its evidence is genuine."""
    path = site.directory / "hostile.cbor"
    engine = {"kind": HOSTILE, HOSTILE: HOSTILE}
    path.write_bytes(make_bundle(site.tdx, None, model=HOSTILE, owner=HOSTILE, role=HOSTILE, engine=engine))
    return path


def test_hostile_text_moves_no_cursor(site: Site, hostile: Path) -> None:
    policy = site.policy("hostile", workload={"owner": "0:" + "22" * 32})
    for words in (["show", hostile], ["verify", hostile, "--policy", policy]):
        done = chrysalis("attest", *words)
        assert not any(char < " " and char != "\n" for char in done.stdout), "a control character"
        assert not set(done.stdout) & set("\x7f\x9b\u202e\u2066"), "an escape or an override"
        assert "<script>" in done.stdout, "text is shown as it is where that is harmless"
        assert r"\x1b" in done.stdout


def test_hostile_text_becomes_no_markup(site: Site, hostile: Path) -> None:
    page = site.directory / "hostile.html"
    policy = site.policy("hostile", workload={"owner": "0:" + "22" * 32})
    chrysalis("attest", "verify", hostile, "--policy", policy, "--html", page, ok=False)
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not any((char < " " and char != "\n") or char in "\x9b\u202e\u2066" for char in text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["verify", "absent.cbor"], "No such file"),
        (["verify", "pyproject.toml"], "an evidence bundle"),
        (["verify", "README.md", "--policy", "nonsense"], "no policy"),
        (["verify", "README.md", "--at", "yesterday"], "is no time"),
        (["verify", "README.md", "--nonce", "zz"], "64 hex digits"),
        (["verify", "README.md", "--anchor", "0:00"], "--network"),
        (["verify", "README.md", "--manifest", "README.md"], "belong together"),
        (["verify", "README.md", "--policy", "tdx", "--root", "README.md"], "--policy simulated"),
        (["verify", "http://127.0.0.1:1"], "plain HTTP"),
        (["verify", "https://user:pw@127.0.0.1/"], "no plain https address"),
        (["verify", "127.0.0.1:1"], "does not answer"),
        (["show", "README.md"], "bundle"),
        (["show", "absent.cbor"], "No such file"),
        (["collect", "127.0.0.1:1"], "does not answer"),
        (["collect", "--nonce", "12"], "64 hex digits"),
        (["collect", "--platform", "toaster"], "toaster"),
        (["anchor", "README.md", "-k", "absent.key", "-n", "absent.toml"], ""),
        (["policy", "check", "absent.toml"], "No such file"),
        (["policy", "show", "nothing"], "no built-in policy"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_words_and_a_status(words: list[str], said: str) -> None:
    done = chrysalis("attest", *words, ok=False)
    assert done.returncode == 1
    assert said in done.stderr + done.stdout


def test_built_in_policies_are_explained_and_printed() -> None:
    explained = chrysalis("attest", "policy", "check", "release", ok=True).stdout
    assert "one stolen key lists nothing" in explained
    assert "leaves out which machine it is" in explained
    printed = json.loads(chrysalis("attest", "policy", "show", "release", ok=True).stdout)
    assert printed["measurements"]["require"] == "registry and signature"


def test_a_fault_in_a_policy_is_told_with_its_key(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text('name = "mine"\n[tdx]\nxfam = ["0xzz"]\ntypo = 1\n')
    done = chrysalis("attest", "policy", "check", file, ok=False)
    assert "tdx.xfam[0]" in done.stderr
    assert "tdx.typo: unknown key" in done.stderr


def test_collateral_comes_from_an_exported_file(site: Site) -> None:
    """Nothing stapled: refused; with the exported file: accepted; with a damaged one: told in words."""
    bare = site.directory / "unstapled.cbor"
    bare.write_bytes(make_bundle(site.tdx, None, stapled=False, engine={}))
    exported = site.directory / "collateral.cbor"
    now = time.time()
    entry = Entry(
        kind="tdx",
        identity=f"{site.tdx.fmspc.hex().upper()}-platform",
        source="test",
        fetched=now,
        issued=now - 60,
        expires=now + 3600,
        content=site.tdx.collateral_json(),
    )
    exported.write_bytes(OfflineBundle.of([entry]).encode())
    options = ["attest", "verify", bare, "--policy", site.policy()]
    assert "collateral" in failing(told(*options, ok=False))
    assert told(*options, "--collateral", exported, ok=True)["accepted"]
    exported.write_bytes(exported.read_bytes()[:-1])
    assert "bundle of collateral cannot be read" in chrysalis(*options, "--collateral", exported, ok=False).stderr
