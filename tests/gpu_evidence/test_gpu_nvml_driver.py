"""The driver's side: inventory, evidence and the ready state, through the real binding over a recorded library."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from gpu_driver_fake import NO_PERMISSION, NOT_SUPPORTED, UNKNOWN, DriverState

from appliance.lab.gpu_world import SyntheticGpus
from attestation.errors import CollectionError
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.judge import judge_device
from attestation.gpu.nvml import NvmlCollector, collect_evidence, inventory, require_persistence, set_ready

if TYPE_CHECKING:
    from collections.abc import Callable

WORLD = SyntheticGpus(3)
REPORT = "nvmlDeviceGetConfComputeGpuAttestationReport"
CERTIFICATE = "nvmlDeviceGetConfComputeGpuCertificate"
STATE = "nvmlSystemGetConfComputeState"
SET_READY = "nvmlSystemSetConfComputeGpusReadyState"


def nonce(index: int) -> bytes:
    return bytes([index + 1]) * 32


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DriverState]:
    """Installs a driver that differs from a good one in what is given."""

    def install(**changed: Any) -> DriverState:
        state = replace(DriverState(world=WORLD), **changed)
        state.install(monkeypatch)
        return state

    return install


async def test_evidence_of_every_gpu_over_its_own_nonce(driver: Callable[..., DriverState]) -> None:
    state = driver(count=3)
    found = await NvmlCollector().collect(nonce)
    assert [value for name, value in state.calls if name == "asked"] == [(index, nonce(index)) for index in range(3)]
    assert state.called[0] == "nvmlInitWithFlags"
    assert state.called[-1] == "nvmlShutdown"
    for index, evidence in enumerate(found):
        shown = DeviceEvidence.parse(evidence)
        assert (shown.kind, shown.architecture) == ("gpu", "hopper")
        judgement = judge_device(
            evidence,
            nonce=nonce(index),
            roots=WORLD.roots(),
            rims=WORLD.rims(),
            ocsp=WORLD.ocsp(),
            now=time.time(),
        )
        assert judgement.claims is not None
        assert judgement.claims.device_id == WORLD.device_ids[index]


def test_the_inventory_says_all_that_the_driver_knows(driver: Callable[..., DriverState]) -> None:
    driver(count=2, ready=1)
    found = inventory()
    assert (found.confidential, found.devtools, found.ready, found.protected_pcie) == (True, False, True, False)
    assert [(gpu.index, gpu.architecture, gpu.persistent) for gpu in found.gpus] == [
        (0, "hopper", True),
        (1, "hopper", True),
    ]


@pytest.mark.parametrize(
    ("changed", "said", "hint"),
    [
        ({"cc": 0}, "confidential-computing mode is off", "set the CC mode to 'on'"),
        ({"cc": 0, "ready": None}, "confidential-computing mode is off", "set the CC mode to 'on'"),
        ({"devtools": 1}, "devtools mode", "set the GPUs' CC mode to 'on'"),
        ({"cc": None}, "knows no confidential computing", "branch 535 or later"),
        ({"missing": frozenset({STATE})}, "knows no confidential computing", "branch 535 or later"),
        ({"missing": frozenset({REPORT})}, "it is too old", "branch 535 or later"),
        ({"missing": frozenset({CERTIFICATE})}, "it is too old", "branch 535 or later"),
        (
            {"persistent": 0, "failing": {REPORT: UNKNOWN}},
            "Unknown Error, and persistence is off",
            "nvidia-persistenced",
        ),
        ({"count": 0}, "sees no GPU", "the kernel's cryptography"),
        ({"multi_gpu": 1, "cc": 0}, "protected PCIe mode", "single-GPU passthrough"),
        ({"failing": {REPORT: UNKNOWN}}, "GPU 0 .* gives no evidence: Unknown Error", "reset the GPU"),
        ({"failing": {CERTIFICATE: NOT_SUPPORTED}}, "gives no evidence: Not Supported", "reset the GPU"),
        ({"said_size": 9000}, "says its report has 9000 bytes, its buffer 8192", "reset the GPU"),
        ({"said_size": 0}, "says its report has 0 bytes", "reset the GPU"),
        ({"failing": {"nvmlInitWithFlags": 9}}, "no NVIDIA driver answers: Driver Not Loaded", "load the driver"),
        ({"failing": {"nvmlDeviceGetName": UNKNOWN}}, "NVML failed: Unknown Error", "dmesg"),
    ],
)
def test_without_evidence_the_reason_and_the_cure_are_said(
    changed: dict[str, Any], said: str, hint: str, driver: Callable[..., DriverState]
) -> None:
    driver()
    assert len(collect_evidence(nonce)) == 1
    state = driver(**changed)
    with pytest.raises(CollectionError, match=said) as caught:
        collect_evidence(nonce)
    assert hint in caught.value.hint
    assert SET_READY not in state.called


@pytest.mark.parametrize("multi_gpu", [None, 0, 2])
def test_drivers_that_know_no_multi_gpu_setting_are_asked_all_the_same(
    multi_gpu: int | None, driver: Callable[..., DriverState]
) -> None:
    driver(multi_gpu=multi_gpu)
    assert len(collect_evidence(nonce)) == 1
    assert inventory().protected_pcie is (None if multi_gpu is None else False)


def test_a_later_architecture_is_named(driver: Callable[..., DriverState]) -> None:
    for number, name in ((10, "blackwell"), (13, "rubin"), (99, "number 99")):
        driver(architecture=number)
        assert DeviceEvidence.parse(collect_evidence(nonce)[0]).architecture == name
    driver(failing={"nvmlDeviceGetArchitecture": NOT_SUPPORTED})
    assert DeviceEvidence.parse(collect_evidence(nonce)[0]).architecture == "unknown"


def test_gpus_that_end_with_their_last_user_are_named(driver: Callable[..., DriverState]) -> None:
    driver(count=2)
    require_persistence(inventory())
    driver(count=2, persistent=0)
    with pytest.raises(CollectionError, match="persistence is off for GPU 0, 1") as caught:
        require_persistence(inventory())
    assert "nvidia-persistenced" in caught.value.hint
    assert len(collect_evidence(nonce)) == 2
    driver(failing={"nvmlDeviceGetPersistenceMode": NOT_SUPPORTED})
    require_persistence(inventory())


def test_a_nonce_of_another_length_asks_nobody(driver: Callable[..., DriverState]) -> None:
    state = driver()
    with pytest.raises(CollectionError, match="nonce of 31 bytes for GPU 0"):
        collect_evidence(lambda _: bytes(31))
    assert REPORT not in state.called


def test_the_ready_state_is_set_by_root_alone(driver: Callable[..., DriverState]) -> None:
    state = driver()
    set_ready()
    assert state.ready == 1
    assert inventory().ready is True
    refused = driver(failing={SET_READY: NO_PERMISSION})
    with pytest.raises(CollectionError, match="lets only root"):
        set_ready()
    assert refused.ready == 0
    driver(failing={SET_READY: UNKNOWN})
    with pytest.raises(CollectionError, match="cannot be set ready: Unknown Error"):
        set_ready()
