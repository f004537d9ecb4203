"""What ``measure`` reads: artefacts, shapes, tables, evidence, logs, from files as they were named.

In: paths and texts of options. Out: the values that :mod:`measurements` takes. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from appliance.cli.judging import read_file
from appliance.config.load import load
from appliance.config.models import MeasuredConfig
from appliance.errors import ConfigError
from attestation.errors import EvidenceError
from attestation.reported import Reported, reported, tdx_events
from attestation.tdx_log import TdxLog
from measurements import acpi_file, prediction_file, shape_library
from measurements.artefacts import Artefacts, PlainKernel
from measurements.errors import EventLogError, MeasurementError
from measurements.eventlog import parse_tcg2
from measurements.explain import register_index
from measurements.register_file import parse_registers
from measurements.shape import MAX_SHAPE_BYTES, ShapeError, parse_shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from measurements.acpi import AcpiTables
    from measurements.acpi_file import Captured
    from measurements.eventlog import EventLog
    from measurements.prediction import Prediction
    from measurements.shape import Shape

MAX_ARTEFACT_BYTES: Final = 1 << 30
DISK_BYTES: Final = 1 << 20
"""How much of a disk is read: its partition table lies in the first 34 sectors."""

_FILES: Final = {"image": "chrysalis.efi", "disk": "chrysalis.raw"}
_FIRMWARE: Final = {
    "tdx": {"firmware": "OVMF.fd"},
    "snp": {"firmware": "OVMF.amdsev.fd"},
    "tpm": {"firmware_code": "OVMF_CODE.fd", "firmware_variables": "OVMF_VARS.fd"},
}
"""What a machine of each platform measures of a release's directory."""
_IMAGE_HINT: Final = "name the directory of a built release, as chrysalis image build says it, or one image's file"
_SHAPE_HINT: Final = "docs/shapes.md shows one"
_BUNDLE_HINT: Final = "name a bundle's file; chrysalis attest collect makes one"
_REGISTERS_HINT: Final = "--registers names a file of values, JSON or as tpm2_pcrread prints them"
_LOG_HINT: Final = "name an event log (binary_bios_measurements, data/CCEL), or a bundle with one"
_COMPARED_HINT: Final = "name a prediction (predict --json), a bundle, a log or a file of registers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Options that name artefacts; None is what was not given.

    Attributes:
        image: A release's directory, or one image.
        firmware: One firmware file, or the code where variables are apart.
        variables: The file of firmware variables.
        kernel: A plain kernel.
        initrd: Its initrd.
        command_line: Its command line.
        disk: A disk, of which the beginning is read.
        acpi: A capture of ACPI tables.
        configuration: A measured configuration, or 64 hex digits.
    """

    image: Path | None = None
    firmware: Path | None = None
    variables: Path | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    command_line: str | None = None
    disk: Path | None = None
    acpi: Path | None = None
    configuration: str | None = None


def shape_of(text: str) -> Shape:
    """A shape of the library by its name, or one from a file.

    Raises:
        ConfigError: Neither of them.
        ShapeError: The file, which is named, is no shape.
    """
    if text in shape_library.names():
        return shape_library.shape(text)
    path = Path(text)
    if not path.is_file():
        known = ", ".join(shape_library.names())
        raise ConfigError(f"no shape is called {text!r}, and no file is", hint=f"the library has {known}")
    data = read_file(path, limit=MAX_SHAPE_BYTES, hint=f"--shape names a shape's file; {_SHAPE_HINT}")
    try:
        return parse_shape(data.decode("utf-8", "replace"))
    except ShapeError as error:
        raise ShapeError(f"{path}: {error.message}", hint=error.hint or _SHAPE_HINT) from None


def library() -> tuple[Shape, ...]:
    """Every shape of the library."""
    return tuple(shape_library.shape(name) for name in shape_library.names())


def artefacts_of(given: Given, shape: Shape) -> Artefacts:
    """What a machine of a shape boots.

    Raises:
        ConfigError: A file cannot be read, or a directory has none of a release's files.
        MeasurementError: The capture of tables is none.
    """
    found: dict[str, Any] = {}
    apart = "firmware_variables" in _FIRMWARE.get(shape.platform, {})
    if given.image is not None and given.image.is_dir():
        found |= _of_release(given.image, shape)
    elif given.image is not None:
        found["image"] = _content(given.image, _IMAGE_HINT)
    if given.kernel is not None:
        initrd = None if given.initrd is None else _content(given.initrd, "--initrd names a kernel's initrd")
        content = _content(given.kernel, "--kernel names a plain kernel's file")
        kernel = PlainKernel(kernel=content, initrd=initrd, command_line=given.command_line or "")
        found |= {"kernel": kernel, "image": None}
    elif given.initrd is not None or given.command_line is not None:
        raise ConfigError("--initrd and --command-line belong to --kernel", hint="an image has its own")
    if given.firmware is not None:
        firmware = _content(given.firmware, "--firmware names one firmware file, or its code")
        found["firmware_code" if apart else "firmware"] = firmware
    if given.variables is not None:
        found["firmware_variables"] = _content(given.variables, "--variables names the file of firmware variables")
    if given.disk is not None:
        found["disk"] = _beginning(given.disk, "--disk names the disk's file")
    if given.configuration is not None:
        found["measured_config"] = configuration_digest(given.configuration)
    if given.acpi is not None:
        hint = "--acpi names a capture of tables, as chrysalis measure acpi makes it"
        found["acpi"] = acpi_file.parse(read_file(given.acpi, limit=acpi_file.MAX_FILE_BYTES, hint=hint)).tables
    else:
        found["acpi"] = Tables.of_library().find(shape)
    return Artefacts(**found)


def _of_release(directory: Path, shape: Shape) -> dict[str, bytes]:
    """What is there of a release's files; a directory with none of them is another one than was meant."""
    files = {**_FILES, **_FIRMWARE.get(shape.platform, {})}
    there = {name: directory / file for name, file in files.items() if (directory / file).is_file()}
    if not there:
        raise ConfigError(
            f"{directory} has none of a release's files, expected {', '.join(files.values())}", hint=_IMAGE_HINT
        )
    return {
        name: (_beginning if name == "disk" else _content)(path, "a release's file has to be readable")
        for name, path in there.items()
    }


