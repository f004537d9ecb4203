"""A machine's command: exact, complete, and the same for the same machine."""

from __future__ import annotations

import base64
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.host.errors import MachineError
from appliance.host.machine import STATUS_PORT, Configuration, Forward, Machine, qemu_command, shown, volumes

IMAGE = Path("/images/cpu")
SECRET = b"c2VjcmV0LXNlZWQ="
CONFIGURATION = Configuration("m = 1\n", "o = 1\n", "h = 1\n", SECRET)


def machine(**changes: Any) -> Machine:
    values: dict[str, Any] = {
        "name": "w1",
        "directory": Path("/var/lib/vm/w1"),
        "image": IMAGE,
        "accel": "tcg",
        "forwards": (Forward(STATUS_PORT, 20001),),
    }
    return Machine(**(values | changes))


def pairs(command: list[str], option: str) -> list[str]:
    """What follows each occurrence of an option."""
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def test_the_plain_machine_is_exactly_this() -> None:
    assert shown(qemu_command(machine())) == (
        "qemu-system-x86_64 -name guest=w1 -no-user-config -nodefaults -display none "
        "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny "
        "-machine q35,accel=tcg,smm=off -cpu max -smp 2 -m 2048M -no-reboot "
        "-drive if=pflash,unit=0,format=raw,readonly=on,file=/images/cpu/OVMF_CODE.fd "
        "-drive if=pflash,unit=1,format=raw,file=vars.fd "
        "-chardev socket,id=tpm-control,path=tpm.sock -tpmdev emulator,id=tpm,chardev=tpm-control "
        "-device tpm-crb,tpmdev=tpm -device virtio-rng-pci,disable-legacy=on "
        "-blockdev driver=raw,node-name=image,read-only=on,file.driver=file,"
        "file.filename=/images/cpu/chrysalis.raw "
        "-device virtio-blk-pci,disable-legacy=on,drive=image,serial=chrysalis-image,bootindex=0 "
        "-netdev user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:20001-:9443 "
        "-device virtio-net-pci,disable-legacy=on,netdev=net,romfile= "
        "-chardev file,id=console,path=console.log -serial chardev:console "
        "-chardev socket,id=control,path=qmp.sock,server=on,wait=off -mon chardev=control,mode=control"
    )


def test_the_same_machine_gives_the_same_command() -> None:
    assert qemu_command(machine()) == qemu_command(machine())


def test_every_disk_has_its_serial_and_only_the_state_is_writable() -> None:
    full = machine(configuration=CONFIGURATION, model=Path("/models/tiny.erofs"), state_mib=64)
    command = qemu_command(full)
    disks = [word for word in pairs(command, "-device") if word.startswith("virtio-blk-pci")]
    assert [part for disk in disks for part in disk.split(",") if part.startswith("serial=")] == [
        "serial=chrysalis-image",
        "serial=chrysalis-config",
        "serial=chrysalis-model",
        "serial=chrysalis-state",
    ]
    assert all(len(volume.serial.encode()) <= 20 for volume in volumes(full))
    nodes = {word.split("node-name=")[1].split(",")[0]: word for word in pairs(command, "-blockdev")}
    assert [name for name, word in nodes.items() if "read-only=off" in word] == ["state"]
    assert all(("read-only=on" in word) != (name == "state") for name, word in nodes.items())
    assert "file.filename=/models/tiny.erofs" in nodes["model"]


def test_no_text_of_the_configuration_is_in_the_command() -> None:
    words = " ".join(qemu_command(machine(configuration=CONFIGURATION)))
    assert SECRET.decode() not in words
    assert "m = 1" not in words
    assert SECRET.decode() not in repr(machine(configuration=CONFIGURATION))


def test_the_network_is_what_was_asked_for() -> None:
    open_, closed = machine(), machine(restrict=True, forwards=(Forward(9443, 20001), Forward(8443, 20002)))
    assert "restrict" not in pairs(qemu_command(open_), "-netdev")[0]
    assert pairs(qemu_command(closed), "-netdev") == [
        "user,id=net,ipv6=off,restrict=on,hostfwd=tcp:127.0.0.1:20001-:9443,hostfwd=tcp:127.0.0.1:20002-:8443"
    ]
    assert all("0.0.0.0" not in word for word in qemu_command(closed))


def test_direct_boot_hands_over_the_uki_and_leaves_the_first_place_to_it() -> None:
    direct = qemu_command(machine(boot="direct"))
    assert pairs(direct, "-kernel") == ["/images/cpu/chrysalis.efi"]
    assert "-append" not in direct  # the command line is the UKI's own
    assert not any("bootindex" in word for word in direct)
    assert not pairs(qemu_command(machine()), "-kernel")


