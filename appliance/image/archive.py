"""Where packages come from: the machine's own apt configuration, or an address that the caller names.

In: what ``apt-get update --print-uris`` and ``apt-config`` say, or ``--archive URL``. Out: :class:`Archives`. No
address is written in this project: a machine that can install packages can also fetch the image's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from appliance.image.errors import ImageError, MissingToolError
from appliance.image.lock import MAIN_ARCHIVE, SECURITY_ARCHIVE, LockedPackage

_ACQUIRE = re.compile(r'^Acquire::([\w:-]+) "([^"\n]*)";$', re.MULTILINE)
_SOURCE = re.compile(r"^'(https?://[^'\s]+?)/+dists/[^'\s]+' ", re.MULTILINE)
# What our own runs of apt decide themselves.
_OURS = (
    "IndexTargets",
    "GzipIndexes",
    "Languages",
    "AllowInsecure",
    "AllowWeak",
    "AllowDowngrade",
    "Changelogs",
    "gpgv",
    "sqv",
)


@dataclass(frozen=True, slots=True)
class Archives:
    """Addresses of a distribution's archives.

    Attributes:
        main: Base address of the main archive, without a final slash.
        security: The same for security updates.
        proxy: HTTP proxy that apt is configured with; ``None`` for none (the environment's is used then).
        acquire: The machine's ``Acquire::`` settings (proxy, time limits, validity), for runs of apt on our own root.
    """

    main: str
    security: str
    proxy: str | None = None
    acquire: tuple[tuple[str, str], ...] = ()

    @property
    def unchecked_age(self) -> bool:
        """Whether the machine's apt takes indexes of any age, as it is told to where a mirror is frozen."""
        settings = dict(self.acquire)
        return any(settings.get(name, "true") in {"false", "0", "no"} for name in ("Check-Valid-Until", "Check-Date"))

    def base(self, archive: str) -> str:
        """The address of an archive by its name in a lock."""
        return self.security if archive == SECURITY_ARCHIVE else self.main

    def address(self, package: LockedPackage) -> str:
        """Where a locked package is."""
        return f"{self.base(package.archive)}/{quote(package.filename)}"


def snapshot(url: str) -> Archives:
    """A snapshot archive, as the caller names it.

    Args:
        url: Its base address; ``{archive}`` in it stands for the archive's name (``debian``, ``debian-security``).
            Without that word every package is looked for below the one address.
    """
    bases = [check_address(url.replace("{archive}", name)) for name in (MAIN_ARCHIVE, SECURITY_ARCHIVE)]
    acquire = _acquire_settings()
    return Archives(bases[0], bases[1], _proxy(bases[0], acquire), acquire)


def from_machine(archive: str | None = None, security: str | None = None) -> Archives:
    """The archives that this machine uses, or the named ones.

    Args:
        archive: Address of the main archive, instead of the machine's.
        security: Address of the security archive; with ``archive`` alone it is looked for beside that one, at the same
            address with ``-security`` appended.

    Raises:
        ImageError: The machine has no such archive and none was named.
        MissingToolError: There is no apt.
    """
    acquire = _acquire_settings()
    if archive is None:
        found = _machine_bases()
        archive = found.get(MAIN_ARCHIVE)
        security = security or found.get(SECURITY_ARCHIVE)
    if archive is None:
        raise ImageError(
            "this machine's apt configuration names no Debian archive",
            hint="name one: --archive URL (the address whose folders are dists/ and pool/)",
        )
    main = check_address(archive)
    beside = check_address(security) if security else f"{main}-security"
    return Archives(main, beside, _proxy(main, acquire), acquire)


def check_address(url: str) -> str:
    """An address without its final slash.

    Raises:
        ImageError: It is not an HTTP address.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise ImageError(f"{url!r} is not an archive's address", hint="expected http://… or https://…")
    return url.rstrip("/")


def _proxy(address: str, acquire: tuple[tuple[str, str], ...]) -> str | None:
    """The proxy that apt would use for an address; ``DIRECT`` is apt's word for none."""
    settings = dict(acquire)
    named = settings.get(f"{urlsplit(address).scheme}::Proxy") or settings.get("http::Proxy")
    return None if named in {None, "DIRECT"} else named


def _machine_bases() -> dict[str, str]:
    """Archives by name, from the sources that apt uses: a base address ends in the archive's name."""
    # Not `indextargets`: that names only what has been downloaded, and a bare machine has no index yet.
    said = apt("apt-get", "update", "--print-uris")
    found: dict[str, str] = {}
    for base in _SOURCE.findall(said):
        name = base.rpartition("/")[2]
        if name in {MAIN_ARCHIVE, SECURITY_ARCHIVE}:
            found.setdefault(name, base)
    return found


def _acquire_settings() -> tuple[tuple[str, str], ...]:
    settings = _ACQUIRE.findall(apt("apt-config", "dump", "Acquire"))
    return tuple((name, value) for name, value in settings if value and not name.startswith(_OURS))


def apt(*command: str, environment: dict[str, str] | None = None) -> str:
    """Run one of apt's programs and return what it prints.

    Raises:
        MissingToolError: It is not installed.
        ImageError: It failed; the message is its own.
    """
    program = require_tool(command[0], "apt")
    done = subprocess.run(  # noqa: S603 - our own arguments, no shell
        [program, *command[1:]], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise ImageError(f"{' '.join(command[:2])} ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def require_tool(program: str, package: str) -> str:
    """The path of a program of the machine.

    Args:
        program: Its name.
        package: The Debian package that has it.

    Raises:
        MissingToolError: It is not installed.
    """
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        raise MissingToolError(f"{program} is not installed", hint=f"apt-get install {package}")
    return path
