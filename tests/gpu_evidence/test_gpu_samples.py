"""Genuine devices: every GPU sample gets the verdict that the specification states, each row with its source."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from gpu_evidence_support import (
    BLACKWELL_NONCE,
    DEVICE_DAY,
    DRIVER_RIM,
    H100_NONCE,
    HGX_NONCE,
    RIM_DAY,
    TOOLS_PROJECT,
    VBIOS_RIM,
    by_name,
    claims_of,
    failed,
)

from attestation.claims import gpu_nonce
from attestation.gpu.chain import fingerprint, load_pem
from attestation.gpu.claims import MultiGpu
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.fabric import Fabric
from attestation.gpu.judge import judge_device
from attestation.gpu.roots import NVIDIA_ROOTS
from attestation.gpu.rules import GpuCount, GpuDistinct, SwitchCount, gpu_rules
from attestation.gpu.second_opinion import read_output
from attestation.rules import AllOf, Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from conftest import SampleTable
    from gpu_evidence_support import Samples

    from attestation.gpu.claims import GpuClaims
    from attestation.gpu.judge import DeviceJudgement

REVOCATION = ["gpu driver manifest revocation", "gpu vbios manifest revocation"]


def subject(devices: Sequence[GpuClaims]) -> Subject:
    return Subject(None, None, bytes(32), bytes(64), RIM_DAY, devices=tuple(devices))


def judged(evidence: bytes, samples: Samples, *, nonce: bytes = H100_NONCE, now: float = DEVICE_DAY) -> DeviceJudgement:
    """Judged with all that the samples have; what they have no response for is listed as unchecked."""
    return judge_device(
        evidence, nonce=nonce, roots=NVIDIA_ROOTS, rims=samples.rims(), ocsp={}, now=now, require_ocsp=False
    )


def seen(judgement: DeviceJudgement) -> str:
    return "accepted" if judgement.claims is not None else "refused: " + ", ".join(failed(judgement.checks))


def test_an_h100_is_accepted(samples: Samples, sample_table: SampleTable) -> None:
    """test_raw_gpu_attestation_report.dat, its chain and both manifests (google/go-nvattest-tools)."""
    ocsp = samples.ocsp()
    device = {fingerprint(item) for item in load_pem(DeviceEvidence.parse(samples.h100()).chain)}
    judgement = judge_device(
        samples.h100(),
        nonce=H100_NONCE,
        roots=NVIDIA_ROOTS,
        rims=samples.rims(),
        ocsp={key: value for key, value in ocsp.items() if key in device},
        now=DEVICE_DAY,
        require_ocsp=False,
    )
    sample_table("H100 report, chain, manifests, OCSP of the chain", TOOLS_PROJECT, "accepted", seen(judgement))
    assert judgement.claims is not None
    checks = by_name(judgement.checks)
    assert checks["gpu certificate revocation"].seen == "3 of 3 certificates good"
    assert not checks["gpu driver manifest revocation"].checked
    assert checks["gpu measurements"].seen == "32 compared, all equal"
    assert judgement.claims.driver == "550.90.07"
    assert judgement.claims.vbios == "96.00.9F.00.01"
    assert judgement.claims.model == "GH100 A01 GSP BROM"
    assert judgement.claims.cc_mode
    assert not judgement.claims.devtools_mode
    assert judgement.claims.multi_gpu is MultiGpu.NONE
    assert AllOf(gpu_rules()).appraise(subject([judgement.claims])).passed


def test_31_of_64_measurements_are_in_no_manifest_and_are_said_to_be_unchecked(samples: Samples) -> None:
    """The specification's fact, on the same sample."""
    judgement = judged(samples.h100(), samples)
    lines = [check for check in judgement.checks if check.name == "gpu measurements without reference"]
    assert [line.seen for line in lines] == ["31: index 13-20, 41-63", "1: index 35"]
    assert not any(line.checked for line in lines)
    assert judgement.claims is not None
    assert len(judgement.claims.unchecked) == 31


@pytest.mark.parametrize(("now", "stale"), [(DEVICE_DAY, REVOCATION), (RIM_DAY, ["gpu certificate revocation"])])
def test_ocsp_responses_are_judged_at_the_time_of_the_evidence(
    now: float, stale: list[str], samples: Samples, sample_table: SampleTable
) -> None:
    """The samples' responses live a day each, two months apart: at either day the others, and nothing else, fail."""
    judgement = judge_device(
        samples.h100(), nonce=H100_NONCE, roots=NVIDIA_ROOTS, rims=samples.rims(), ocsp=samples.ocsp(), now=now
    )
    about = "the chain" if now == DEVICE_DAY else "the manifests"
    expected = "refused: " + ", ".join(stale)
    sample_table(
        f"the same with all 7 OCSP responses, on the day of those of {about}", TOOLS_PROJECT, expected, seen(judgement)
    )
    assert failed(judgement.checks) == stale
    assert judgement.expires_at > now


