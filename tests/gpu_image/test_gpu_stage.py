"""The stage gpu: what is missing is named, and a release policy gets GPUs whose evidence holds, or none."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from appliance.boot.errors import GpuError, ToolError
from appliance.boot.gpu import FLAGS_UNIT, PERSISTENCE_UNIT, Driver, bring_up
from appliance.boot.gpu_modules import (
    ALGORITHMS,
    REPORT,
    DeviceFile,
    GpuModules,
    device_files,
    gpu_information,
    load,
    pci_devices,
)
from appliance.boot.system import System
from appliance.config.guest import GuestConfig
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.gpu_world_attack import DeviceFault, GpuAttack, Mode, OcspFault, RimFault
from attestation.collateral.sources import Sources
from attestation.errors import CollateralError, CollectionError
from attestation.gpu.nvml import Gpu, Inventory
from attestation.gpu.roots import NVIDIA_ROOTS

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = "modprobe: ERROR: could not insert 'nvidia': No such device"
MEASURED: dict[str, Any] = {
    "network": {
        "global_id": 1,
        "zerostate": {"seqno": 0, "root_hash": "0" * 64, "file_hash": "0" * 64},
        "key_block": {"seqno": 0, "root_hash": "0" * 64, "file_hash": "0" * 64},
        "root_contract": "0:" + "11" * 32,
    },
    "model": f"tiny@1:{'cd' * 32}",
    "engine": {"kind": "sglang", "device": "cuda"},
    "model_volume": {"format": "erofs", "data_blocks": 8},
}
RELEASE = {"policy": "tdx"}
DEVELOPMENT = {"policy": "any", "development": True}
H100 = Gpu(0, "NVIDIA H100 80GB HBM3", "GPU-1", "96.00.88.00.11", 80 << 30)


def config(trust: dict[str, Any]) -> GuestConfig:
    return GuestConfig.model_validate(
        {
            "measured": MEASURED | {"trust": trust},
            "owner": {"address": "0:" + "22" * 32},
            "host": {"liteservers": [{"address": "10.0.2.2:1", "key": "AAAA"}]},
        }
    )


def inventory(
    *, confidential: bool | None = True, devtools: bool = False, ready: bool = False, gpus: int = 1
) -> Inventory:
    return Inventory("550.163.01", (H100,) * gpus, confidential=confidential, devtools=devtools, ready=ready)


class FakeDriver:
    """A machine's programs and driver: what was run, and whether the GPUs were set ready."""

    def __init__(self, root: Path, found: Inventory | None = None, report: str | None = None) -> None:
        self.root = root
        self.ran: list[str] = []
        self.found = found
        self.report = report

    async def run(self, *command: str, limit_s: float) -> bytes:
        assert limit_s > 0
        self.ran.append(command[-1])
        if command[-1] == FLAGS_UNIT:
            if self.report is None:
                raise ToolError("systemctl start chrysalis-engine-flags.service ended with status 1: failed")
            place = self.root / "run/chrysalis-engine-flags/report"
            place.parent.mkdir(parents=True)
            place.write_text(self.report)
        return b""

    def inventory(self) -> Inventory:
        if self.found is None:
            raise CollectionError("no NVIDIA driver answers: Driver Not Loaded", hint="load the driver")
        return self.found

    def set_ready(self) -> None:
        assert self.found is not None
        assert PERSISTENCE_UNIT in self.ran
        self.found = Inventory(
            self.found.driver,
            self.found.gpus,
            confidential=self.found.confidential,
            devtools=self.found.devtools,
            ready=True,
        )

    @property
    def driver(self) -> Driver:
        return Driver(self.run, self.inventory, self.set_ready)


def attach_device(root: Path, address: str, vendor: str = "0x10de", kind: str = "0x030200") -> None:
    place = root / "sys/bus/pci/devices" / address
    place.mkdir(parents=True)
    (place / "vendor").write_text(vendor + "\n")
    (place / "class").write_text(kind + "\n")


def write_report(root: Path, report: GpuModules) -> None:
    place = root / REPORT.lstrip("/")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(report.to_json())


def with_gpu(root: Path) -> System:
    attach_device(root, "0000:01:00.0")
    write_report(root, GpuModules(("nvidia", "nvidia_uvm")))
    return System(root)


async def test_without_a_gpu_the_bus_the_modules_and_the_engine_are_named(tmp_path: Path) -> None:
    attach_device(tmp_path, "0000:00:02.0", vendor="0x1af4")
    write_report(tmp_path, GpuModules((), (("nvidia", "could not insert 'nvidia': No such device"),), ("gcm",)))
    fake = FakeDriver(tmp_path, report="sglang 0.5.10.post1 imported, 33 options read\n")
    with pytest.raises(GpuError) as caught:
        await bring_up(System(tmp_path), config(RELEASE), fake.driver)
    assert caught.value.message == (
        "no NVIDIA GPU: no PCI device of vendor 10de; nvidia was tried: could not insert 'nvidia': No such device; "
        "sglang 0.5.10.post1 imported, 33 options read"
    )
    assert "engine-cpu" in caught.value.hint
    assert fake.ran == [FLAGS_UNIT]


