"""A synthetic TDX machine that boots files: it measures them itself and quotes what it measured.

In: what a host starts (files, shape, what else it hands over). Out: the registers and the CCEL log of that boot, which
:meth:`TdxMachine.world` turns into a machine with real-format quotes. What is measured, and in which order, is written
here from the sources of firmware, stub and kernel, and none of it with the predictors of ``measurements``: where both
agree, two readings of the same sources do.

Sources: EDK II ``OvmfPkg/Tcg/TdTcg2Dxe`` and ``OvmfPkg/IntelTdx/TdxHelperLib`` (RTMR0, RTMR1),
``SecurityPkg/Library/DxeImageVerificationLib`` (which key a signature was accepted for),
``OvmfPkg/Library/PlatformBootManagerLib`` (a monitor's kernel is loaded before firmware is ready to boot); systemd 257
``src/boot/stub.c`` (RTMR2; nothing is taken from SMBIOS in a confidential guest) and ``src/boot/secure-boot.c`` (with
secure boot the kernel is not measured again); Linux 6.12 ``efi-stub-helper.c``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from appliance.lab import tdx_machine_image as files
from appliance.lab import tdx_machine_memory as memory
from appliance.lab.errors import LabError
from appliance.lab.firmware_variables import GLOBAL, SECURITY_DATABASE, Variable, read
from appliance.lab.tdx_machine_options import boot_options
from appliance.lab.tee import SyntheticTdx
from appliance.lab.tee_log import SEPARATOR, Boot, Measured
from attestation.tdx_log import ZERO, TdxLog, extend
from measurements.eventlog import Event, EventLog, encode_tcg2

if TYPE_CHECKING:
    from measurements.artefacts import Artefacts
    from measurements.shape import Shape

FIRST_INTERLEAVED = (9,)
"""QEMU 8 with the early patches for TDX adds all pages of a section before it measures them."""

FIRST_UNTOUCHED = (10, 2)
"""From here on QEMU leaves the kernel of a confidential machine as it is."""

CALLING = b"Calling EFI Application from Boot Option"
LEAVING = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
_POLICY = (("SecureBoot", GLOBAL), ("PK", GLOBAL), ("KEK", GLOBAL), ("db", SECURITY_DATABASE),
           ("dbx", SECURITY_DATABASE))  # fmt: skip
_HANDOFF, _BLOB, _CONFIG, _VARIABLE, _BOOT, _AUTHORITY = 0x8000000B, 0x8000000A, 0xA, 0x80000001, 0x80000002, 0x800000E0
_APPLICATION, _ACTION, _GPT, _SEPARATOR, _IPL, _TAG = 0x80000003, 0x80000007, 0x80000006, 4, 0xD, 6
_LISTS = 28
"""EFI_SIGNATURE_LIST's head in bytes: what stands in ``db`` before its first certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxMachine:
    """What a host starts.

    Attributes:
        artefacts: Firmware in one file, the unified kernel image (or, handed over by the monitor, a plain kernel and
            its initrd), the disk, ACPI tables, the configuration's digest.
        shape: Memory, kind of boot, version of the monitor.
        checks_signatures: Whether the firmware was built with secure boot (its file says so in compressed code only).
        smbios: Strings of SMBIOS type 11 that the host hands over. No code of a confidential guest takes anything from
            them, so none here does: that they move nothing is the statement.
    """

    artefacts: Artefacts
    shape: Shape
    checks_signatures: bool = False
    smbios: tuple[str, ...] = ()

    def boot(self) -> Boot:
        """Start it: every register that is not zero, and the log.

        Raises:
            LabError: A file is missing or is none that could be started.
        """
        values = {f"rtmr{number}": ZERO for number in range(4)}
        events = []
        for item in self._measured():
            name = f"rtmr{item.register}"
            values[name] = extend(values[name], item.digest)
            events.append(Event(item.register + 1, item.kind, {"sha384": item.digest}, item.data))
        log = encode_tcg2(EventLog(("sha384",), tuple(events)), register=1)
        two_passes = self.shape.qemu is not None and self.shape.qemu.numbers < FIRST_INTERLEAVED
        values["mr_td"] = memory.mrtd(self._need("firmware"), two_passes=two_passes)
        values["mr_config_id"] = (self.artefacts.measured_config or b"").ljust(48, b"\0")
        return Boot(TdxLog(log), values)

    def world(self, **options: Any) -> SyntheticTdx:
        """The machine as it runs: it quotes what it measured. Options as :class:`SyntheticTdx` takes them."""
        return SyntheticTdx(booted=self.boot(), **options)

    def _measured(self) -> list[Measured]:
        """Everything in the order of time."""
        variables = read(self._need("firmware"))
        secure = self.checks_signatures and "PK" in variables
        direct = self.shape.boot == "direct"
        image = self._need("image") if self.artefacts.kernel is None else None
        started = (
            [self._kernel()] if image is None else [*self._authority(image, variables, secure=secure), _image(image)]
        )
        found = [*self._firmware(variables, secure=secure), *self._tables(), *(started if direct else ())]
        found += [Measured(0, _BOOT, option.data, option.measured) for option in boot_options(self.shape.boot)]
        found += [Measured(1, _ACTION, CALLING, CALLING), Measured(1, _SEPARATOR, SEPARATOR, SEPARATOR)]
        if not direct:
            table = files.partition_table(self._need("disk"))
            found += [Measured(1, _GPT, table, table), *started]
        found += self._handed() if image is None else _stub(files.contents(image), secure=secure)
        return [*found, *(Measured(1, _ACTION, text, text) for text in LEAVING)]

    def _kernel(self) -> Measured:
        """A plain kernel as the monitor's version hands it over."""
        kernel, qemu = self.artefacts.kernel, self.shape.qemu
        if kernel is None or kernel.initrd is None or qemu is None:
            raise LabError("a plain kernel without an initrd or a monitor")
        if qemu.numbers >= FIRST_UNTOUCHED:
            return _image(kernel.kernel)
        low = memory.low_memory(self.shape.memory_mib << 20)
        return _image(files.handed_over(kernel.kernel, len(kernel.initrd), low))

    def _handed(self) -> list[Measured]:
        """What a plain kernel is handed; firmware adds the name of the initrd that it serves."""
        kernel = self.artefacts.kernel
        if kernel is None or kernel.initrd is None:
            raise LabError("a plain kernel without an initrd")
        return _by_kernel(kernel.command_line + " initrd=initrd", kernel.initrd)

    def _firmware(self, variables: dict[str, Variable], *, secure: bool) -> list[Measured]:
        """What firmware measures of its surroundings before it uses any of it."""
        firmware = self._need("firmware")
        parts = memory.sections(firmware)
        volume = next(part for part in parts if part.kind == memory.CONFIGURATION_VOLUME)
        place = volume.address.to_bytes(8, "little") + volume.size.to_bytes(8, "little")
        described = memory.handoff_list(self.shape.memory_mib << 20, parts)
        found = [
            Measured(0, _HANDOFF, described, b"\x09TdxTable\0" + (1).to_bytes(8, "little") + bytes(24)),
            Measured(0, _BLOB, volume.content.ljust(volume.size, b"\0"), b"\x29Fv(CFV)".ljust(42, b"\0") + place),
        ]
        for name, vendor in _POLICY:
            variable = variables.get(name, Variable(name, vendor, b""))
            if name == "SecureBoot" and self.checks_signatures:
                variable = Variable(name, vendor, b"\1" if secure else b"\0")
            found.append(Measured(0, _VARIABLE, variable.measured, variable.measured))
        return [*found, Measured(0, _SEPARATOR, SEPARATOR, SEPARATOR)]

    def _tables(self) -> list[Measured]:
        """ACPI tables as the monitor supplies them: the script that links them first, then the files that it names."""
        acpi = self.artefacts.acpi
        if acpi is None:
            raise LabError("a machine without ACPI tables")
        return [Measured(0, _CONFIG, blob, b"ACPI DATA") for blob in (acpi.loader, acpi.rsdp, acpi.tables)]

    def _authority(self, image: bytes, variables: dict[str, Variable], *, secure: bool) -> list[Measured]:
        """The entry of ``db`` that an image's signature was accepted for."""
        if not secure:
            return []
        entry = variables["db"].data[_LISTS:]
        if entry[16:] not in files.certificates(image):
            raise LabError("firmware refuses the image: no key of db signed it")
        accepted = Variable("db", SECURITY_DATABASE, entry).measured
        return [Measured(0, _AUTHORITY, accepted, accepted)]

    def _need(self, name: str) -> bytes:
        content: bytes | None = getattr(self.artefacts, name)
        if content is None:
            raise LabError(f"a machine without {name}")
        return content


