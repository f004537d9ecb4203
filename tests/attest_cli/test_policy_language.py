"""The policy language: what is refused and by which key, what each section demands, how parts compose."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attest_cli_support import NONCE, ROOT, Site, make_bundle
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from appliance.lab.cloud_world_azure import AzureWorld
from appliance.lab.cloud_world_gcp import GcpWorld
from appliance.lab.snp_world import SyntheticSnp
from appliance.lab.tee import Faults, SyntheticTdx
from attestation.errors import PolicyError
from attestation.evidence import build_bundle
from attestation.own_image import own_image
from attestation.policies import require
from attestation.policies.builtin import BUILTIN
from attestation.policies.explain import explain
from attestation.policies.model import SECTIONS, PolicyDocument, SignedManifest
from attestation.policies.platforms import Azure, Gcp, Gpu, Snp, Tdx
from attestation.policies.rules import ImageStated, NotNeeded
from attestation.policy_file import load_policy, parse_policy, read_policy
from attestation.ratls import Identity
from attestation.rules import AllOf, AnyOf, Finding, Subject
from attestation.staple import Staple
from attestation.tdx import TdxQuote, parse_quote
from attestation.tdx_log import TdxLog
from attestation.verifier import Verifier
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers
from measurements.signature import sign_manifest

sys.path.append(str(Path(__file__).resolve().parents[1] / "clouds"))

from cloud_support import BOOTED, statement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from attestation.verdict import Verdict

OTHER = "11" * 32
BEGIN = int(time.time()) - 86400
END = BEGIN + 30 * 86400


def judge(policy: Path | str, bundle: bytes, **options: Any) -> Verdict:
    loaded = load_policy(policy, **options)
    return asyncio.run(Verifier(loaded).verify_bundle(bundle, nonce=NONCE, public_key=None))


def failing(verdict: Verdict) -> list[str]:
    return [check.name for check in verdict.failed]


# Reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "name: missing key"),
        ("name = 'x'\nplatform = ['tdx']", "platform: unknown key"),
        ("name = 'x'\nplatforms = ['sgx']", "platforms[0]"),
        ("name = 'x'\n[tdx]\ntd_attributes = ['DEBUGG']", "tdx.td_attributes: unknown attribute 'DEBUGG'"),
        ("name = 'x'\n[tdx]\nxfam = ['0xzz']", "tdx.xfam[0]: expected a number"),
        ("name = 'x'\n[tdx]\nmachines = ['00']", "tdx.machines[0]: expected 16 bytes in hex"),
        ("name = 'x'\n[tdx]\nfmspc = ['00']", "tdx.fmspc[0]: expected 6 bytes in hex"),
        ("name = 'x'\n[event_log]\nboot_sequence = {rtmr4 = 1}", "event_log.boot_sequence"),
        ("name = 'x'\n[tdx.tcb]\ngrace_statuses = ['Revoked']", "tdx.tcb.grace_statuses[0]"),
        ("name = 'x'\n[snp]\nproducts = ['Naples']", "snp.products[0]"),
        ("name = 'x'\n[snp.tcb_minimum.Genoa]\nspl4 = 1", "snp.tcb_minimum.Genoa.spl4"),
        ("name = 'x'\n[gpu]\ndevtools_mode = 'on'", "gpu.devtools_mode"),
        ("name = 'x'\n[gpu.count]\nmin = 3\nmax = 2", "gpu.count: min 3 is above max 2"),
        ("name = 'x'\n[gpu.driver]\nmin = 'new'", "gpu.driver.min"),
        ("name = 'x'\n[measurements]\nimages = ['zz']", "measurements.images[0]: expected 32 bytes"),
        ("name = 'x'\n[measurements]\n", "no 'require' says what has to hold"),
        (f"name = 'x'\n[measurements]\nimages = ['{OTHER}']\nregistry = true", "no 'require' says"),
        (f"name = 'x'\n[measurements]\nimages = ['{OTHER}']\nrequire = 'registry'", "images is stated"),
        ("name = 'x'\n[measurements]\nrequire = 'registry and luck'", "names 'luck'"),
        ("name = 'x'\n[measurements]\nrequire = '(registry'", "lacks a closing parenthesis"),
        ("name = 'x'\n[measurements]\nrequire = 'registry or'", "ends where a name belongs"),
        ("name = 'x'\n[measurements]\nrequire = 'registry & signature'", "'& signature'"),
        (
            "name = 'x'\n[measurements]\n[[measurements.manifests]]\nfile = 'm'\nkeys = ['k']",
            "measurements.manifests[0].keys[0]",
        ),
        ("name = 'x'\n[event_log]\n[[event_log.rules]]\nregister = 'rtmr4'", "event_log.rules[0].register"),
        ("name = 'x'\n[event_log]\n[[event_log.rules]]\nregister = 'rtmr0'", "demands nothing"),
        ("name = 'x'\n[gpu]\n[not_needed]\ngpu = 'none'", "gpu is demanded, and stated as not needed"),
        ("name = 'x'\nextends = 'nothing'", "extends: 'nothing' is not built in"),
        ("name = 'x'\n[[any]]\n[any.tdx]\ntypo = 1", "any[0].tdx.typo: unknown key"),
        ("name = ", "not TOML"),
        ("name = 'x'\nname = 'y'", "not TOML"),
    ],
)
def test_a_fault_is_told_with_its_key(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as found:
        parse_policy(text.encode(), "policy.toml")
    assert said in str(found.value)
    assert "policy.toml" in str(found.value)


def test_json_says_the_same_and_no_key_twice() -> None:
    document = {"name": "x", "tdx": {"td_attributes": ["SEPT_VE_DISABLE"], "smt": False}}
    assert parse_policy(json.dumps(document).encode(), form="json") == parse_policy(
        b'name = "x"\n[tdx]\ntd_attributes = 0x10000000\nsmt = false\n'
    )
    with pytest.raises(PolicyError, match="'name' appears twice"):
        parse_policy(b'{"name": "a", "name": "b"}', form="json")
    for text in (b"[]", b"[" * 100_000, b"\xff"):
        with pytest.raises(PolicyError):
            parse_policy(text, form="json")


@given(st.text(alphabet="abregistyond() \n01'&", max_size=60))
def test_a_require_line_is_read_or_refused(text: str) -> None:
    try:
        expression = require.parse(text, ("registry", "signature", "a", "b"))
    except PolicyError:
        return
    words = {name: name for name in require.used(expression)}
    again = require.parse(require.explain(expression, words), ("registry", "signature", "a", "b"))
    assert again == expression


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_policies_are_documents_that_give_assurance(name: str) -> None:
    document = read_policy(name)
    assert load_policy(name).assurance == "hardware"
    assert document.simulated is None
    lines = explain(document)
    for section in SECTIONS:
        demanded = getattr(document, section, None) is not None
        assert demanded or section in document.not_needed, f"{name} says nothing of {section}"
    assert lines[0] == f"policy {name!r}"


def test_the_example_of_the_guide_is_a_policy() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/attestation.md").read_text(), re.DOTALL)
    text = "\n".join(explain(parse_policy(example.encode())))
    for words in ("one stolen key lists nothing", 'either "our own machines"'.replace('"', "'"), "INTEL-SA-01079"):
        assert words in text


@pytest.mark.parametrize("model", [PolicyDocument, Tdx, Snp, Azure, Gcp, Gpu, SignedManifest])
def test_every_key_stands_in_the_guide(model: Any) -> None:
    guide = (ROOT / "docs/attestation.md").read_text()
    names = {field.alias or name for name, field in model.model_fields.items()}
    assert {name for name in names if f"`{name}`" not in guide and name not in guide} == set()


def test_extends_starts_from_a_built_in_policy() -> None:
    document = parse_policy(b'name = "mine"\nextends = "release"\n[not_needed]\ngpu = "no GPU here"\n')
    assert document.gpu is None
    assert document.measurements == read_policy("release").measurements
    assert document.not_needed["gpu"] == "no GPU here"
    machines = parse_policy(b'name = "mine"\nextends = "release"\n[tdx]\nmachines = ["' + b"00" * 16 + b'"]\n')
    assert machines.tdx is not None


# Judging -----------------------------------------------------------------------------------------------------------


def test_no_built_in_policy_takes_a_run_s_roots(site: Site) -> None:
    for name in BUILTIN:
        verdict = judge(name, site.bundle)
        assert "quote" in failing(verdict), name
        assert verdict.assurance == "none"


def _sections(site: Site) -> list[tuple[str, dict[str, Any], dict[str, Any], str]]:
    """What is demanded in a way that holds, the same in one that does not, and the check that fails then."""
    quote: TdxQuote = parse_quote(site.tdx.quote(bytes(64)))
    log = TdxLog.parse(site.tdx.event_log())
    digests = [event.digest.hex() for event in log.registers[1]]
    image = site.image.hex()
    report = quote.report
    device = site.gpus.device_ids[0].hex()
    values = {"mrtd": report.mr_td.hex(), "rtmr1": report.rtmr1.hex()}

    def events(**rule: Any) -> dict[str, Any]:
        return {"event_log": {"rules": [{"register": "rtmr1", **rule}]}}

    def registers(**changed: str) -> dict[str, Any]:
        return {"measurements": {"registers": [{"platform": "tdx", "values": {**values, **changed}}]}}

    return [
        ("images", {"measurements": {"images": [image]}}, {"measurements": {"images": [OTHER]}}, "image"),
        ("registers", registers(), registers(rtmr1="22" * 48), "image registers"),
        ("td_attributes", {"tdx": {"td_attributes": 1 << 28}}, {"tdx": {"td_attributes": 0}}, "td_attributes"),
        ("xfam", {"tdx": {"xfam": ["0x602e7"]}}, {"tdx": {"xfam": ["0x600e7"]}}, "xfam"),
        ("mr_seam", {"tdx": {"mr_seam": [report.mr_seam.hex()]}}, {"tdx": {"mr_seam": ["33" * 48]}}, "mr_seam"),
        (
            "signer",
            {"tdx": {"mr_signer_seam": ["00" * 48]}},
            {"tdx": {"mr_signer_seam": ["44" * 48]}},
            "mr_signer_seam",
        ),
        ("machines", {"tdx": {"machines": [site.tdx.ppid.hex()]}}, {"tdx": {"machines": ["55" * 16]}}, "machine"),
        ("fmspc", {"tdx": {"fmspc": [site.tdx.fmspc.hex()]}}, {"tdx": {"fmspc": ["66" * 6]}}, "platform kind"),
        ("smt", {"tdx": {"smt": True}}, {"tdx": {"smt": False}}, "hyper-threading"),
        (
            "number",
            {"tdx": {"tcb": {"min_evaluation_number": 17}}},
            {"tdx": {"tcb": {"min_evaluation_number": 99}}},
            "tcb evaluation number",
        ),
        ("gpu count", {"gpu": {"count": {"max": 1}}}, {"gpu": {"count": {"min": 2}}}, "gpu count"),
        ("driver", {"gpu": {"driver": {"min": "550.90.07"}}}, {"gpu": {"driver": {"min": "570"}}}, "gpu driver"),
        (
            "vbios",
            {"gpu": {"vbios": {"only": ["96.00.9F.00.01"]}}},
            {"gpu": {"vbios": {"not": ["96.00.9F.00.01"]}}},
            "gpu vbios",
        ),
        ("devices", {"gpu": {"devices": [device]}}, {"gpu": {"devices": [OTHER]}}, "devices listed"),
        ("contains", events(contains=digests[1:3]), events(contains=["66" * 48]), "events of rtmr1: contain"),
        ("only", events(only=digests), events(only=digests[1:]), "events of rtmr1: only"),
        ("exactly", events(exactly=digests), events(exactly=digests[::-1]), "events of rtmr1: exactly"),
        (
            "boot sequence",
            {"event_log": {"boot_sequence": {"rtmr0": 1, "rtmr1": 1}}},
            {"event_log": {"boot_sequence": {"rtmr0": 2, "rtmr1": 1}}},
            "separators",
        ),
        ("today's boot sequence", *({"event_log": {"boot_sequence": way}} for way in (True, {})), "separators"),
        ("workload", {"workload": {"role": "worker"}}, {"workload": {"role": "gateway"}}, "statement role"),
        ("age", {"freshness": {"max_age_s": 1e6}}, {"freshness": {"max_age_s": 1e-9}}, "age"),
    ]


def test_each_demand_holds_or_fails_by_its_name(site: Site) -> None:
    """Each with a control that differs only in the demanded value."""
    for name, holding, broken, check in _sections(site):
        good = judge(site.policy("section", **holding), site.bundle)
        assert good.accepted, (name, good.failed)
        assert any(item.name == check and item.checked for item in good.checks), name
        bad = judge(site.policy("section", **broken), site.bundle)
        assert check in failing(bad), (name, bad.failed)


def test_parts_of_any_and_all_compose(site: Site) -> None:
    ours, theirs = ({"tdx": {"machines": [ppid]}} for ppid in (site.tdx.ppid.hex(), "55" * 16))
    either = [{"name": "theirs", **theirs}, {"name": "ours", **ours}]
    good = judge(site.policy("parts", any=either), site.bundle)
    assert good.accepted
    assert "alternative 'ours'" in [check.name for check in good.checks]
    nobody = judge(site.policy("parts", any=[either[0], {"name": "snp", "snp": {"chips": True}}]), site.bundle)
    assert failing(nobody) == ["alternative 'theirs'", "machine", "alternative 'snp'"]
    both = judge(site.policy("parts", all=either), site.bundle)
    assert failing(both) == ["alternative 'theirs'", "machine"]
    nested = [{"name": "outer", "any": either, "gpu": {"count": {"min": 1}}}]
    assert judge(site.policy("parts", any=nested), site.bundle).accepted


def test_a_part_is_exactly_what_it_states(site: Site) -> None:
    """No check of a part stands twice, and none that it does not state."""
    verdict = judge(site.policy("part", all=[{"name": "p", "gpu": {"count": {"min": 1}}}]), site.bundle)
    names = [check.name for check in verdict.checks]
    assert names.count("gpu count") == 1
    assert "gpu driver" not in names
    assert len([name for name in names if name == "td_attributes"]) == 1


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"tdx": {}},
        {"gpu": {}},
        {"workload": {}},
        {"event_log": {}},
        {"tdx": {"zero_padding": True}},
        {"tdx": {"smt": False}, "platforms": ["tdx", "snp"]},
        {"event_log": {"boot_sequence": True}, "platforms": ["tdx", "tpm"]},
        {"event_log": {"rules": [{"register": "pcr4", "contains": ["11" * 32]}]}, "platforms": ["tdx"]},
    ],
    ids=str,
)
def test_a_part_that_everybody_fulfils_is_no_policy(site: Site, part: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="part 'p' demands nothing of"):
        load_policy(site.policy("empty", any=[{"name": "p", **part}]))
    assert load_policy(site.policy("full", any=[{"name": "p", "tdx": {"smt": False}}]))


def test_what_is_left_out_is_listed_with_the_reason(site: Site) -> None:
    verdict = judge(site.policy("left", not_needed={"gpu": "a test looks at the machine alone"}), site.bundle)
    (found,) = [check for check in verdict.checks if check.name == "gpu policy"]
    assert (found.passed, found.checked) == (True, False)
    assert "a test looks at the machine alone" in found.expected
    assert all(NotNeeded(section, "why").appraise(_nobody()).passed for section in SECTIONS)


def _nobody() -> Subject:
    return Subject(None, None, bytes(32), bytes(64), 0.0)


class View:
    """A registry that lists some images."""

    def __init__(self, *images: bytes) -> None:
        self._images = images

    def image_listed(self, image_hash: bytes, /) -> bool:
        return image_hash in self._images


@pytest.fixture(scope="module")
def release(site: Site) -> dict[str, Path]:
    """A signed manifest of what the site's machine booted, with the keys that signed it."""
    report = parse_quote(site.tdx.quote(bytes(64))).report
    manifest = Manifest(
        image_id="chrysalis",
        version="0.1.0",
        release=7,
        not_before=BEGIN,
        expires=END,
        profile="engine-gpu",
        debug=False,
        engine=Engine(name="sglang", version="0.5"),
        command_line="roothash=" + "ab" * 32,
        root_hash="ab" * 32,
        source_commit="cd" * 20,
        source_modified=False,
        source_date_epoch=0,
        recipe=BuildRecipe(profile="engine-gpu", mkosi_version="25", tools_lock="cd" * 32, command="build it"),
        locks={},
        artefacts=(Artefact(name="image.efi", size=1, sha256="ef" * 32),),
        registers=(
            Registers(
                platform="tdx",
                boot="direct",
                shape="small",
                values={
                    "mrtd": report.mr_td.hex(),
                    "rtmr1": report.rtmr1.hex(),
                    "rtmr2": report.rtmr2.hex(),
                },
            ),
        ),
    ).encode()
    keys = [Ed25519PrivateKey.generate() for _ in range(3)]
    file = site.directory / "manifest.json"
    file.write_bytes(manifest)
    signed = sign_manifest(manifest, keys[1], sign_manifest(manifest, keys[0]))
    (site.directory / "manifest.json.sig").write_bytes(signed)
    for number, key in enumerate(keys):
        text = base64.b64encode(key.public_key().public_bytes_raw()).decode()
        (site.directory / f"key{number}").write_text(text)
    return {"manifest": file, **{f"key{n}": site.directory / f"key{n}" for n in range(3)}}


