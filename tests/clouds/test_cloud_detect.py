"""Detection on machines of both clouds: what is found, and why the answer is what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from attestation.errors import CollectionError
from attestation.platforms import Azure, Gcp, detect, open_platform

if TYPE_CHECKING:
    from pathlib import Path

AZURE = {"sys/class/dmi/id/chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77\n"}
GOOGLE = {"sys/class/dmi/id/product_name": "Google Compute Engine\n"}
TPM = {"sys/class/tpm/tpm0/tpm_version_major": "2\n", "dev/tpmrm0": ""}
AMD = {"proc/cpuinfo": "vendor_id\t: AuthenticAMD\nflags\t: fpu\n"}
INTEL = {"proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t: fpu\n"}
TD = {"proc/cpuinfo": "vendor_id\t: GenuineIntel\nflags\t: fpu tdx_guest\n", "sys/kernel/config/tsm/report/.keep": ""}


def machine(root: Path, *parts: dict[str, str]) -> Path:
    for part in parts:
        for name, text in part.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("parts", "chosen", "expected"),
    [
        pytest.param((AZURE, TPM, AMD), "azure", ("azure", (True, True), "a paravisor holds"), id="azure"),
        pytest.param((AZURE, TPM, INTEL), "tpm", ("azure", (True, False), "lack SEPT_VE_DISABLE"), id="azure, Intel's"),
        pytest.param((AZURE, AMD), "none", ("azure", (True, False), "no /sys/class/tpm"), id="azure without a TPM"),
        pytest.param((GOOGLE, TPM, AMD), "gcp", ("gcp", (True, True), "word is Google's"), id="google"),
        pytest.param((GOOGLE, TPM, TD), "tdx", ("gcp", (True, True), "where it stands"), id="google, confidential"),
        pytest.param((GOOGLE, AMD), "none", ("gcp", (True, False), "its vTPM: no"), id="google without a vTPM"),
        pytest.param((TPM, AMD), "tpm", ("azure", (False, False), "another asset tag"), id="another machine"),
        pytest.param((TPM, AMD), "tpm", ("gcp", (False, False), "called nothing"), id="another machine, not google's"),
    ],
)
def test_a_machine_is_found_with_the_reason(
    tmp_path: Path, parts: tuple[dict[str, str], ...], chosen: str, expected: tuple[str, tuple[bool, bool], str]
) -> None:
    platform, state, why = expected
    found = detect(machine(tmp_path, *parts))
    assert found.platform == chosen
    finding = next(item for item in found.findings if item.platform == platform)
    assert (finding.found, finding.usable) == state
    assert why in finding.why
    assert any(str(finding) == line for line in found.explain())


def test_both_are_opened_by_name(tmp_path: Path) -> None:
    assert isinstance(open_platform("azure", directory=tmp_path), Azure)
    assert isinstance(open_platform("gcp", directory=tmp_path), Gcp)
    with pytest.raises(CollectionError, match="without a directory"):
        open_platform("azure")