def test_manifest_signers_expire(samples: Samples, sample_table: SampleTable) -> None:
    """The signers of both manifests lived until February and June 2026: archive the time of verification with them."""
    judgement = judged(samples.h100(), samples, now=1_795_000_000.0)
    expected = "refused: gpu driver manifest, gpu vbios manifest"
    sample_table("the same in November 2026, its manifests' signers expired", TOOLS_PROJECT, expected, seen(judgement))
    assert failed(judgement.checks) == ["gpu driver manifest", "gpu vbios manifest"]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"nonce": bytes(32)}, "gpu nonce"),
        ({"rims": {DRIVER_RIM}}, "gpu vbios manifest"),
        ({"rims": {VBIOS_RIM}}, "gpu driver manifest"),
        ({"require_ocsp": True}, "gpu certificate revocation"),
        ({"roots": replace(NVIDIA_ROOTS, device=NVIDIA_ROOTS.rim)}, "gpu certificate chain"),
        ({"roots": replace(NVIDIA_ROOTS, rim=NVIDIA_ROOTS.device)}, "gpu driver manifest"),
    ],
    ids=["nonce", "no-vbios-rim", "no-driver-rim", "no-ocsp", "other-device-root", "other-rim-root"],
)
def test_one_thing_changed_is_refused_by_its_name(changed: dict[str, object], name: str, samples: Samples) -> None:
    given = {"nonce": H100_NONCE, "roots": NVIDIA_ROOTS, "rims": samples.rims(), "require_ocsp": False}
    if "rims" in changed:
        changed = {"rims": {key: value for key, value in samples.rims().items() if key in changed["rims"]}}  # type: ignore[operator]  # a set of names
    attacked = judge_device(samples.h100(), ocsp={}, now=DEVICE_DAY, **{**given, **changed})  # type: ignore[arg-type]  # a table's row
    control = judge_device(samples.h100(), ocsp={}, now=DEVICE_DAY, **given)  # type: ignore[arg-type]  # as above
    assert failed(attacked.checks)[0] == name
    assert attacked.claims is None
    assert control.claims is not None


def test_a_manifest_of_another_vbios_does_not_stand_in(samples: Samples) -> None:
    """Attack class 2: a good manifest under a name that is not its own."""
    rims = samples.rims()
    judgement = judge_device(
        samples.h100(),
        nonce=H100_NONCE,
        roots=NVIDIA_ROOTS,
        rims={**rims, VBIOS_RIM: rims[DRIVER_RIM]},
        ocsp={},
        now=DEVICE_DAY,
        require_ocsp=False,
    )
    assert failed(judgement.checks) == ["gpu vbios manifest"]
    assert by_name(judgement.checks)["gpu vbios manifest"].seen == "GH100 550.90.07"


def test_every_altered_byte_of_a_report_is_refused(samples: Samples) -> None:
    """One bit in each part of the report: request, response head, measurement, response nonce, opaque, signature."""
    shown = DeviceEvidence.parse(samples.h100())
    for place in (5, 36, 41, 60, 37 + 8 + 3520 + 4, 37 + 8 + 3520 + 32 + 8, len(shown.report) - 1):
        altered = bytearray(shown.report)
        altered[place] ^= 1
        judgement = judged(replace(shown, report=bytes(altered)).encode(), samples)
        assert judgement.claims is None
        assert set(failed(judgement.checks)) & {"gpu evidence", "gpu signature"}


def test_eight_gpus_and_four_switches_answer_one_nonce(samples: Samples, sample_table: SampleTable) -> None:
    """test_ppcie_data.json (google/go-nvattest-tools): genuine, signed, one nonce; their manifests are not at hand."""
    for kind, devices in (("gpu", samples.hgx_gpus()), ("switch", samples.hgx_switches())):
        expected = ["gpu driver manifest", "gpu vbios manifest"] if kind == "gpu" else ["gpu bios manifest"]
        judgements = [judged(evidence, samples, nonce=HGX_NONCE) for evidence in devices]
        verdicts = {seen(judgement) for judgement in judgements}
        words = "refused: " + ", ".join(expected)
        name = f"{len(devices)} {'H100' if kind == 'gpu' else 'switches'} of one board, no manifest at hand"
        sample_table(name, TOOLS_PROJECT, words, " or ".join(sorted(verdicts)))
        for judgement in judgements:
            assert failed(judgement.checks) == expected
            assert by_name(judgement.checks)["gpu nonce"].passed
            assert by_name(judgement.checks)["gpu signature"].passed


def test_equal_nonces_prove_no_co_location_so_each_device_has_its_own(samples: Samples) -> None:
    """Eight different GPUs validly answer one nonce; over a nonce for its place, none of them does."""
    gpus = samples.hgx_gpus()
    shared_nonce = [by_name(judged(item, samples, nonce=HGX_NONCE).checks)["gpu nonce"].passed for item in gpus]
    identities = {claims_of(item, index).device_id for index, item in enumerate(gpus)}
    own = [
        by_name(judged(item, samples, nonce=gpu_nonce(HGX_NONCE, bytes(32), index)).checks)["gpu nonce"].passed
        for index, item in enumerate(gpus)
    ]
    assert shared_nonce == [True] * 8
    assert len(identities) == 8
    assert own == [False] * 8


