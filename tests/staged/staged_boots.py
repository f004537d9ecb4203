"""A booted image, changed in one way: what is changed, and the evidence that the machine then gives of itself.

A boot ends as soon as the status port has answered with evidence; what the guest would do afterwards moves nothing.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tomli_w
from machine_texts import HOST, MEASURED, OWNER

from appliance.config import MeasuredConfig
from appliance.host import launch, running
from appliance.host.errors import LaunchError, NotReadyError
from appliance.host.machine import STATUS_PORT, Configuration, Machine
from appliance.host.readiness import get_bytes
from appliance.lab.demo_guest import HOST_FROM_GUEST, KERNEL_FAULT
from appliance.lab.tpm_world import TpmWorld
from measurements import pe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from measurements.shape import Boot

START_S = 600.0
POLL_S = 1.0
RESTARTS = 2
EVIDENCE = "/v1/attestation?nonce=" + "5e" * 32
CPUS, MEMORY_MIB = 2, 2048
FILE_ALIGNMENT, MEMORY_ALIGNMENT = 512, 4096
LINKED = ("OVMF_CODE.fd", "OVMF_VARS.fd", "chrysalis.efi", "chrysalis.raw")


@dataclass(kw_only=True)
class Site:
    """The files and settings of one machine; a change alters them before it starts.

    Attributes:
        directory: The machine's own.
        image: The image's directory; changed files are put into a directory of links beside it.
        measured: The measured configuration.
        options: Of the machine, over the usual ones.
    """

    directory: Path
    image: Path
    measured: dict[str, Any] = field(default_factory=lambda: dict(MEASURED))
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = self.directory / "image"
        self.files.mkdir(parents=True)
        for name in LINKED:
            (self.files / name).symlink_to(self.image / name)
        self.model = self.directory / "model.volume"
        self.model.write_bytes(bytes(1 << 20))

    def replace(self, name: str, content: bytes) -> None:
        """Another file in the place of one of the image's."""
        (self.files / name).unlink()
        (self.files / name).write_bytes(content)

    @property
    def uki(self) -> bytes:
        """The unified kernel image as it is now."""
        return (self.files / "chrysalis.efi").read_bytes()

    def machine(self, boot: str, authority: int) -> Machine:
        """The machine that these files make; ``authority`` is the port of who certifies its TPM's key."""
        host = HOST | {"attestation_ca": f"http://{HOST_FROM_GUEST}:{authority}"}
        texts = Configuration(
            measured=tomli_w.dumps(self.measured), owner=tomli_w.dumps(OWNER), host=tomli_w.dumps(host)
        )
        values: dict[str, Any] = {
            "name": f"staged-{secrets.token_hex(3)}",
            "directory": self.directory / "vm",
            "image": self.files,
            "cpus": CPUS,
            "memory_mib": MEMORY_MIB,
            "boot": boot,
            "configuration": texts,
            "model": self.model,
        }
        return Machine(**(values | self.options))


def config_digest(measured: dict[str, Any]) -> bytes:
    """Digest of a measured configuration, as the guest binds it."""
    return MeasuredConfig.model_validate(measured).digest()


async def boot(site: Site, kind: Boot, tell: Callable[[str], None] = lambda _line: None) -> bytes:
    """Start a machine, take its bundle, end it. Emulated kernels fault now and then: then it is started again.

    Raises:
        NotReadyError: No evidence within :data:`START_S`.
    """
    world = TpmWorld(site.directory / "world")
    async with world.serve() as authority:
        machine = site.machine(kind, authority)
        for attempt in range(1 + RESTARTS):
            vm = await launch.start(machine, tell=tell, prepare_tpm=world.prepare_swtpm)
            try:
                return await _evidence(vm)
            except LaunchError:
                faulted = KERNEL_FAULT.search(vm.console.read_text(errors="replace"))
                if attempt == RESTARTS or faulted is None:
                    raise
                tell("the kernel faulted under emulation; once more")
            finally:
                await vm.stop(0)
                await running.delete(vm)
    raise NotReadyError("no evidence")


async def _evidence(vm: launch.RunningVm) -> bytes:
    limit = time.monotonic() + START_S
    while True:
        alive = vm.alive
        try:
            return await asyncio.to_thread(get_bytes, vm.forwards[STATUS_PORT], EVIDENCE, 60.0)
        except NotReadyError as error:
            if not alive:
                raise LaunchError(f"the machine ended; it said:\n{vm.tail()}") from None
            if time.monotonic() > limit:
                raise NotReadyError(f"no evidence: {error.message}; the machine said:\n{vm.tail()}") from None
        await asyncio.sleep(POLL_S)


def with_section(image: bytes, name: str, content: bytes) -> bytes:
    """An image whose section holds something else: within the room that the file has for it, or, the last, beyond.

    Lengths in the file and in memory follow; nothing else of the headers changes.
    """
    parsed = pe.parse(image)
    found = next(section for section in parsed.sections if section.name == name)
    room = found.raw_size
    if found.raw_offset + room == len(image):
        room = max(room, len(content) + -len(content) % FILE_ALIGNMENT)
    assert len(content) <= room
    table = image.index(name.encode().ljust(8, b"\0"), parsed.checksum, parsed.headers_size)
    headers = bytearray(image[: found.raw_offset])
    struct.pack_into("<III", headers, table + 8, len(content), found.virtual_address, room)
    end = max(section.virtual_address + section.virtual_size for section in pe.parse(bytes(headers) + image).sections)
    struct.pack_into("<I", headers, parsed.checksum - 8, end + -end % MEMORY_ALIGNMENT)  # SizeOfImage
    return bytes(headers) + content.ljust(room, b"\0") + image[found.raw_offset + found.raw_size :]


def section(image: bytes, name: str) -> bytes:
    """A section's content as it is in memory."""
    found = next(section for section in pe.parse(image).sections if section.name == name)
    return image[found.raw_offset : found.raw_offset + found.virtual_size]


def cpio(name: str, content: bytes) -> bytes:
    """An archive with one file, which a kernel unpacks over the initrd before it ("newc")."""

    def entry(name: str, data: bytes, mode: int) -> bytes:
        numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % number for number in numbers) + name.encode() + b"\0"
        return (head + bytes(-len(head) % 4)) + data + bytes(-len(data) % 4)

    return entry(name, content, 0o100444) + entry("TRAILER!!!", b"", 0)


def remove(directory: Path) -> None:
    """Delete what a boot left; a disk of a few hundred MiB may be among it."""
    shutil.rmtree(directory, ignore_errors=True)
