"""apt with a root of its own: signed indexes in, resolved packages out; the machine's package state is not used.

In: addresses, suites, a keyring. Out: for a set of names the packages that apt would install into an empty root, each
as the signed index describes it. apt itself checks the release file's signature against the keyring and every index
against the release file; what fails there is told apart by :func:`explain`.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from appliance.image.archive import require_tool
from appliance.image.errors import (
    ArchiveUnreachableError,
    IndexDiffersError,
    LockError,
    ResolveError,
    SignatureRefusedError,
)
from appliance.image.lock import SECURITY_ARCHIVE, LockedPackage
from appliance.image.lock_lists import ARCHITECTURE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from appliance.image.archive import Archives

_ESSENTIAL = ("?essential", "base-files")
"""What mkosi and mmdebstrap install first."""
_URI = re.compile(r"^'([^']+)' \S+\.deb \d+ ", re.MULTILINE)
_KEYS = ("Package", "Version", "Architecture", "Filename", "Size", "SHA256")
_SIGNATURE = re.compile(
    r"GPG error|OpenPGP signature verification failed"
    r"|NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|invalid signature|signatures? (?:were|was|couldn't)"
    r"|does not have a Release file|no longer signed|Clearsigned file isn't valid|NODATA",
    re.IGNORECASE,
)
_DIFFERS = re.compile(r"Hash Sum mismatch|unexpected size|Mirror sync in progress|weak security information")
_STALE = re.compile(r"Release file for .* (?:is expired|is not valid yet)")
_UNREACHABLE = re.compile(
    r"Could not (?:connect|resolve)|Connection (?:failed|timed out|refused)|Temporary failure|Unable to connect"
    r"|Network is unreachable|\b(?:40[347]|5\d\d) +\w",
)


def explain(what: str, said: str) -> LockError | ArchiveUnreachableError:
    """The error that apt's words tell of: signature, index, network, or else its own last lines.

    A bad signature is looked for first: apt tells of it together with what follows from it.
    """
    lines = [line.strip() for line in said.splitlines() if line.startswith(("E:", "W:", "Err:", "  "))]
    words = " | ".join(line for line in lines if line)[-700:] or said.strip()[-500:]
    if _DIFFERS.search(said):
        return IndexDiffersError(
            f"{what}: {words}", hint="the archive or a proxy before it is changing or broken; retry"
        )
    if _UNREACHABLE.search(said):
        return ArchiveUnreachableError(f"{what}: {words}", hint="check the network, or name an archive: --archive URL")
    if _SIGNATURE.search(said):
        return SignatureRefusedError(
            f"{what}: {words}", hint="do not use this archive: only one that the keyring's keys signed is taken"
        )
    if _STALE.search(said):
        return ResolveError(
            f"{what}: {words}", hint="this archive is no longer kept up to date: name another, --archive URL"
        )
    return ResolveError(f"{what}: {words}")


@dataclass(frozen=True, slots=True)
class AptRoot:
    """An empty root with apt's state for some suites of an archive.

    Attributes:
        directory: Where it is kept; made by :meth:`prepare`.
        archives: Addresses.
        suites: Suite names; one that ends in ``-security`` is in the security archive.
        components: Components of each.
        keyring: OpenPGP keys, one of which must have signed each release file.
    """

    directory: Path
    archives: Archives
    suites: tuple[str, ...]
    components: tuple[str, ...]
    keyring: Path

    def prepare(self) -> None:
        """Write the configuration and fetch the signed indexes.

        Raises:
            SignatureRefusedError: A release file is not signed by a key of the keyring.
            IndexDiffersError: An index is not the one that its release file names.
            ArchiveUnreachableError: No answer.
            ResolveError: apt failed otherwise.
            MissingToolError: There is no apt.
        """
        for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg",
                       "var/cache/apt/archives/partial"):  # fmt: skip
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        (self.directory / "var/lib/dpkg/status").write_text("")
        (self.directory / "apt.conf").write_text(self._configuration())
        (self.directory / "etc/apt/sources.list").write_text(
            "".join(
                f"deb [arch={ARCHITECTURE} signed-by={self.keyring}] {self._base(suite)} {suite} "
                f"{' '.join(self.components)}\n"
                for suite in self.suites
            )
        )
        # Any failure is an error: apt would otherwise go on with fewer suites than were asked for.
        self._run("reading the signed indexes", "apt-get", "-o", "APT::Update::Error-Mode=any", "update")

    def dates(self) -> Iterator[tuple[str, str]]:
        """For each suite the date in its signed release file."""
        for suite in self.suites:
            for path in (self.directory / "var/lib/apt/lists").glob(f"*_dists_{suite}_InRelease"):
                found = re.search(r"^Date: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
                if found:
                    yield suite, found[1].strip()

    def installed(self, names: Sequence[str]) -> set[str]:
        """Addresses of what apt installs into an empty root for these names, without recommendations.

        The essential packages are also resolved alone, because the image's tools install them first and alternatives
        may then fall differently.

        Raises:
            ResolveError: A name is unknown or the set cannot be installed.
        """
        first = self._addresses("resolving the essential packages", "install", _ESSENTIAL)
        return first | self._addresses(f"resolving {len(names)} names", "install", (*_ESSENTIAL, *names))

    def named(self, names: Sequence[str]) -> set[str]:
        """Addresses of the newest versions of these packages alone."""
        return self._addresses(f"finding {len(names)} packages", "download", names)

    def packages(self, addresses: set[str]) -> list[LockedPackage]:
        """The packages at these addresses, as the signed indexes describe them.

        Raises:
            ResolveError: One is not in any index.
        """
        found: dict[str, LockedPackage] = {}
        for suite in self.suites:
            for component in self.components:
                for stanza in self._stanzas(suite, component):
                    address = f"{self._base(suite)}/{stanza['Filename']}"
                    if address in addresses:
                        item = LockedPackage(
                            package=stanza["Package"],
                            version=stanza["Version"],
                            architecture=stanza["Architecture"],
                            sha256=stanza["SHA256"],
                            size=int(stanza["Size"]),
                            filename=stanza["Filename"],
                            suite=suite,
                            component=component,
                        )
                        found.setdefault(address, item)
        if missing := sorted(addresses - set(found)):
            raise ResolveError(f"apt chose {missing[0]}, which is in no signed index of this root")
        return sorted(found.values())

    def _base(self, suite: str) -> str:
        return self.archives.base(SECURITY_ARCHIVE if suite.endswith("-security") else "")

    def _configuration(self) -> str:
        """apt.conf: our root, one architecture, the machine's way to the network."""
        lines = ['Acquire::Retries "3";']
        lines += [f'Acquire::{name} "{value}";' for name, value in self.archives.acquire]
        lines += [
            f'Dir "{self.directory}/";',
            f'Dir::State::status "{self.directory}/var/lib/dpkg/status";',
            'Dir::Etc::trusted "/dev/null";',
            'Dir::Etc::trustedparts "/dev/null";',
            f'APT::Architecture "{ARCHITECTURE}";',
            f'APT::Architectures {{ "{ARCHITECTURE}"; }};',
            'APT::Install-Recommends "false";',
            'APT::Get::List-Cleanup "false";',
            'Acquire::Languages "none";',
            'Acquire::GzipIndexes "false";',
        ]
        if os.geteuid() == 0:
            lines.append('APT::Sandbox::User "root";')  # apt's own user cannot enter a private directory
        return "\n".join(lines) + "\n"

    def _addresses(self, what: str, verb: str, names: Sequence[str]) -> set[str]:
        said = self._run(what, "apt-get", "--yes", "--print-uris", "--quiet", verb, *names)
        found = {unquote(address) for address in _URI.findall(said)}
        if not found:
            raise ResolveError(f"{what}: apt named no package", hint="the lists or the archive are empty")
        return found

    def _stanzas(self, suite: str, component: str) -> Iterator[dict[str, str]]:
        """The entries of one index, as far as a lock keeps them."""
        pattern = f"*_dists_{suite}_{component}_binary-{ARCHITECTURE}_Packages"
        for path in (self.directory / "var/lib/apt/lists").glob(pattern):
            with path.open(encoding="utf-8") as lines:
                yield from _entries(lines)

    def _run(self, what: str, *command: str) -> str:
        program = require_tool(command[0], "apt")
        environment = {**os.environ, "APT_CONFIG": str(self.directory / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(  # noqa: S603 - our own arguments, no shell
            [program, *command[1:]], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            raise explain(what, done.stdout + done.stderr)
        return done.stdout


def _entries(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """Stanzas that have every field of a lock; continuation lines and other fields are skipped."""
    entry: dict[str, str] = {}
    for line in lines:
        if line == "\n":
            if len(entry) == len(_KEYS):
                yield entry
            entry = {}
            continue
        key, _, value = line.partition(": ")
        if key in _KEYS:
            entry[key] = value.rstrip("\n")
    if len(entry) == len(_KEYS):
        yield entry