def signed_by(release: dict[str, Path], *numbers: int, **more: Any) -> dict[str, Any]:
    keys = [release[f"key{number}"].read_text() for number in numbers]
    return {"file": "manifest.json", "keys": keys, **more}


def test_one_stolen_key_lists_nothing(site: Site, release: dict[str, Path]) -> None:
    """``registry and signature``: both agree, or it is refused; each attack differs from the control in one of them."""
    both = {"require": "registry and signature", "registry": True, "manifests": [signed_by(release, 0)]}
    policy = site.policy("both", measurements=both)
    listed, elsewhere = View(site.image), View(hashlib.sha256(b"other").digest())
    good = judge(policy, site.bundle, registry=listed)
    assert good.accepted
    assert any("release 7" in check.seen for check in good.checks)
    assert failing(judge(policy, site.bundle, registry=elsewhere)) == ["image in the registry"]
    assert failing(judge(policy, site.bundle)) == ["image in the registry"], "nobody asked the registry"
    # The thief of the registry's key lists an image that no release key has signed.
    other = make_bundle(SyntheticTdx(), None, engine={})
    assert other
    stated = site.policy("both", measurements={**both, "manifests": []})
    assert failing(judge(stated, site.bundle, registry=listed)) == ["image in a signed manifest"]
    either = site.policy("either", measurements={**both, "require": "registry or signature"})
    assert judge(either, site.bundle, registry=elsewhere).accepted