def configuration_digest(text: str) -> bytes:
    """Digest of a measured configuration: of a file, or the 64 hex digits themselves.

    Raises:
        ConfigError: Neither of them.
    """
    if len(text) == 64:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    return load(Path(text), MeasuredConfig).digest()


def model_digest(configuration: str, model: str) -> bytes:
    """Digest of a measured configuration with another model's name.

    Raises:
        ConfigError: The configuration is not a file, or cannot be read.
    """
    path = Path(configuration)
    if not path.is_file():
        raise ConfigError(
            "a model's digest needs the measured configuration as a file", hint="--configuration measured.toml"
        )
    return load(path, MeasuredConfig).model_copy(update={"model": model}).digest()


@dataclass(frozen=True, slots=True)
class Tables:
    """ACPI tables of any shape: those of the library's shape with the same machine, else captured here, else none.

    Attributes:
        known: Names of the library's shapes by what of them moves tables.
        firmware: Directory with the firmware, where QEMU may be started to capture what the library does not have.
        qemu: The binary that is started then; the installed one by default.
    """

    known: Mapping[str, str]
    firmware: Path | None = None
    qemu: Path | None = None

    @classmethod
    def of_library(cls, firmware: Path | None = None, qemu: Path | None = None) -> Tables:
        """With the shapes of the library; arguments as the attributes."""
        return cls({acpi_file.table_inputs(shape): shape.name for shape in library()}, firmware, qemu)

    def find(self, shape: Shape) -> AcpiTables | None:
        """Those of one shape."""
        if shape.qemu is None:
            return None
        name = self.known.get(acpi_file.table_inputs(shape))
        tables = None if name is None else shape_library.acpi(name)
        return self._captured(shape) if tables is None and self.firmware is not None else tables

    def _captured(self, shape: Shape) -> AcpiTables | None:
        from appliance.host.errors import HostError  # noqa: PLC0415 - only this starts machines

        try:
            return captured(shape, self.firmware or Path(), self.qemu).tables
        except (HostError, MeasurementError):
            return None  # another QEMU is installed, or no machine is like that: it is one change less that is tried


