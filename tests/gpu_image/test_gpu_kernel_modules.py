"""Building the kernel modules: the source that is taken, the patch, what a module must be."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from gpu_packages import make_package, source_archive

from appliance.image.driver import RECIPE, read_driver
from appliance.image.errors import BuildError
from appliance.image.fetch import cache, deb_path
from appliance.image.gpu_tree import FILES_LOCK
from appliance.image.lock import read_lock
from appliance.image.modules import SIGNATURE, check_module, find_kernel, unpack_source

CHECKOUT = Path(__file__).resolve().parents[2]
DRIVER = read_driver(CHECKOUT / RECIPE)
RELEASE = "6.12.117+deb13-cloud-amd64"
KBUILD = b'ccflags-y += -DNV_VERSION_STRING=\\"550.163.01\\"\n'


def module(release: str = RELEASE, *, kind: int = 1, tail: bytes = b"") -> bytes:
    """The parts of a module that are looked at: ELF identification, type, vermagic."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", kind, 62)
    return head + bytes(44) + b"\0vermagic=" + release.encode() + b" SMP preempt mod_unload modversions \0" + tail


def package(tmp_path: Path, files: dict[str, bytes]) -> Path:
    return make_package(tmp_path, "source", {DRIVER.modules.archive: source_archive(files)})


def test_the_source_is_unpacked_below_its_directory(tmp_path: Path) -> None:
    top = DRIVER.modules.directory
    deb = package(tmp_path, {f"{top}/Kbuild": KBUILD, f"{top}/nvidia/nv-pci.c": b"c", "modules/other/x": b"x"})
    unpack_source(DRIVER, deb, tmp_path / "out")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == [
        "Kbuild",
        "nvidia/nv-pci.c",
    ]


def test_a_source_of_another_version_is_refused(tmp_path: Path) -> None:
    deb = package(tmp_path, {f"{DRIVER.modules.directory}/Kbuild": KBUILD.replace(b"163.01", b"144.03")})
    with pytest.raises(BuildError, match=r"says version 550\.144\.03, expected 550\.163\.01"):
        unpack_source(DRIVER, deb, tmp_path / "out")


def test_a_package_without_the_source_is_refused(tmp_path: Path) -> None:
    deb = make_package(tmp_path, "source", {"usr/share/doc/x": b"x"})
    with pytest.raises(BuildError, match=r"has no usr/src/nvidia-open-kernel.tar.xz"):
        unpack_source(DRIVER, deb, tmp_path / "out")


def test_a_member_that_leads_outside_is_refused(tmp_path: Path) -> None:
    top = DRIVER.modules.directory
    deb = package(tmp_path, {f"{top}/Kbuild": KBUILD, f"{top}/../../escape": b"x"})
    with pytest.raises(Exception, match="outside"):
        unpack_source(DRIVER, deb, tmp_path / "out")
    assert not (tmp_path / "escape").exists()


def test_one_kernels_headers_are_found(tmp_path: Path) -> None:
    for name in (f"linux-headers-{RELEASE}", "linux-headers-6.12.117+deb13-common"):
        (tmp_path / "usr/src" / name).mkdir(parents=True)
    kernel = find_kernel(tmp_path)
    assert kernel.release == RELEASE
    assert kernel.common == "/usr/src/linux-headers-6.12.117+deb13-common"
    (tmp_path / "usr/src/linux-headers-6.12.107+deb13-cloud-amd64").mkdir()
    with pytest.raises(BuildError, match="expected one"):
        find_kernel(tmp_path)


def test_a_tree_without_the_common_headers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "usr/src" / f"linux-headers-{RELEASE}").mkdir(parents=True)
    with pytest.raises(BuildError, match=r"has no linux-headers-6\.12\.117"):
        find_kernel(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (module("6.12.107+deb13-cloud-amd64"), "is for 6.12.107"),
        (module(kind=3), "not a 64-bit relocatable"),
        (module(tail=SIGNATURE), "is signed"),
        (module().replace(b"vermagic", b"vermogic"), "is for no kernel"),
        (b"\x7fELF\x01\x01" + bytes(64), "not a 64-bit relocatable"),
    ],
    ids=["other-kernel", "no-object", "signed", "no-kernel", "32-bit"],
)
def test_what_is_no_module_of_this_kernel_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "nvidia.ko"
    path.write_bytes(data)
    with pytest.raises(BuildError, match=said):
        check_module(path, RELEASE)
    path.write_bytes(module())
    check_module(path, RELEASE)


def test_the_patch_changes_one_call_and_applies_to_the_locked_source_once(tmp_path: Path) -> None:
    (name,) = DRIVER.modules.patches
    patch = CHECKOUT / "image/gpu" / name
    changed = [
        line
        for line in patch.read_text().splitlines()
        if line.startswith(("+", "-")) and line[:3] not in {"+++", "---"}
    ]
    assert [line.split("pci_resize_resource")[1] for line in changed] == [
        "(pci_dev, NV_GPU_BAR1, requested_size);",
        "(pci_dev, NV_GPU_BAR1, requested_size, 0);",
    ]
    locked = next(
        item
        for item in read_lock(CHECKOUT / f"image/lock/{FILES_LOCK}.json").packages
        if item.package == DRIVER.modules.package
    )
    deb = deb_path(locked, cache())
    if not deb.is_file():
        pytest.skip(f"{locked.deb} is not in the cache: fetch the image's inputs")
    unpack_source(DRIVER, deb, tmp_path / "source")
    words = ["patch", "--strip=1", "--fuzz=0", "--forward", "--input", str(patch)]
    assert subprocess.run(words, cwd=tmp_path / "source", capture_output=True, check=False).returncode == 0
    assert subprocess.run(words, cwd=tmp_path / "source", capture_output=True, check=False).returncode != 0
