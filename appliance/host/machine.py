"""A virtual machine, described; and the QEMU command that makes exactly it. Pure: nothing is looked up or started.

In: a :class:`Machine` whose accelerator has been decided. Out: the argument vector for QEMU 7.2 or newer, the same for
the same machine. Paths of the machine's own files are relative to its directory, where QEMU is started: socket names
stay short and the printed command can be repeated by hand.

Nothing is attached but what is listed here (``-nodefaults``, ``-no-user-config``): firmware code and a fresh copy of
its variables, a TPM, the image read-only, the volumes for configuration, model and state, one network card on QEMU's
user network without an option ROM, a serial port, and a control socket. Disks are known to the guest by serial number
(virtio specification 1.2, section 5.2.6.1, VIRTIO_BLK_T_GET_ID: at most 20 bytes), never by order.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from appliance.host.errors import MachineError
from appliance.host.machine_devices import gpu_options
from appliance.host.machine_platform import platform_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STATUS_PORT = 9443
"""Where the guest's attested status port listens."""
MIN_MEMORY_MIB = 512
MAX_MEMORY_MIB = 16 << 20
MAX_CPUS = 512
QEMU = "qemu-system-x86_64"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")

Accelerator = Literal["auto", "kvm", "tcg"]
Boot = Literal["disk", "direct"]
Protection = Literal["none", "tdx", "snp"]


@dataclass(frozen=True, slots=True)
class Files:
    """Names inside a machine's directory."""

    console: str = "console.log"
    qemu_log: str = "qemu.log"
    control: str = "qmp.sock"
    tpm_socket: str = "tpm.sock"
    tpm_state: str = "tpm"
    tpm_log: str = "swtpm.log"
    variables: str = "vars.fd"
    configuration: str = "config.raw"
    state: str = "state.raw"
    record: str = "vm.json"


FILES = Files()