def test_kvm_takes_the_hosts_processor() -> None:
    command = qemu_command(machine(accel="kvm", cpus=8, memory_mib=16384))
    assert pairs(command, "-machine") == ["q35,accel=kvm,smm=off"]
    assert pairs(command, "-cpu") == ["host"]
    assert pairs(command, "-smp") == ["8"]
    assert pairs(command, "-m") == ["16384M"]


def test_a_machine_without_a_tpm() -> None:
    assert not any("tpm" in word for word in qemu_command(machine(tpm=False)))


def test_commas_in_paths_do_not_end_an_option() -> None:
    command = qemu_command(machine(image=Path("/images/a,b=c"), model=Path("/m,n")))
    assert any("file=/images/a,,b=c/OVMF_CODE.fd" in word for word in command)
    assert any("file.filename=/m,,n" in word for word in command)


def test_tdx_carries_the_digest_and_has_no_host_tpm() -> None:
    digest = bytes(range(32))
    command = qemu_command(machine(accel="kvm", protection="tdx", config_digest=digest))
    (guest,) = [json.loads(word) for word in pairs(command, "-object")]
    assert guest["qom-type"] == "tdx-guest"
    assert base64.b64decode(guest["mrconfigid"]) == digest + bytes(16)
    assert "confidential-guest-support=tdx" in pairs(command, "-machine")[0]
    assert pairs(command, "-bios") == ["/images/cpu/OVMF.fd"]
    assert not any("pflash" in word or "tpm" in word for word in command)
    virtio = [word for word in pairs(command, "-device") if word.startswith("virtio")]
    assert virtio
    assert all(word.endswith("iommu_platform=on") for word in virtio)


def test_snp_carries_the_digest_and_hashes_a_kernel_that_is_handed_over() -> None:
    digest = bytes(range(32))
    disk = qemu_command(machine(accel="kvm", protection="snp", config_digest=digest))
    assert f"host-data={base64.b64encode(digest).decode()}" in pairs(disk, "-object")[1]
    assert "kernel-hashes" not in pairs(disk, "-object")[1]
    direct = qemu_command(machine(accel="kvm", protection="snp", config_digest=digest, boot="direct"))
    assert "kernel-hashes=on" in pairs(direct, "-object")[1]
    assert "policy=0x30000" in pairs(direct, "-object")[1]  # bit 19, debugging, is not set
    assert pairs(direct, "-bios") == ["/images/cpu/OVMF.amdsev.fd"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "W1"}, "lower-case"),
        ({"name": "../w"}, "lower-case"),
        ({"name": "a" * 33}, "1 to 32"),
        ({"cpus": 0}, "0 CPUs"),
        ({"memory_mib": 100}, "at least 512"),
        ({"state_mib": 1}, "at least 16"),
        ({"forwards": (Forward(9443, 70000),)}, "outside 1 to 65535"),
        ({"forwards": (Forward(0, 2000),)}, "outside 1 to 65535"),
        ({"forwards": (Forward(1, 2), Forward(1, 3))}, "same port"),
        ({"forwards": (Forward(1, 2), Forward(3, 2))}, "same port"),
        ({"protection": "tdx", "config_digest": bytes(32)}, "needs KVM"),
        ({"protection": "snp", "accel": "kvm"}, "digest"),
        ({"image": Path("relative")}, "relative is relative"),
        ({"model": Path("m.erofs")}, "is relative"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(MachineError, match=said):
        machine(**change)


@pytest.mark.parametrize("change", [{"accel": "auto"}, {"forwards": (Forward(9443),)}])
def test_an_undecided_machine_has_no_command(change: dict[str, Any]) -> None:
    with pytest.raises(MachineError, match="decided"):
        qemu_command(replace(machine(), **change))


def test_forwards_are_read() -> None:
    assert Forward.parse("8443") == Forward(8443, 0)
    assert Forward.parse("18443:8443") == Forward(8443, 18443)
    for wrong in ("", ":", "a", "1:", ":1", "1:2:3", "-1", "1.5"):
        with pytest.raises(MachineError, match="expected GUEST or HOST:GUEST"):
            Forward.parse(wrong)


def test_a_shown_command_is_what_a_shell_runs() -> None:
    command = ["a", "b c", "d'e", "$x"]
    assert shlex.split(shown(command)) == command
    assert shown(command, Path("/a b")).startswith("cd '/a b' && ")