def captured(shape: Shape, firmware: Path, qemu: Path | None) -> Captured:
    """Tables of a shape by starting its QEMU, or from an earlier start of the same one.

    Args:
        shape: The machine.
        firmware: Directory with the firmware.
        qemu: The binary; the installed one by default.

    Raises:
        HostError: QEMU or firmware is missing or not the shape's, or does not get as far.
    """
    from appliance.host.acpi_capture import capture  # noqa: PLC0415 - only this starts machines

    names = tuple(_FIRMWARE[shape.platform].values()) if shape.platform in _FIRMWARE else ("OVMF.fd",)
    files = (firmware / names[0], firmware / names[1] if len(names) > 1 else None)
    return capture(shape, firmware=files, qemu=qemu)


def evidence_of(
    path: Path | None, registers: Path | None, log: Path | None
) -> tuple[dict[str, bytes], EventLog | None]:
    """What a machine reported: a bundle's registers and log, or files of values and of a log.

    Raises:
        ConfigError: Neither is given, or a file cannot be read.
        EvidenceError: The bundle is none.
        MeasurementError: The values or the log are none.
    """
    if (path is None) == (registers is None):
        raise ConfigError(
            "either a bundle or --registers says what the machine reports",
            hint="chrysalis attest collect makes a bundle; tpm2_pcrread prints registers",
        )
    values: dict[str, bytes] = {}
    found: EventLog | None = None
    if path is not None:
        shown = reported(read_file(path, hint=_BUNDLE_HINT))
        values, found = dict(shown.values), shown.log
    elif registers is not None:
        values = parse_registers(read_file(registers, hint=_REGISTERS_HINT))
    return values, found if log is None else log_of(log)[0]


def log_of(path: Path) -> tuple[EventLog, Reported | None]:
    """An event log: a TCG2 or CCEL log, a TDX machine's in our form, or that of a bundle, with what it reports.

    Raises:
        ConfigError: The file cannot be read.
        EventLogError: It is nothing of these, or longer than a log may be: none is cut.
    """
    data = read_file(path, hint=_LOG_HINT)
    try:
        return parse_tcg2(data), None
    except EventLogError as error:
        refused = error
    for read in (_of_tdx_log, _of_evidence):
        try:
            return read(data)
        except EvidenceError:
            continue
    raise EventLogError(
        f"{path}: {refused.message}",
        hint="expected a TCG2 or CCEL log (binary_bios_measurements, data/CCEL) or a bundle with one",
    )


def _of_tdx_log(data: bytes) -> tuple[EventLog, None]:
    return tdx_events(TdxLog.parse(data)), None


def _of_evidence(data: bytes) -> tuple[EventLog, Reported]:
    found = reported(data)
    if found.log is None:
        raise EvidenceError("evidence without an event log")
    return found.log, found


def comparable(path: Path) -> tuple[Prediction, EventLog | None]:
    """A prediction, a bundle, a log or a file of registers, in the one form of predictions; with its log if it has one.

    Raises:
        ConfigError: The file cannot be read.
        MeasurementError: It is nothing of these.
    """
    data = read_file(path, hint=_COMPARED_HINT)
    if data.lstrip().startswith(b"{"):
        try:
            return prediction_file.parse_prediction(data), None
        except prediction_file.PredictionFileError as error:
            if prediction_file.SCHEMA.encode() in data:
                raise MeasurementError(f"{path}: {error.message}") from None
            return prediction_file.of_values(parse_registers(data)), None
    try:
        log, shown = log_of(path)
    except EventLogError as error:
        try:
            return prediction_file.of_values(reported(data).values), None
        except EvidenceError:
            pass
        try:
            return prediction_file.of_values(parse_registers(data)), None
        except MeasurementError:
            raise error from None
    return prediction_file.of_log(log, names_of(log), None if shown is None else shown.values), log


def names_of(log: EventLog) -> dict[int, str]:
    """Names of the registers that a log extends: a CCEL log has SHA-384 alone."""
    confidential = set(log.banks) == {"sha384"}
    kinds = [f"rtmr{i}" for i in range(4)] if confidential else [f"pcr{i}" for i in range(24)]
    return {index: name for name in kinds if (index := register_index(name)) is not None}


def _content(path: Path, hint: str) -> bytes:
    return read_file(path, limit=MAX_ARTEFACT_BYTES, hint=hint)


def _beginning(path: Path, hint: str) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(DISK_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint=hint) from None
