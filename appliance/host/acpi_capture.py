"""ACPI tables of a machine that is described, from QEMU itself: started under emulation, asked, stopped.

In: a shape, a QEMU of the version that the shape names, the firmware. Out: the three files of QEMU's configuration
device that firmware reads and measures (``etc/acpi/tables``, ``etc/acpi/rsdp``, ``etc/table-loader``).

QEMU builds the tables anew when the first of the three is selected after a reset, and never again before the next
(``acpi_build_update`` in QEMU's ``hw/i386/acpi-build.c``). What they say of PCI windows is what firmware has programmed
until then, so the right moment is firmware's own: QEMU's trace says when firmware selects the tables, the machine is
stopped, and the same bytes that firmware reads are read from outside (:mod:`appliance.host.qtest`).

QEMU is a child of ``timeout(1)``: it ends by itself, whatever becomes of this process.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from appliance.host.acpi_cache import AcpiCache, CaptureKey
from appliance.host.control import Control
from appliance.host.errors import ControlError, LaunchError, MachineError
from appliance.host.follow import tail
from appliance.host.gpu_stand_in import GpuStandIn
from appliance.host.kept import keep, spawn
from appliance.host.machine import FILES, QEMU, qemu_command
from appliance.host.machine_devices import root_ports, stand_in_socket
from appliance.host.programs import find_program, qemu_release
from appliance.host.qtest import Qtest
from appliance.host.shape_machine import stand_in_of
from appliance.host.swtpm import start_swtpm
from appliance.host.volumes import write_files
from measurements.acpi import AcpiTables
from measurements.acpi_file import Captured, table_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from appliance.host.kept import ProcessIdentity
    from appliance.host.machine import Machine
    from measurements.shape import Shape

log = structlog.get_logger(__name__)

CAPTURE_S = 300.0
"""Seconds that firmware has; a few suffice for a small machine, some more for hundreds of emulated processors."""
GPUS_SINCE = (10, 1)
"""The first QEMU with ``vfio-user-pci`` (:mod:`appliance.host.gpu_stand_in`)."""
POLL_S = 0.1
STOP_S = 15.0
FORCE_S = 5
TABLES, ROOT, LOADER = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
_SOCKET, _TRACE, _DISK = "qtest.sock", "trace.log", "empty.raw"
_ANYWHERE = Path("/stand-in")
_MIB = 1 << 20


def capture(
    shape: Shape,
    *,
    firmware: tuple[Path, Path | None],
    qemu: Path | None = None,
    cache: AcpiCache | None = None,
    seconds: float = CAPTURE_S,
) -> Captured:
    """Capture the tables of a shape's machine.

    Args:
        shape: The machine.
        firmware: Code and variables as two files, or for a protected machine the one file and None.
        qemu: The binary; the installed one by default.
        cache: Where captures are kept; the cache directory by default.
        seconds: How long firmware may take to get as far as the tables.

    Raises:
        MissingProgramError: QEMU or swtpm is not installed.
        MachineError: QEMU or firmware is not the shape's, or the shape is nothing that QEMU can be started for.
        LaunchError: QEMU ended, or firmware did not get as far; QEMU's words are in the message.
        ControlError: QEMU does not answer.
    """
    program = find_program(QEMU) if qemu is None else qemu
    version = require_version(shape, program)
    code = _read(firmware[0])
    digest = hashlib.sha256(code).hexdigest()
    if shape.firmware is not None and shape.firmware.sha256 not in {None, digest}:
        raise MachineError(
            f"firmware {firmware[0]} has the digest {digest}, shape {shape.name} names {shape.firmware.sha256}",
            hint="firmware places the PCI windows that the tables name: take the build that the shape names",
        )
    key = CaptureKey(
        version, hashlib.sha256(_read(program)).hexdigest(), digest, table_inputs(shape), command_of(shape)
    )
    cache = AcpiCache() if cache is None else cache
    found = cache.find(key)
    if found is None:
        found = _captured(shape, program, firmware, key, seconds)
        cache.keep(key, found)
    return found.model_copy(update={"shape": shape.name})


def require_version(shape: Shape, program: Path) -> str:
    """The version of a QEMU, which has to be the one that a shape names, as far as it names it.

    Raises:
        MachineError: It is another one, or the shape names none.
        HostError: It says no version.
    """
    if shape.qemu is None:
        raise MachineError(f"shape {shape.name} names no QEMU: a cloud's tables cannot be captured")
    version = qemu_release(str(program))
    if tuple(map(int, version.split(".")))[: len(shape.qemu.numbers)] != shape.qemu.numbers:
        raise MachineError(
            f"{program} is QEMU {version}, shape {shape.name} names {shape.qemu.version}",
            hint="tables change with QEMU's version: give the binary of that one, or take its captured tables",
        )
    if shape.gpus and shape.qemu.numbers < GPUS_SINCE:
        raise MachineError(
            f"shape {shape.name} has GPUs and names QEMU {shape.qemu.version}, which takes no stand-in for one",
            hint=f"QEMU {'.'.join(map(str, GPUS_SINCE))} and later do",
        )
    return version


def command_of(shape: Shape) -> tuple[str, ...]:
    """What is started for a shape, as a capture says it: in the machine's own directory.

    Raises:
        MachineError: The shape is no machine that can be started.
    """
    return _shown(_command(_stand_in(shape, _ANYWHERE)), _ANYWHERE)


def _captured(
    shape: Shape, program: Path, firmware: tuple[Path, Path | None], key: CaptureKey, seconds: float
) -> Captured:
    with tempfile.TemporaryDirectory(prefix="chrysalis-acpi-") as name:
        directory = Path(name)
        machine = _prepare(shape, directory, firmware)
        command = _command(machine)
        begun = time.monotonic()
        with _running(machine, program, command, seconds) as qemu:
            try:
                tables = _read_tables(directory, qemu, seconds)
            except ControlError:
                if qemu.wait(FORCE_S):
                    raise LaunchError(f"QEMU ended; QEMU said: {_words(directory)}") from None
                raise
        log.info("acpi captured", name=shape.name, seconds=round(time.monotonic() - begun, 1))
    if b"MCFG" not in tables.tables:
        raise LaunchError(
            f"firmware selected the tables of shape {shape.name} before it had programmed PCI Express",
            hint="such tables are no booted machine's: is it the firmware that the shape names?",
        )
    return Captured(
        qemu=key.qemu,
        qemu_sha256=key.qemu_sha256,
        machine=machine.machine_type,
        firmware_sha256=key.firmware_sha256,
        shape=shape.name,
        inputs=key.inputs,
        command=_shown(command, directory),
        tables=tables,
    )


def _prepare(shape: Shape, directory: Path, firmware: tuple[Path, Path | None]) -> Machine:
    """The machine that stands in, with its files in a fresh directory."""
    with (directory / _DISK).open("wb") as handle:
        handle.truncate(_MIB)
    machine = _stand_in(shape, directory)
    names = {"none": ("OVMF_CODE.fd", "OVMF_VARS.fd"), "tdx": ("OVMF.fd",), "snp": ("OVMF.amdsev.fd",)}
    for wanted, path in zip(names[machine.protection], firmware, strict=False):
        if path is None:
            raise MachineError(f"shape {shape.name} takes firmware as code and variables, one file is given")
        (directory / wanted).write_bytes(_read(path))
    write_files(machine)
    return machine


def _stand_in(shape: Shape, directory: Path) -> Machine:
    return stand_in_of(shape, directory=directory, image=directory, disk=directory / _DISK)


def _shown(command: list[str], directory: Path) -> tuple[str, ...]:
    """A command without the directory that it runs in."""
    return tuple(word.replace(f"{directory}/", "") for word in command)


def _command(machine: Machine) -> list[str]:
    """The machine's own command, with a test socket and a trace of what is selected."""
    return [
        *qemu_command(machine),
        *("-qtest", f"unix:{_SOCKET},server=on,wait=off", "-qtest-log", "/dev/null"),
        *("-trace", "enable=fw_cfg_select", "-D", _TRACE),
        "-S",  # the keys of the files are asked for before firmware runs
    ]