def test_switches_name_the_gpus_of_their_board(samples: Samples) -> None:
    """Eight GPUs and four switches name each other by certified identifiers, and nobody else."""
    devices = [claims_of(item, index) for index, item in enumerate([*samples.hgx_gpus(), *samples.hgx_switches()])]
    whole = AllOf((GpuCount(8, 8), SwitchCount(4), GpuDistinct(), Fabric())).appraise(subject(devices))
    assert whole.passed
    stranger = replace(devices[3], device_id=bytes(32), pdi=bytes(8))
    cases = {
        "a GPU of another board": [*devices[:3], stranger, *devices[4:]],
        "a GPU that is not shown": [*devices[:7], *devices[8:]],
        "a switch that is not shown": devices[:11],
        "a switch that is not locked": [*devices[:11], replace(devices[11], locked=False)],
        "no switch": devices[:8],
    }
    for what, changed in cases.items():
        assert failed(Fabric().appraise(subject(changed)).checks) == ["gpu links"], what


def test_a_report_beside_another_switchs_certificates_is_refused(samples: Samples, sample_table: SampleTable) -> None:
    """Attack class 1 on genuine devices: test_raw_switch_attestation_report.dat is of another switch than the chain."""
    judgement = judged(samples.odd_switch(), samples, nonce=HGX_NONCE)
    expected = "refused: gpu signature, gpu link identity, gpu bios manifest"
    sample_table("switch report with another switch's certificates", TOOLS_PROJECT, expected, seen(judgement))
    assert failed(judgement.checks) == ["gpu signature", "gpu link identity", "gpu bios manifest"]
    shown, chains = (
        DeviceEvidence.parse(samples.odd_switch()),
        [DeviceEvidence.parse(item) for item in samples.hgx_switches()],
    )
    control = [judged(replace(shown, chain=other.chain).encode(), samples, nonce=HGX_NONCE) for other in chains]
    assert [failed(item.checks) for item in control].count(["gpu bios manifest"]) == 1


def test_a_gpus_report_beside_another_gpus_certificates_is_refused(samples: Samples) -> None:
    """Attack class 1: two genuine GPUs of one firmware under one nonce, their reports exchanged."""
    first, second = (DeviceEvidence.parse(item) for item in samples.hgx_gpus()[:2])
    swapped = judged(replace(first, chain=second.chain).encode(), samples, nonce=HGX_NONCE)
    control = judged(first.encode(), samples, nonce=HGX_NONCE)
    assert failed(swapped.checks)[0] == "gpu signature"
    assert "gpu signature" not in failed(control.checks)


def test_blackwell_is_recognised_and_refused_with_the_reason(samples: Samples, sample_table: SampleTable) -> None:
    """test_mpt_data.json (google/go-nvattest-tools): genuine and signed, and refused until it verifies whole."""
    judgements = [judged(evidence, samples, nonce=BLACKWELL_NONCE) for evidence in samples.blackwells()]
    verdicts = {seen(judgement) for judgement in judgements}
    name = f"{len(judgements)} Blackwell GB100, multi-GPU passthrough"
    sample_table(name, TOOLS_PROJECT, "refused: gpu architecture", " or ".join(sorted(verdicts)))
    for judgement in judgements:
        assert failed(judgement.checks) == ["gpu architecture"]
        reason = by_name(judgement.checks)["gpu architecture"].hint
        assert "Blackwell's evidence is recognised and not accepted" in reason


def test_a_hopper_that_calls_itself_a_switch_is_refused(samples: Samples) -> None:
    """The certificates decide what a device is, not the evidence's word."""
    shown = DeviceEvidence.parse(samples.h100())
    for changed in (replace(shown, kind="switch", architecture="ls10"), replace(shown, architecture="blackwell")):
        assert failed(judged(changed.encode(), samples).checks) == ["gpu architecture"]


def test_what_nvattest_printed_is_a_verifiers_word_and_no_evidence(samples: Samples, sample_table: SampleTable) -> None:
    """gpu_attestation_h100.json (Dstack-TEE/dstack): unsigned claims of the vendor's tool about an H100."""
    opinion = read_output(samples.dstack(), bytes([0x11]) * 32)
    judgement = judged(samples.dstack(), samples)
    text = f"nvattest {opinion.stance}; as evidence {seen(judgement)}"
    expected = "nvattest accepts; as evidence refused: gpu evidence"
    sample_table("nvattest's output for an H100", "Dstack-TEE/dstack", expected, text)
    assert text == expected


def test_the_pinned_roots_are_the_vendors(samples: Samples) -> None:
    """device_root.pem and rim_root.pem (google/go-nvattest-tools) are what the code pins."""
    folder = samples.root / "google__go-nvattest-tools/server/cert"
    for name, pinned in (("device_root", NVIDIA_ROOTS.device), ("rim_root", NVIDIA_ROOTS.rim)):
        (certificate,) = load_pem((folder / f"{name}.pem").read_bytes())
        assert pinned == (certificate.public_bytes(Encoding.DER),)
