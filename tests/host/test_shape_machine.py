"""A shape's machine: launch and capture are the same command, but for what emulation cannot have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.host.errors import MachineError
from appliance.host.machine import Configuration, Forward, Machine, qemu_command
from appliance.host.shape_machine import machine_of, stand_in_of
from measurements import shape_library
from measurements.shape import Qemu, Shape

DIRECTORY, IMAGE = Path("/var/lib/vm/s"), Path("/images/gpu")
CONFIGURATION = Configuration("m = 1\n", "o = 1\n", "h = 1\n")
MODEL = Path("/models/m.erofs")
DIGEST = bytes(32)
FORWARDS = (Forward(9443, 20001),)


def shape(**changes: Any) -> Shape:
    values: dict[str, Any] = {
        "name": "s",
        "platform": "tpm",
        "vcpus": 2,
        "memory_mib": 4096,
        "qemu": Qemu(version="7.2"),
        "tpm": True,
    }
    return Shape(**(values | changes))


def launched(given: Shape, **changes: Any) -> Machine:
    values: dict[str, Any] = {
        "directory": DIRECTORY,
        "image": IMAGE,
        "accel": "kvm",
        "configuration": CONFIGURATION,
        "config_digest": DIGEST if given.platform != "tpm" else b"",
        "model": MODEL,
        "gpus": [f"0000:{number + 0x10:02x}:00.0" for number in range(given.gpus)],
        "forwards": FORWARDS,
    }
    return machine_of(given, **(values | changes))


def captured(given: Shape) -> list[str]:
    return qemu_command(stand_in_of(given, directory=DIRECTORY, image=IMAGE, disk=DIRECTORY / "empty.raw"))


def devices(command: list[str]) -> list[str]:
    """Kinds of the devices in order, root ports and what is behind them too."""
    words = [command[at + 1] for at, word in enumerate(command) if word == "-device"]
    found = [json.loads(word)["driver"] if word.startswith("{") else word.split(",")[0] for word in words]
    return [{"vfio-pci": "gpu", "vfio-user-pci": "gpu"}.get(kind, kind) for kind in found]


def option(command: list[str], name: str) -> str:
    return command[command.index(name) + 1]


def properties(command: list[str]) -> set[str]:
    return set(option(command, "-machine").split(","))


def test_the_shape_is_the_machine_that_is_launched_anyway() -> None:
    by_hand = Machine(
        name="shape",
        directory=DIRECTORY,
        image=IMAGE,
        cpus=2,
        memory_mib=4096,
        accel="kvm",
        configuration=CONFIGURATION,
        model=MODEL,
        forwards=FORWARDS,
    )
    assert qemu_command(launched(shape())) == qemu_command(by_hand)


@pytest.mark.parametrize("name", [name for name in shape_library.names() if shape_library.shape(name).qemu])
def test_launch_and_capture_have_the_same_devices(name: str) -> None:
    given = shape_library.shape(name)
    launch, capture = qemu_command(launched(given)), captured(given)
    assert devices(launch) == devices(capture)
    assert devices(launch).count("gpu") == given.gpus
    for same in ("-smp", "-m"):
        assert option(launch, same) == option(capture, same)
    only_launch = properties(launch) - properties(capture)
    only_capture = properties(capture) - properties(launch)
    assert {word.split("=")[0] for word in only_launch} <= {"accel", "kernel-irqchip", "confidential-guest-support"}
    assert {word.split("=")[0] for word in only_capture} <= {"accel", "memory-backend"}


def test_a_tdx_machine_says_what_qemu_would_decide_by_itself() -> None:
    given = shape_library.shape("tdx-8c-32g-direct")
    for command in (qemu_command(launched(given)), captured(given)):
        assert {"q35", "smm=off", "hpet=off", "pic=off"} <= properties(command)
    assert option(captured(given), "-cpu") == "max,vendor=GenuineIntel,phys-bits=46"
    assert option(qemu_command(launched(given)), "-cpu") == "host"
    assert "-kernel" not in captured(given)


def test_an_snp_machine_has_its_model_and_room_for_gpus() -> None:
    given = shape_library.shape("snp-24c-192g-1h100-direct")
    assert option(qemu_command(launched(given)), "-cpu") == "EPYC-v4,host-phys-bits=on"
    assert option(captured(given), "-cpu") == "EPYC-v4,phys-bits=46"


def test_a_servers_processor_has_its_width_in_a_capture_and_an_emulated_one_its_own() -> None:
    assert option(captured(shape(cpu="host")), "-cpu") == "max,phys-bits=46"
    assert option(qemu_command(launched(shape(cpu="host"))), "-cpu") == "host"
    assert option(captured(shape()), "-cpu") == "max"


def test_each_gpu_has_a_root_port_and_shows_no_rom() -> None:
    given = shape_library.shape("tdx-48c-384g-2h100-disk")
    command = qemu_command(launched(given))
    found = [command[at + 1] for at, word in enumerate(command) if word == "-device"]
    assert [word for word in found if "gpu" in word] == [
        "pcie-root-port,id=gpu1,chassis=1",
        "vfio-pci,host=0000:10:00.0,bus=gpu1,rombar=0,iommufd=iommufd",
        "pcie-root-port,id=gpu2,chassis=2",
        "vfio-pci,host=0000:11:00.0,bus=gpu2,rombar=0,iommufd=iommufd",
    ]
    assert "iommufd,id=iommufd" in command
    assert "iommufd,id=iommufd" not in qemu_command(launched(shape_library.shape("tdx-8c-32g-disk")))


def test_machine_type_options_network_and_devices_are_the_shapes() -> None:
    given = shape(
        qemu=Qemu(version="7.2", machine="pc-q35-7.1", options=("hpet=off",)),
        network=False,
        devices=("edu", "i6300esb"),
    )
    command = qemu_command(launched(given))
    assert {"pc-q35-7.1", "hpet=off"} <= properties(command)
    assert devices(command)[-2:] == ["edu", "i6300esb"]
    assert "-netdev" not in command


@pytest.mark.parametrize(
    ("change", "given", "said"),
    [
        ({}, {"configuration": None}, "the disk 'config', and none is given"),
        ({}, {"model": None}, "the disk 'model', and none is given"),
        ({}, {"state_mib": 64}, "no disk 'state', and one is given"),
        ({}, {"gpus": ["0000:01:00.0"]}, "0 GPUs, 1 are given"),
        ({"disks": ("config", "image", "model")}, {}, "expected image first"),
        ({"disks": ("config", "model")}, {}, "expected image first"),
        ({"platform": "gcp", "qemu": None}, {}, "nobody outside can start it"),
    ],
)
def test_what_is_not_the_shape_is_refused(change: dict[str, Any], given: dict[str, Any], said: str) -> None:
    assert launched(shape()).cpus == 2  # the control
    with pytest.raises(MachineError, match=said):
        launched(shape(**change), **({"config_digest": b""} | given))


def test_only_emulation_stands_in() -> None:
    with pytest.raises(MachineError, match="emulated, not run by kvm"):
        Machine(name="s", directory=DIRECTORY, image=IMAGE, accel="kvm", stands_in=True)
