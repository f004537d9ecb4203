"""A TPM world: software TPMs with endorsement certificates under a root of its own, and an attestation authority.

Each world makes new roots. Whoever runs a software TPM can read its keys, so a verdict that rests on this root gives no
assurance; everything else is as it would be with a chip: ``swtpm_setup`` manufactures the TPM, the guest's own code
has its key certified by credential activation, the production verifier judges.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import structlog
from cryptography.hazmat.primitives import serialization

from appliance.lab.errors import LabError
from appliance.lab.tpm_ca import ENDORSEMENT_NAME, AttestationCa, Authority
from appliance.lab.tpm_service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

_log = structlog.get_logger(__name__)
SETUP = "swtpm_setup"
_SETUP_S = 120.0
_MAX_SAID = 400


class TpmWorld:
    """Roots and authorities of one run.

    Args:
        directory: For what ``swtpm_setup`` needs on disk; made with mode 0700.
        clock: Unix time.

    Attributes:
        ca: The attestation authority.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        root = Authority("Chrysalis lab TPM root", clock)
        self._root = root.der
        self._endorsements = Authority(ENDORSEMENT_NAME, clock, root)
        self.ca = AttestationCa(root, (self._endorsements.der,), clock)

    @property
    def roots(self) -> tuple[bytes, ...]:
        """What a policy's ``tpm_roots`` has to hold to take this world's machines: DER."""
        return (self._root,)

    def prepare_swtpm(self, directory: Path) -> None:
        """Manufacture a TPM 2.0: seeds, endorsement keys (RSA 2048 and P-384) and their certificates.

        Args:
            directory: For its state, which ``swtpm --tpmstate dir=`` takes; made if need be, and must hold no TPM yet.

        Raises:
            LabError: ``swtpm_setup`` is not installed or fails; its words are in the message.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = self._configure()
        command = [SETUP, "--tpm2", "--tpmstate", str(directory), "--create-ek-cert", "--config", str(config),
                   "--pcr-banks", "sha256"]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=_SETUP_S, check=False)  # noqa: S603 - ours
        except OSError as error:
            raise LabError(f"{SETUP} does not start: {error.strerror}", hint="install swtpm-tools") from None
        except subprocess.TimeoutExpired:
            raise LabError(f"{SETUP} did not end within {_SETUP_S:.0f} s") from None
        if done.returncode:
            said = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
            raise LabError(f"{SETUP} ended with status {done.returncode}: {said[-_MAX_SAID:]}")
        _log.info("software tpm manufactured")

    @contextlib.asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
        """Answer enrolments over HTTP for as long as the context lasts.

        Args:
            host: Address to listen on.
            port: 0 for any free one.

        Yields:
            The port.

        Raises:
            LabError: It cannot listen there.
        """
        async with serving(self.ca, host, port) as bound:
            yield bound

    def _configure(self) -> Path:
        """What ``swtpm_setup`` and ``swtpm_localca`` read; the endorsement authority's key is among it (mode 0600)."""
        folder = self._directory
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = folder / "swtpm_setup.conf"
        if config.exists():
            return config
        issuer, key = folder / "issuer.pem", folder / "issuer.key"
        issuer.write_bytes(self._endorsements.certificate.public_bytes(serialization.Encoding.PEM))
        key.touch(mode=0o600)
        key.write_bytes(
            self._endorsements.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / "serial").write_text("1")
        (folder / "localca.options").write_text(
            "--platform-manufacturer Chrysalis\n--platform-version 1\n--platform-model Lab\n"
        )
        (folder / "localca.conf").write_text(
            f"statedir = {folder}\nsigningkey = {key}\nissuercert = {issuer}\ncertserial = {folder / 'serial'}\n"
        )
        partial = config.with_suffix(".partial")
        partial.write_text(
            "create_certs_tool = swtpm_localca\n"
            f"create_certs_tool_config = {folder / 'localca.conf'}\n"
            f"create_certs_tool_options = {folder / 'localca.options'}\n"
            "active_pcr_banks = sha256\n"
        )
        partial.replace(config)
        return config