@dataclass(frozen=True, slots=True)
class Forward:
    """A loopback port of the host that leads to a port of the guest. ``host_port`` 0: a free one is chosen."""

    guest_port: int
    host_port: int = 0

    @classmethod
    def parse(cls, text: str) -> Forward:
        """Read ``GUEST`` or ``HOST:GUEST``.

        Raises:
            MachineError: Another form, or a port outside 1 to 65535.
        """
        host, colon, guest = text.rpartition(":")
        if not guest.isdecimal() or (colon and not host.isdecimal()):
            raise MachineError(f"forward {text!r}, expected GUEST or HOST:GUEST ports")
        return cls(int(guest), int(host) if colon else 0)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the guest is told, as the texts of the three files and the gas key's file.

    Args:
        measured: Part of the machine's identity.
        owner: Bound into its evidence.
        host: Can cost availability only.
        gas_key: The seed of the node wallet as its file holds it; None pays through the owner's relay.
    """

    measured: str
    owner: str
    host: str
    gas_key: bytes | None = field(default=None, repr=False)

    def members(self) -> dict[str, bytes]:
        """The files of the configuration volume by name (``appliance.boot.volume``)."""
        texts = {"measured.toml": self.measured, "owner.toml": self.owner, "host.toml": self.host}
        key = {} if self.gas_key is None else {"gas.key": self.gas_key}
        return {**{name: text.encode() for name, text in texts.items()}, **key}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A virtual machine.

    Attributes:
        name: Names it and its directory: lower-case letters, digits, dashes.
        directory: Its own files; made by the launch.
        image: Directory of the release's artefacts.
        disk: The image's disk; inside ``image`` unless absolute.
        cpus: Virtual CPUs.
        memory_mib: Memory in MiB.
        accel: ``auto`` probes and decides; a command can be made for ``kvm`` and ``tcg`` only.
        boot: ``disk``: the firmware finds the ESP; ``direct``: QEMU hands the UKI to the firmware.
        configuration: Configuration for the guest; None attaches none.
        model: The model volume; None attaches none.
        state_mib: Size of a volume that survives; None: the guest keeps nothing.
        forwards: Ports that lead into the guest.
        restrict: The guest reaches nothing outside (forwards still work).
        tpm: Whether a TPM is emulated.
        protection: ``tdx`` or ``snp`` on hosts that really have it.
        config_digest: 32 bytes that a protected launch carries for the guest to compare.
        cpu: Processor model; None: the host's, ``max`` under emulation, EPYC-v4 for SEV-SNP.
        machine_type: Machine type; ``q35`` is the newest that the installed QEMU has.
        machine_options: Further properties of it.
        network: Whether there is a network card.
        gpus: PCI addresses of the host's GPUs that are passed through, each behind a root port of its own.
        devices: Further devices as ``-device`` takes them, after all others.
        stands_in: Started under emulation and without protection, with stand-ins for the GPUs, so that QEMU builds the
            tables of the machine described (``appliance.host.acpi_capture``); such a machine serves nobody.
        extra: Further arguments, at the end, as they are.
    """

    name: str
    directory: Path
    image: Path
    disk: str = "chrysalis.raw"
    cpus: int = 2
    memory_mib: int = 2048
    accel: Accelerator = "auto"
    boot: Boot = "disk"
    configuration: Configuration | None = None
    model: Path | None = None
    state_mib: int | None = None
    forwards: tuple[Forward, ...] = (Forward(STATUS_PORT),)
    restrict: bool = False
    tpm: bool = True
    protection: Protection = "none"
    config_digest: bytes = b""
    cpu: str | None = None
    machine_type: str = "q35"
    machine_options: tuple[str, ...] = ()
    network: bool = True
    gpus: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    stands_in: bool = False
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what can be checked without looking anywhere.

        Raises:
            MachineError: The first thing that cannot be.
        """
        require_name(self.name)
        if not 1 <= self.cpus <= MAX_CPUS:
            raise MachineError(f"{self.cpus} CPUs, expected 1 to {MAX_CPUS}")
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB:
            raise MachineError(f"{self.memory_mib} MiB of memory, expected at least {MIN_MEMORY_MIB}")
        if self.state_mib is not None and self.state_mib < 16:
            raise MachineError(f"a state volume of {self.state_mib} MiB, expected at least 16")
        guests = [item.guest_port for item in self.forwards]
        hosts = [item.host_port for item in self.forwards if item.host_port]
        if any(not 0 <= port <= 65535 for port in (*guests, *hosts)) or 0 in guests:
            raise MachineError("a forward names a port outside 1 to 65535")
        if len(set(guests)) != len(guests) or len(set(hosts)) != len(hosts):
            raise MachineError("two forwards name the same port")
        if self.stands_in and self.accel != "tcg":
            raise MachineError(f"a machine that stands in for another one is emulated, not run by {self.accel}")
        if self.protection != "none" and self.accel == "tcg" and not self.stands_in:
            raise MachineError(f"{self.protection} needs KVM; emulation protects nothing")
        if self.protection != "none" and len(self.config_digest) != 32 and not self.stands_in:
            raise MachineError(
                f"a {self.protection} launch needs the measured configuration's digest",
                hint="the guest refuses to start where launch and configuration differ",
            )
        for path in (self.directory, self.image, *((self.model,) if self.model else ())):
            if not path.is_absolute():
                raise MachineError(f"{path} is relative; a machine's description holds absolute paths")


def require_name(name: str) -> str:
    """A machine's name, checked: it becomes a directory.

    Raises:
        MachineError: Anything but lower-case letters, digits and dashes.
    """
    if not _NAME.fullmatch(name):
        raise MachineError(f"name {name[:40]!r}, expected 1 to 32 lower-case letters, digits and dashes")
    return name


def qemu_command(machine: Machine) -> list[str]:
    """The argument vector that makes the machine; its current directory is ``machine.directory``.

    Raises:
        MachineError: The accelerator or a forward's port is not decided yet.
    """
    if machine.accel == "auto" or any(not item.host_port for item in machine.forwards):
        raise MachineError(
            "a command needs a decided accelerator and decided ports", hint="appliance.host.launch.start decides both"
        )
    command = [QEMU, "-name", f"guest={machine.name}", "-no-user-config", "-nodefaults", "-display", "none"]
    command += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    command += [*platform_options(machine), "-smp", str(machine.cpus), "-m", f"{machine.memory_mib}M", "-no-reboot"]
    command += _firmware(machine)
    if machine.boot == "direct" and not machine.stands_in:  # a kernel is in no table
        command += ["-kernel", str(machine.image / "chrysalis.efi")]
    if machine.tpm and machine.protection == "none":
        command += ["-chardev", f"socket,id=tpm-control,path={FILES.tpm_socket}"]
        command += ["-tpmdev", "emulator,id=tpm,chardev=tpm-control", "-device", "tpm-crb,tpmdev=tpm"]
    command += ["-device", _virtio(machine, "virtio-rng-pci")]
    for volume in volumes(machine):
        command += _disk(machine, volume)
    if machine.network:
        card = _virtio(machine, "virtio-net-pci", "netdev=net", "romfile=")
        command += ["-netdev", _network(machine), "-device", card]
    command += gpu_options(machine)
    for device in machine.devices:
        command += ["-device", device]
    command += ["-chardev", f"file,id=console,path={FILES.console}", "-serial", "chardev:console"]
    command += ["-chardev", f"socket,id=control,path={FILES.control},server=on,wait=off"]
    command += ["-mon", "chardev=control,mode=control"]
    return [*command, *machine.extra]


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk of the machine: node name, file, the serial number the guest knows it by, whether it may be written."""

    node: str
    path: str
    serial: str
    writable: bool = False


