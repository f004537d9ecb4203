"""What a host can protect guests with, by what its kernel and QEMU say; hosts are directories here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from appliance.host import confidential
from appliance.host.confidential import find_protection, require_protection
from appliance.host.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path

TDX = "sys/module/kvm_intel/parameters/tdx"
SNP = "sys/module/kvm_amd/parameters/sev_snp"


def host(root: Path, **files: str) -> Path:
    for name, text in {"etc/hostname": "host", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "none"),
        ({TDX: "N"}, "none"),
        ({TDX: "Y"}, "tdx"),
        ({TDX: "1"}, "tdx"),
        ({SNP: "Y"}, "none"),  # the kernel could, and shows no device for it
        ({SNP: "Y", "dev/sev": ""}, "snp"),
        ({SNP: "N", "dev/sev": ""}, "none"),
    ],
)
def test_what_the_kernel_says(tmp_path: Path, files: dict[str, str], found: str) -> None:
    assert find_protection(host(tmp_path, **files)) == found


def test_what_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain, tdx = host(tmp_path / "plain"), host(tmp_path / "tdx", **{TDX: "Y"})
    said = "tdx-guest\n"
    monkeypatch.setattr(confidential, "said_by", lambda *_words: said)
    require_protection("tdx", (10, 1), tdx)  # control
    with pytest.raises(HostError, match="offers none, tdx was asked for"):
        require_protection("tdx", (10, 1), plain)
    with pytest.raises(HostError, match="offers tdx, snp was asked for"):
        require_protection("snp", (10, 1), tdx)
    with pytest.raises(HostError, match=r"QEMU 10\.0 has no tdx-guest, QEMU 10\.1 or newer does"):
        require_protection("tdx", (10, 0), tdx)
    said = "sev-guest\n"
    with pytest.raises(HostError, match="has no tdx-guest"):
        require_protection("tdx", (10, 1), tdx)