@contextmanager
def _running(machine: Machine, program: Path, command: list[str], seconds: float) -> Iterator[ProcessIdentity]:
    """QEMU, its TPM and its GPUs; all have ended when the context is left."""
    directory = machine.directory
    swtpm = None
    if machine.tpm and machine.protection == "none":
        (directory / FILES.tpm_state).mkdir(mode=0o700)
        swtpm = start_swtpm(directory, lambda _command: None)
    gpus = ExitStack()
    try:
        for port in root_ports(machine):
            gpus.enter_context(GpuStandIn(directory, stand_in_socket(port)))
        limited = [str(find_program("timeout")), f"--kill-after={FORCE_S}", f"{seconds + STOP_S:g}"]
        process = spawn(
            [*limited, str(program.resolve()), *command[1:]], directory=directory, log=directory / FILES.qemu_log
        )
        qemu = keep(process)
        try:
            yield qemu
        finally:
            qemu.end(STOP_S)
    finally:
        gpus.close()
        if swtpm is not None and not swtpm.wait(STOP_S):  # it ends with QEMU
            swtpm.end(STOP_S)


def _read_tables(directory: Path, qemu: ProcessIdentity, seconds: float) -> AcpiTables:
    """What firmware reads. The machine is stopped then and does not go on: the device's position is one for all."""
    limit = time.monotonic() + seconds
    _await(directory, qemu, limit, "QEMU opened no socket", (directory / _SOCKET).exists)
    with Qtest(directory, _SOCKET) as qtest:
        files = qtest.configuration_files()
        if missing := [name for name in (TABLES, ROOT, LOADER) if name not in files]:
            raise ControlError(f"QEMU's configuration device has no {', '.join(missing)}")
        _control(directory, "cont")
        trace, selected = directory / _TRACE, f" key {files[TABLES][0]:#06x} ".encode()
        _await(directory, qemu, limit, "firmware did not read the tables", lambda: selected in trace.read_bytes())
        _control(directory, "stop")
        tables, rsdp, loader = (qtest.configuration_item(*files[name]) for name in (TABLES, ROOT, LOADER))
    return AcpiTables(tables, rsdp, loader)


def _control(directory: Path, command: str) -> None:
    with Control(directory) as control:
        control.ask(command)


def _await(directory: Path, qemu: ProcessIdentity, limit: float, what: str, there: Callable[[], bool]) -> None:
    """Until something is there."""
    while not there():
        alive = qemu.alive
        if not alive or time.monotonic() > limit:
            raise LaunchError(f"{what if alive else 'QEMU ended'}; QEMU said: {_words(directory)}")
        time.sleep(POLL_S)


def _words(directory: Path) -> str:
    return tail(directory / FILES.qemu_log, 8) or "nothing"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MachineError(f"{path}: {error.strerror}") from None
