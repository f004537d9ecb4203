"""The keys stage: whatever the services need to make evidence with, each in a directory of its own.

A TPM machine makes its attestation key (null hierarchy: it dies with this boot), has it certified by credential
activation, and leaves its logs where services without privileges may read them. A TDX machine opens the kernel's report
interface to them and leaves firmware's log. Keys for TLS are made by the services themselves and never touch a file.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import fields
from typing import TYPE_CHECKING, Final, TypeVar

from appliance.boot.platform import DIRECTORY, TSM, WITH_TPM, Attestable, publish
from appliance.boot.stages import write_atomically
from attestation import tdx_log_files
from attestation.platforms.tpm import CHAIN_FILE, Tpm
from attestation.tpm import logs

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.boot.platform import Found
    from appliance.boot.system import System

SERVICES: Final = ("worker", "status")
Files = TypeVar("Files", logs.LogFiles, tdx_log_files.LogFiles)


async def make(
    system: System,
    found: Found,
    *,
    authority: str | None,
    users: dict[str, tuple[int, int]],
    tcti: str | None = None,
) -> None:
    """Make the machine ready to be attested.

    Args:
        system: The machine.
        found: Its platform.
        authority: Who certifies a TPM's attestation key.
        users: User and group numbers of :data:`SERVICES`.
        tcti: Another TPM than the kernel's, as its tools name it.

    Raises:
        CollectionError: No key, the authority gives no certificate, or firmware's log is none.
        OSError: A file cannot be handed on.
    """
    publish(system, Attestable(found.name, found.source("status"), authority))
    if found.name in WITH_TPM:
        base = system.path(DIRECTORY)
        for name in SERVICES:
            _own_directory(base / name, users[name])
        write_atomically(base / logs.SNAPSHOT.name, logs.gather(_on(system, logs.LogFiles())).encode(), 0o444)
        if authority is None or found.name != "tpm":  # clouds certify their TPMs' keys themselves
            return
        own = base / "boot"
        await Tpm(tcti, own, authority).prepare()
        for name in SERVICES:
            write_atomically(base / name / CHAIN_FILE, (own / CHAIN_FILE).read_bytes(), 0o400, owner=users[name])
        shutil.rmtree(own)
        return
    if found.name in {"tdx", "snp"} and system.path(TSM).exists():  # older kernels have their devices alone
        # Each service makes an entry of its own below; configfs gives an entry to whoever made it.
        system.path(TSM).chmod(0o1777)
    if found.name == "tdx":
        tdx_log_files.keep_firmware_log(_on(system, tdx_log_files.LogFiles()))


def _on(system: System, files: Files) -> Files:
    """The same files on that machine."""
    return type(files)(**{field.name: system.path(str(getattr(files, field.name))) for field in fields(files)})


def _own_directory(path: Path, user: tuple[int, int]) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    os.chown(path, *user)