async def test_an_engine_that_cannot_be_asked_does_not_hide_the_missing_gpu(tmp_path: Path) -> None:
    with pytest.raises(GpuError, match=r"^no NVIDIA GPU: .*no module of the driver was tried.*options were not read"):
        await bring_up(System(tmp_path), None, FakeDriver(tmp_path).driver)


async def test_a_gpu_that_the_driver_did_not_take_is_named(tmp_path: Path) -> None:
    attach_device(tmp_path, "0000:01:00.0")
    write_report(tmp_path, GpuModules((), (("nvidia", "could not insert 'nvidia': Operation not permitted"),)))
    with pytest.raises(GpuError, match=r"did not take 0000:01:00.0: nvidia was tried: .*Operation not permitted"):
        await bring_up(System(tmp_path), config(RELEASE), FakeDriver(tmp_path, inventory()).driver)


class WorldRims:
    """The world's manifests, as a source."""

    def __init__(self, world: SyntheticGpus) -> None:
        self.world = world

    async def get(self, rim_id: str) -> bytes:
        found = self.world.rim(rim_id)
        if found is None:
            raise CollateralError("404: NVIDIA publishes no reference values under this name", hint="update the VBIOS")
        return found


class WorldOcsp:
    """The world's revocation status, as a source."""

    def __init__(self, world: SyntheticGpus) -> None:
        self.world = world

    async def get(self, certificate_der: bytes, issuer_der: bytes) -> bytes:
        assert issuer_der
        found = self.world.ocsp().get(hashlib.sha256(certificate_der).digest())
        if found is None:
            raise CollateralError("the responder is out of reach", hint="look at the network")
        return found


def in_world(fake: FakeDriver, world: SyntheticGpus) -> Driver:
    return replace(
        fake.driver,
        collector=world,
        sources=lambda _: Sources(rim=WorldRims(world), ocsp=WorldOcsp(world)),
        roots=world.roots(),
    )


async def test_a_release_policy_gets_gpus_whose_evidence_holds(tmp_path: Path) -> None:
    fake = FakeDriver(tmp_path, inventory(gpus=2))
    await bring_up(with_gpu(tmp_path), config(RELEASE), in_world(fake, SyntheticGpus(2)))
    assert fake.found is not None
    assert fake.found.ready is True


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (GpuAttack(mismatched=(3,)), "gpu 0: gpu measurements: 31 equal, other values at index 3"),
        (GpuAttack(mode=Mode.DEVTOOLS), "gpu 0: gpu measurements"),
        (GpuAttack(mode=Mode.OFF), "not in confidential-computing mode"),
        (GpuAttack(device=DeviceFault.DUPLICATED), "gpus: devices distinct: device 1 was shown before"),
        (GpuAttack(missing=1), "gpus: gpu count: 1, expected 2"),
        (GpuAttack(extra=1), "gpus: gpu count: 3, expected 2"),
        (GpuAttack(rim=RimFault.MISSING), "vbios manifest: none, expected .*; fetching manifest NV_GPU_VBIOS.*: 404"),
        (GpuAttack(rim=RimFault.EXPIRED), "vbios manifest: certificate of .* is valid from"),
        (GpuAttack(ocsp=OcspFault.MISSING), "revocation: no response .*; fetching revocation status .* out of reach"),
        (GpuAttack(ocsp=OcspFault.ON_HOLD), "certificate revocation: .* is revoked, certificateHold"),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
async def test_gpus_whose_evidence_does_not_hold_are_left_not_ready(
    attack: GpuAttack, said: str, tmp_path: Path
) -> None:
    fake = FakeDriver(tmp_path, inventory(gpus=2))
    with pytest.raises(GpuError, match=f"^the GPUs are not set ready: .*{said}"):
        await bring_up(with_gpu(tmp_path), config(RELEASE), in_world(fake, SyntheticGpus(2, attack=attack)))
    assert fake.found is not None
    assert fake.found.ready is False


async def test_gpus_that_somebody_set_ready_before_are_judged_all_the_same(tmp_path: Path) -> None:
    fake = FakeDriver(tmp_path, inventory(gpus=1, ready=True))
    with pytest.raises(GpuError, match="gpu 0: gpu measurements: "):
        await bring_up(
            with_gpu(tmp_path), config(RELEASE), in_world(fake, SyntheticGpus(1, attack=GpuAttack(mismatched=(1,))))
        )


