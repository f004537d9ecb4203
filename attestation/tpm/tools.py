"""A TPM by way of tpm2-tools: one method a job, values in and out; the tools' files live in a private directory.

The tools talk to the kernel's resource manager by default; another transport (a software TPM's socket) is named as a
TCTI, and then what the tools leave loaded is flushed here, because nobody else does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from attestation.errors import CollectionError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_log = structlog.get_logger(__name__)
DEVICE = "device:/dev/tpmrm0"
TIMEOUT_S = 120.0
_MAX_OUTPUT = 1024 * 1024
_UNMANAGED = ("swtpm", "mssim", "device:/dev/tpm0", "cmd")
_ATTESTATION_ATTRIBUTES = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|sign"


class TpmTools:
    """One TPM.

    Args:
        tcti: As tpm2-tools take it, for example ``swtpm:path=/run/tpm.sock``; the kernel's resource manager by default.
        directory: For the tools' files, made with mode 0700 if need be.
        timeout: Seconds for one tool.
    """

    def __init__(self, tcti: str | None, directory: Path, *, timeout: float = TIMEOUT_S) -> None:
        self.tcti = tcti or DEVICE
        self._directory = directory
        self._timeout = timeout
        self._managed = not self.tcti.startswith(_UNMANAGED)

    async def registers(self, which: Sequence[int]) -> tuple[bytes, ...]:
        """Values of SHA-256 registers.

        Raises:
            CollectionError: No TPM, no such bank, or a tool fails; so does every method.
        """
        async with self._scratch() as folder:
            values = folder / "values"
            await self._run("tpm2_pcrread", _selection(which), "-o", values)
            return _split(_read(values), len(which))

    async def extend(self, register: int, digest: bytes) -> None:
        """Extend a SHA-256 register."""
        await self._run("tpm2_pcrextend", f"{register}:sha256={digest.hex()}")

    async def make_attestation_key(self, context: Path) -> bytes:
        """Make this boot's attestation key (P-256, null hierarchy) and save its context.

        The null hierarchy's seed is new at every reset: the key is the same for all who ask during a boot, and cannot
        be made again after it.

        Returns:
            TPM2B_PUBLIC.
        """
        async with self._scratch() as folder:
            public = folder / "public"
            await self._run(
                "tpm2_createprimary", "-C", "n", "-g", "sha256", "-G", "ecc256:ecdsa-sha256:null",
                "-a", _ATTESTATION_ATTRIBUTES, "-c", context,
            )  # fmt: skip
            await self._run("tpm2_readpublic", "-c", context, "-f", "tss", "-o", public)
            return _read(public)

    async def quote(
        self, context: Path | str, which: Sequence[int], extra: bytes
    ) -> tuple[bytes, bytes, tuple[bytes, ...]]:
        """Quote SHA-256 registers.

        Args:
            context: The attestation key's context, or its persistent handle.
            which: Registers.
            extra: Up to 32 bytes that the quote carries.

        Returns:
            TPMS_ATTEST, TPMT_SIGNATURE, and the registers' values.
        """
        async with self._scratch() as folder:
            message, signature, values = folder / "message", folder / "signature", folder / "values"
            await self._run(
                "tpm2_quote", "-c", context, "-l", _selection(which), "-q", extra.hex(), "-g", "sha256",
                "-m", message, "-s", signature, "-f", "tss", "-o", values, "-F", "values",
            )  # fmt: skip
            return _read(message), _read(signature), _split(_read(values), len(which))

    async def handles(self, kind: str) -> frozenset[int]:
        """Handles that exist: ``handles-nv-index`` or ``handles-persistent``."""
        listed = await self._run("tpm2_getcap", kind)
        return frozenset(int(word, 16) for word in listed.decode("ascii", "replace").split() if word.startswith("0x"))

    async def read_index(self, index: int, *, as_owner: bool = False) -> bytes:
        """Contents of an NV index, which anybody may read or the owner only."""
        async with self._scratch() as folder:
            content = folder / "content"
            await self._run("tpm2_nvread", *(("-C", "o") if as_owner else ()), f"{index:#x}", "-o", content)
            return _read(content)

    async def read_certificate(self, index: int, *, as_owner: bool = False) -> bytes:
        """The certificate in an NV index, which may be longer than it: DER says how long that is."""
        data = await self.read_index(index, as_owner=as_owner)
        if len(data) < 4 or data[:2] != b"\x30\x82":
            raise CollectionError(f"TPM holds a certificate at {index:#x} that is not DER")
        return data[: 4 + int.from_bytes(data[2:4], "big")]

    async def write_index(self, index: int, content: bytes) -> None:
        """Write an NV index as the owner, and define it first if it does not exist."""
        if index not in await self.handles("handles-nv-index"):
            await self._run("tpm2_nvdefine", "-C", "o", f"{index:#x}", "-s", str(len(content)))
        async with self._scratch() as folder:
            source = folder / "content"
            source.write_bytes(content)
            await self._run("tpm2_nvwrite", "-C", "o", f"{index:#x}", "-i", source)

    async def read_public(self, handle: int) -> bytes:
        """TPM2B_PUBLIC of a persistent key."""
        async with self._scratch() as folder:
            public = folder / "public"
            await self._run("tpm2_readpublic", "-c", f"{handle:#x}", "-f", "tss", "-o", public)
            return _read(public)

    async def activate(self, key: Path, endorsement: int | str, credential: bytes, *, by_policy: bool) -> bytes:
        """Take the secret out of a credential.

        Args:
            key: Context of the key that it was made for.
            endorsement: Handle of the endorsement key, or the kind to make it of (``rsa``, ``ecc``).
            credential: As :meth:`attestation.tpm.credential.Credential.to_file`.
            by_policy: Whether the endorsement key's template demands a policy session rather than an empty password.
        """
        async with self._scratch() as folder:
            parent: Path | str = folder / "endorsement"
            if isinstance(endorsement, int):
                parent = f"{endorsement:#x}"
            else:
                await self._run("tpm2_createek", "-G", endorsement, "-c", parent)
            blob, secret, session = folder / "credential", folder / "secret", folder / "session"
            blob.write_bytes(credential)
            command: list[str | Path] = ["tpm2_activatecredential", "-c", key, "-C", parent, "-i", blob, "-o", secret]
            if not by_policy:
                await self._run(*command)
                return _read(secret)
            await self._run("tpm2_startauthsession", "--policy-session", "-S", session)
            try:
                await self._run("tpm2_policysecret", "-S", session, "-c", "e")
                await self._run(*command, "-P", f"session:{session}")
            finally:
                with contextlib.suppress(CollectionError):
                    await self._run("tpm2_flushcontext", session)
            return _read(secret)

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        """A private folder for one job's files, gone afterwards."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="tpm-", dir=self._directory))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _run(self, tool: str | Path, *arguments: str | Path) -> bytes:
        if not self._managed and tool not in {"tpm2_flushcontext", "tpm2_policysecret", "tpm2_activatecredential"}:
            await self._call("tpm2_flushcontext", "--transient-object")
        return await self._call(tool, *arguments)

    async def _call(self, tool: str | Path, *arguments: str | Path) -> bytes:
        environment = {**os.environ, "TPM2TOOLS_TCTI": self.tcti, "TSS2_LOG": "all+none"}
        try:
            process = await asyncio.create_subprocess_exec(
                tool, *arguments, env=environment, stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise CollectionError(f"{tool} does not start: {error.strerror}", hint="install tpm2-tools") from None
        try:
            async with asyncio.timeout(self._timeout):
                output, said = await process.communicate()
        except TimeoutError:
            raise CollectionError(f"{tool} gave no answer in {self._timeout:.0f} s", hint="is the TPM busy?") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            reason = said.decode("utf-8", "replace").strip().splitlines()
            _log.debug("tpm tool failed", name=str(tool), code=process.returncode)
            raise CollectionError(
                f"{tool} failed: {reason[0][:200] if reason else f'status {process.returncode}'}",
                hint=f"is there a TPM 2.0 at {self.tcti}, and may this user open it?",
            )
        return output[:_MAX_OUTPUT]


def _selection(which: Sequence[int]) -> str:
    return "sha256:" + ",".join(str(register) for register in which)


def _split(values: bytes, count: int) -> tuple[bytes, ...]:
    if len(values) != 32 * count:
        raise CollectionError(f"TPM gave {len(values)} bytes for {count} registers", hint="is its SHA-256 bank on?")
    return tuple(values[i : i + 32] for i in range(0, len(values), 32))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as content:
            return content.read(_MAX_OUTPUT)
    except OSError as error:
        raise CollectionError(f"TPM tool left no {path.name}: {error.strerror}") from None