def test_registers_that_a_manifest_leaves_open_are_listed(site: Site, release: dict[str, Path]) -> None:
    policy = site.policy("signed", measurements={"manifests": [signed_by(release, 0)]})
    found = {check.name: check for check in judge(policy, site.bundle).checks}
    left = found["image in a signed manifest: other registers"]
    assert not left.checked
    assert "rtmr0" in left.seen
    assert "mr_td" not in left.seen


@pytest.mark.parametrize(
    ("keys", "more", "said"),
    [
        ((2,), {}, "trusted keys"),
        ((0, 2), {"threshold": 2}, "signed by 1 of the trusted keys, expected 2"),
        ((0,), {"threshold": 2}, "threshold 2 with 1 keys"),
        ((0,), {"file": "absent.json"}, "absent.json: No such file"),
        ((0,), {"signature": "manifest.json"}, "signature file"),
    ],
)
def test_a_manifest_that_does_not_hold_is_no_policy(
    site: Site, release: dict[str, Path], keys: tuple[int, ...], more: dict[str, Any], said: str
) -> None:
    good = {"manifests": [signed_by(release, 0, 1, threshold=2)]}
    assert load_policy(site.policy("threshold", measurements=good))
    with pytest.raises(PolicyError, match=re.escape(said)):
        load_policy(site.policy("bad", measurements={"manifests": [signed_by(release, *keys, **more)]}))


