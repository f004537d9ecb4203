"""Registers of clouds' machines: as their own logs have them, and nothing said of what is not public.

Sources: github.com/Dstack-TEE/dstack (a log of a Google machine with TDX, whose registers 0 to 2 are quoted),
github.com/google/go-eventlog (logs of Google's machines with AMD's processors); two of the values are also published in
github.com/Phala-Network/dstack-cloud, ``docs/tpm/GCP_PCR_ANALYSIS.md``.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import measure_support as images
import ovmf_support as ovmf
import pytest

from measurements import tpm
from measurements.artefacts import Artefacts
from measurements.clouds import predict
from measurements.errors import ArtefactError, MeasurementError
from measurements.eventlog import parse_tcg2
from measurements.shape import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from measurements.eventlog import Event
    from measurements.prediction import Prediction

ALL = {f"pcr{number}" for number in range(16)}
FILES: dict[str, Any] = {"image": images.uki(), "disk": ovmf.disk(), "measured_config": bytes(range(32))}
INTEL: dict[str, Any] = {
    "name": "google",
    "platform": "gcp",
    "vcpus": 4,
    "memory_mib": 16384,
    "instance": "c3-standard-4",
    "firmware": {"name": "gce", "version": "2"},
}
AMD = INTEL | {"instance": "n2d-standard-4", "firmware": None}
AZURE = INTEL | {"name": "azure", "platform": "azure", "instance": "Standard_DC4as_v5", "firmware": None}


def predicted(shape: dict[str, Any], **files: Any) -> Prediction:
    return predict(Artefacts(**FILES | files), Shape.model_validate(shape))


def names(prediction: Prediction, register: int) -> list[str]:
    return [event.name for event in prediction.registers[f"pcr{register}"].events]


@pytest.fixture(scope="module")
def intel_log(shared: Path) -> Sequence[Event]:
    data = (shared / "samples/Dstack-TEE__dstack/dstack/cc-eventlog/samples/tpm_eventlog.bin").read_bytes()
    return [event for event in parse_tcg2(data).events if event.extended]


@pytest.fixture(scope="module")
def amd_log(shared: Path) -> Sequence[Event]:
    data = (shared / "samples/google__go-eventlog/testdata/eventlogs/tpm/cos-101-amd-sev.bin").read_bytes()
    return [event for event in parse_tcg2(data).events if event.extended]


def logged(log: Sequence[Event], register: int) -> list[bytes]:
    return [event.digests["sha256"] for event in log if event.register == register]


@pytest.mark.parametrize("shape", [INTEL, AMD, AZURE], ids=["intel", "amd", "azure"])
def test_what_the_image_decides_is_the_same_everywhere(shape: dict[str, Any]) -> None:
    found = predicted(shape)
    assert set(found.registers) | set(found.unpredicted) == ALL
    assert not set(found.registers) & set(found.unpredicted)
    alone = tpm.predict(images.uki(), boot="disk").registers
    assert {number: found.values[f"pcr{number}"] for number in (9, 11, 12)} == {n: alone[n] for n in (9, 11, 12)}
    assert found.values["pcr14"] == tpm.configuration_register(bytes(range(32)))
    assert all(found.values[f"pcr{number}"] == bytes(32) for number in (8, 13, 15))
    assert {"pcr7", "pcr10"} <= set(found.unpredicted)


def test_googles_intel_machines_count_the_boot_to_register_2() -> None:
    found = predicted(INTEL)
    assert names(found, 2) == ["separator", "partition table", "image", "kernel"]
    assert names(found, 4) == ["calling a boot option", "separator"]
    assert names(found, 5) == ["separator", "leaving firmware", "left firmware"]
    # As published for another image: neither register holds anything of the image.
    assert found.values["pcr0"].hex() == "0cca9ec161b09288802e5a112255d21340ed5b797f5fe29cecccfd8f67b9f802"
    assert found.values["pcr4"].hex() == "7a94ffe8a7729a566d3d3c577fcb4b6b1e671f31540375f80eae6382ab785e35"


def test_googles_intel_machines_log_what_is_predicted(intel_log: Sequence[Event]) -> None:
    """All registers that no image decides, event by event; of register 2 the kinds of its events."""
    found = predicted(INTEL)
    for number in (0, 3, 4, 5, 6):
        assert [event.digest for event in found.registers[f"pcr{number}"].events] == logged(intel_log, number)
    kinds = [event.type_name for event in intel_log if event.register == 2]
    application = "EV_EFI_BOOT_SERVICES_APPLICATION"
    assert kinds == ["EV_SEPARATOR", "EV_EFI_GPT_EVENT", application, application]
    table = next(event for event in intel_log if event.type_name == "EV_EFI_GPT_EVENT")
    assert hashlib.sha256(table.data).digest() == table.digests["sha256"]


def test_googles_amd_machines_log_what_is_predicted(amd_log: Sequence[Event]) -> None:
    found = predicted(AMD)
    for number in (2, 3, 6):
        assert [event.digest for event in found.registers[f"pcr{number}"].events] == logged(amd_log, number)
    assert names(found, 5) == ["separator", "partition table", "leaving firmware", "left firmware"]
    events = [event.digest for event in found.registers["pcr5"].events]
    seen = logged(amd_log, 5)
    assert (seen[0], *seen[2:]) == (events[0], *events[2:])
    assert [event.type_name for event in amd_log if event.register == 5][1] == "EV_EFI_GPT_EVENT"
    assert logged(amd_log, 4)[:2] == [event.digest for event in found.registers["pcr4"].events][:2]


def test_azures_machines_measure_the_image_by_the_profile() -> None:
    found = predicted(AZURE)
    assert set(found.unpredicted) == {"pcr0", "pcr5", "pcr6", "pcr7", "pcr10"}
    assert names(found, 4) == ["calling a boot option", "separator", "image", "kernel"]


@pytest.mark.parametrize(
    ("shape", "files", "register", "reason"),
    [
        (INTEL | {"firmware": None}, {}, "pcr0", "number of Google's firmware"),
        (AMD, {}, "pcr0", "which of AMD's"),
        (INTEL | {"instance": "m1-megamem-96"}, {}, "pcr4", "'m1-megamem-96' measures"),
        (INTEL | {"instance": None}, {}, "pcr5", "'unstated' measures"),
        (INTEL, {"disk": None}, "pcr2", "no disk given"),
        (AMD, {"disk": None}, "pcr5", "no disk given"),
        (AZURE, {"measured_config": None}, "pcr14", "no measured configuration"),
        (AZURE, {}, "pcr0", "no build is published"),
    ],
)
def test_what_is_not_public_is_said_with_its_reason(
    shape: dict[str, Any], files: dict[str, Any], register: str, reason: str
) -> None:
    found = predicted(shape, **files)
    assert register not in found.registers
    assert reason in found.unpredicted[register]


def test_only_clouds_with_an_image_are_predicted() -> None:
    with pytest.raises(ArtefactError, match="no image given"):
        predicted(AZURE, image=None)
    with pytest.raises(MeasurementError, match="expected gcp or azure"):
        predicted(INTEL | {"platform": "tpm", "instance": None, "qemu": {"version": "10.0"}})