async def test_a_release_trusts_no_vendor_but_nvidia(tmp_path: Path) -> None:
    fake, world = FakeDriver(tmp_path, inventory()), SyntheticGpus(1)
    assert fake.driver.roots == NVIDIA_ROOTS
    with pytest.raises(GpuError, match=r"gpu certificate chain: .* which is no trusted root"):
        await bring_up(with_gpu(tmp_path), config(RELEASE), replace(in_world(fake, world), roots=NVIDIA_ROOTS))
    assert fake.found is not None
    assert fake.found.ready is False


async def test_a_development_policy_sets_them_ready_after_persistence(tmp_path: Path) -> None:
    fake = FakeDriver(tmp_path, inventory())
    await bring_up(with_gpu(tmp_path), config(DEVELOPMENT), fake.driver)
    assert fake.found is not None
    assert fake.found.ready is True
    assert fake.ran == [PERSISTENCE_UNIT]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (inventory(confidential=False), "mode is off"),
        (inventory(confidential=None), "knows no confidential computing"),
        (inventory(devtools=True), "devtools mode"),
        (replace(inventory(), gpus=(replace(H100, persistent=False),)), "persistence is off for GPU 0"),
    ],
    ids=["off", "unknown", "devtools", "persistence"],
)
async def test_a_mode_that_lets_the_host_look_inside_is_refused(found: Inventory, said: str, tmp_path: Path) -> None:
    with pytest.raises(GpuError, match=said):
        await bring_up(with_gpu(tmp_path), config(RELEASE), FakeDriver(tmp_path, found).driver)


async def test_devtools_mode_serves_nobody_on_a_development_policy_either(tmp_path: Path) -> None:
    fake = FakeDriver(tmp_path, inventory(devtools=True))
    with pytest.raises(GpuError, match="devtools mode"):
        await bring_up(with_gpu(tmp_path), config(DEVELOPMENT), fake.driver)


async def test_a_driver_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(GpuError, match="no NVIDIA driver answers"):
        await bring_up(with_gpu(tmp_path), config(RELEASE), FakeDriver(tmp_path).driver)


@pytest.mark.parametrize("trust", [RELEASE, DEVELOPMENT], ids=["release", "development"])
async def test_a_driver_that_took_a_gpu_and_sees_none_lacks_cryptography(trust: dict[str, Any], tmp_path: Path) -> None:
    fake = FakeDriver(tmp_path, inventory(gpus=0, confidential=None))
    with pytest.raises(GpuError, match=r"took 0000:01:00\.0 and sees no GPU") as caught:
        await bring_up(with_gpu(tmp_path), config(trust), fake.driver)
    assert "ecdh_generic" in caught.value.hint


def test_other_devices_of_the_vendor_are_no_gpus(tmp_path: Path) -> None:
    attach_device(tmp_path, "0000:01:00.0", kind="0x068000")
    attach_device(tmp_path, "0000:02:00.0", kind="0x030000")
    attach_device(tmp_path, "0000:03:00.0", vendor="0x8086")
    assert pci_devices(System(tmp_path)) == ("0000:02:00.0",)


async def test_modules_are_loaded_after_the_algorithms_and_a_refusal_stops_nothing() -> None:
    ran: list[str] = []

    async def run(*command: str, limit_s: float) -> bytes:
        assert limit_s > 0
        ran.append(command[-1])
        if command[-1] in {"aesni_intel", "nvidia", "nvidia_uvm"}:
            raise ToolError(f"/usr/sbin/modprobe --verbose {command[-1]} ended with status 1: insmod x; {REFUSED}")
        return b""

    report = await load(run)
    assert ran == [*ALGORITHMS, "nvidia", "nvidia_uvm"]
    assert report.loaded == ()
    assert report.refused[0] == ("nvidia", "could not insert 'nvidia': No such device")
    assert "aesni_intel" not in report.algorithms
    assert GpuModules.from_json(report.to_json()) == report


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"loaded": 1, "refused": [], "algorithms": []}'])
def test_a_report_that_is_none_is_as_if_nothing_was_tried(data: bytes) -> None:
    assert GpuModules.from_json(data) == GpuModules()


def test_device_files_have_the_drivers_numbers(tmp_path: Path) -> None:
    for number, address in ((1, "0000:02:00.0"), (0, "0000:01:00.0")):
        place = tmp_path / "proc/driver/nvidia/gpus" / address
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t NVIDIA H100\nDevice Minor: \t {number}\n")
    files = device_files("195 nvidia\n195 nvidiactl\n511 nvidia-uvm\n", gpu_information(System(tmp_path)))
    assert files == (
        DeviceFile("/dev/nvidiactl", 195, 255),
        DeviceFile("/dev/nvidia0", 195, 0),
        DeviceFile("/dev/nvidia1", 195, 1),
        DeviceFile("/dev/nvidia-uvm", 511, 0),
        DeviceFile("/dev/nvidia-uvm-tools", 511, 1),
    )
    assert device_files("195 nvidia\n", ()) == (DeviceFile("/dev/nvidiactl", 195, 255),)