def test_a_grace_covers_what_it_names(tmp_path: Path) -> None:
    """An out-of-date platform: refused; with a grace for its status accepted; for another advisory refused."""
    world = SyntheticTdx(Faults(tcb_status="OutOfDate", advisories=("INTEL-SA-01079",)))
    bundle = make_bundle(world, None, engine={})
    (tmp_path / "tdx.der").write_bytes(world.root_der)

    def policy(**tcb: Any) -> Path:
        path = tmp_path / "policy.json"
        document = {"name": "g", "platforms": ["tdx"], "simulated": {"tdx": ["tdx.der"]}, "tdx": {"tcb": tcb}}
        path.write_text(json.dumps(document))
        return path

    assert failing(judge(policy(), bundle)) == ["tcb status"]
    named = {"grace_days": 3650, "grace_statuses": ["OutOfDate"], "grace_advisories": ["INTEL-SA-01079"]}
    assert judge(policy(**named), bundle).accepted
    assert failing(judge(policy(**{**named, "grace_advisories": ["INTEL-SA-00001"]}), bundle)) == ["tcb status"]
    assert failing(judge(policy(**{**named, "grace_statuses": ["SWHardeningNeeded"]}), bundle)) == ["tcb status"]


@pytest.mark.parametrize("kind", ["snp", "azure", "gcp"])
def test_other_platforms_are_judged_by_their_sections(kind: str, tmp_path: Path) -> None:
    """A machine of each platform: accepted by its section, refused where the policy takes no such machine."""
    tdx = SyntheticTdx()
    machines: dict[str, SyntheticSnp | AzureWorld | GcpWorld] = {
        "snp": SyntheticSnp(),
        "azure": AzureWorld(BOOTED),
        "gcp": GcpWorld(BOOTED, tdx, ecc=True),
    }
    machine = machines[kind]
    if isinstance(machine, GcpWorld):
        roots = {"tdx": tdx.root_der, "gcp": machine.roots[0]}
        staple = Staple(tdx=tdx.collateral_json())
    else:
        snp = machine.snp if isinstance(machine, AzureWorld) else machine
        roots, staple = {"snp": snp.root_der}, Staple(snp=snp.collateral())
    for name, root in roots.items():
        (tmp_path / f"{name}.der").write_bytes(root)

    async def make() -> bytes:
        async def stapled(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
            return staple

        identity = await Identity.create(machine)
        image = own_image(await machine.collect(bytes(64)))
        return await build_bundle(machine, identity, statement(image), NONCE, b"", staple=stapled)

    bundle = asyncio.run(make())

    def policy(*platforms: str, **more: Any) -> Path:
        path = tmp_path / "policy.json"
        simulated = {name: [f"{name}.der"] for name in roots}
        path.write_text(json.dumps({"name": kind, "platforms": platforms, "simulated": simulated, **more}))
        return path

    good = judge(policy(kind), bundle)
    assert good.accepted, good.failed
    assert (good.assurance, good.platform) == ("none", kind)
    others = [name for name in ("tdx", "snp", "azure", "gcp", "tpm") if name != kind]
    assert failing(judge(policy(*others), bundle)) == ["platform"]
    narrow: dict[str, tuple[dict[str, Any], str]] = {
        "snp": ({"snp": {"products": ["Turin"]}}, "product"),
        "azure": ({"azure": {"settings": {"secure-boot": "perhaps"}}}, "machine setting secure-boot"),
        "gcp": ({"gcp": {"zones": ["nowhere-1a"]}}, "zone"),
    }
    if kind != "snp":
        booted = {f"pcr{number}": BOOTED.registers[number].hex() for number in (4, 9, 11)}
        named = {"registers": [{"platform": "tpm", "values": booted}]}
        assert judge(policy(kind, measurements=named), bundle).accepted, "a vTPM's registers are a TPM's"
        named["registers"][0]["values"] = {**booted, "pcr11": "77" * 32}
        assert "image registers" in failing(judge(policy(kind, measurements=named), bundle))
    section, check = narrow[kind]
    assert check in failing(judge(policy(kind, **section), bundle))
    part = judge(policy(kind, all=[{"name": "part", **section}]), bundle)
    assert failing(part) == ["alternative 'part'", check]
    below: dict[str, tuple[dict[str, Any], str]] = {
        "snp": ({"snp": {"machines": ["88" * 64]}}, "machine"),
        "azure": ({"snp": {"machines": ["88" * 64]}}, "machine"),
        "gcp": ({"tdx": {"machines": ["88" * 16]}}, "machine"),
    }
    inside, listed = below[kind]
    assert failing(judge(policy(kind, any=[{"name": "list", **inside}]), bundle)) == ["alternative 'list'", listed]
    genuine = {"tdx": {"machines": [tdx.ppid.hex()]}} if kind == "gcp" else {"snp": {"chips": True}}
    assert judge(policy(kind, any=[{"name": "list", **genuine}]), bundle).accepted


def test_expressions_become_rules_that_hold_as_they_say() -> None:
    yes, no = ImageStated(frozenset({bytes([1]) * 32})), ImageStated(frozenset({bytes([2]) * 32}))
    subject = Subject(None, None, bytes([1]) * 32, bytes(64), 0.0)
    rules = {"a": yes, "b": no}
    for text, holds in (("a and b", False), ("a or b", True), ("a and (b or a)", True), ("b or b and a", False)):
        rule = require.compose(require.parse(text, rules), rules)
        found: Finding = rule.appraise(subject)
        assert found.passed is holds, text
        assert isinstance(rule, AllOf | AnyOf)