def _image(image: bytes) -> Measured:
    """An image that firmware loaded (EFI_IMAGE_LOAD_EVENT; where it lay is of this run alone)."""
    place = (0x7D00_0000).to_bytes(8, "little") + len(image).to_bytes(8, "little") + bytes(16)
    return Measured(1, _APPLICATION, files.signed_content(image), place)


def _stub(parts: dict[str, bytes], *, secure: bool) -> list[Measured]:
    """What an image's stub measures, then the kernel in it, which firmware measures unless it checks signatures."""
    found = []
    for name in files.STUB_ORDER:
        if name in parts:
            shown = files.load_options(name)
            found += [Measured(2, _IPL, name.encode() + b"\0", shown), Measured(2, _IPL, parts[name], shown)]
    if not secure:
        found.append(_image(parts[".linux"]))
    return found + _by_kernel(files.command_line(parts), files.initrd(parts))


def _by_kernel(command_line: str, initrd: bytes) -> list[Measured]:
    """What the kernel measures itself: its load options and its initrd."""
    return [
        Measured(2, _TAG, files.load_options(command_line), b"\xed\x22\x3b\x8f\x1a\0\0\0LOADED_IMAGE::LoadOptions\0"),
        Measured(2, _TAG, initrd, b"\xec\x22\x3b\x8f\x0d\0\0\0Linux initrd\0"),
    ]