def volumes(machine: Machine) -> tuple[Volume, ...]:
    """The machine's disks in order; the image comes first and is what the firmware boots."""
    found = [Volume("image", str(machine.image / machine.disk), "chrysalis-image")]
    if machine.configuration is not None:
        found.append(Volume("config", FILES.configuration, "chrysalis-config"))
    if machine.model is not None:
        found.append(Volume("model", str(machine.model), "chrysalis-model"))
    if machine.state_mib is not None:
        found.append(Volume("state", FILES.state, "chrysalis-state", writable=True))
    return tuple(found)


def shown(command: Sequence[str], directory: Path | None = None) -> str:
    """A command as a shell takes it, to be repeated word for word."""
    text = shlex.join(command)
    return f"cd {shlex.quote(str(directory))} && {text}" if directory else text


def _firmware(machine: Machine) -> list[str]:
    if machine.protection != "none":
        return ["-bios", str(machine.image / ("OVMF.amdsev.fd" if machine.protection == "snp" else "OVMF.fd"))]
    code = _option(str(machine.image / "OVMF_CODE.fd"))
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={FILES.variables}"),
    ]


def _disk(machine: Machine, volume: Volume) -> list[str]:
    mode = "read-only=off" if volume.writable else "read-only=on"
    # QEMU gives index 0 to a kernel that it hands over itself.
    first = ("bootindex=0",) if volume.node == "image" and machine.boot == "disk" else ()
    device = _virtio(machine, "virtio-blk-pci", f"drive={volume.node}", f"serial={volume.serial}", *first)
    file = f"file.driver=file,file.filename={_option(volume.path)}"
    return ["-blockdev", f"driver=raw,node-name={volume.node},{mode},{file}", "-device", device]


def _network(machine: Machine) -> str:
    """QEMU's own user network: the guest is 10.0.2.15, the host's loopback 10.0.2.2; reached by forwards only."""
    options = ["user", "id=net", "ipv6=off", *(("restrict=on",) if machine.restrict else ())]
    options += [f"hostfwd=tcp:127.0.0.1:{item.host_port}-:{item.guest_port}" for item in machine.forwards]
    return ",".join(options)


def _virtio(machine: Machine, device: str, *options: str) -> str:
    """A device of virtio 1.0 or later; in a protected guest its buffers are shared memory only."""
    shared = ("iommu_platform=on",) if machine.protection != "none" else ()
    return ",".join((device, "disable-legacy=on", *options, *shared))


def _option(value: str) -> str:
    """A value inside a comma-separated option: commas are doubled."""
    return value.replace(",", ",,")
