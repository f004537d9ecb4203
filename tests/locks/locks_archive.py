"""A small Debian archive, made and signed by the test: packages, indexes, release files, and a server for it."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from appliance.image.archive import Archives
from appliance.image.lock_lists import LockPlan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.image.lock import LockedPackage

SUITES = {"debian": ("trixie", "trixie-updates", "forky"), "debian-security": ("trixie-security",)}
PLANS = (
    LockPlan("base", (("base",), ("initrd",))),
    LockPlan("engine", (("base", "engine"),), beside=("base",)),
    LockPlan("firmware", (("firmware",),), alone=True),
)


@dataclass(frozen=True)
class Key:
    """A signing key in a directory of its own."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Key:
        directory.mkdir(mode=0o700)
        key = cls(directory)
        key.gpg("--quick-gen-key", "Test Archive <archive@example.invalid>", "ed25519", "sign", "never")
        key.gpg("--output", str(key.public), "--export")
        return key

    @property
    def public(self) -> Path:
        return self.directory / "public.gpg"

    def gpg(self, *words: str) -> None:
        command = [
            "gpg",
            "--homedir",
            str(self.directory),
            "--batch",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ]
        subprocess.run([*command, "--yes", *words], check=True, capture_output=True)

    def close(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.directory), "--kill", "all"], check=False, capture_output=True)


@dataclass
class SmallArchive:
    """Two archives (main and security) below one directory."""

    root: Path
    key: Key
    debs: dict[str, list[tuple[Path, str, str]]] = field(default_factory=dict)
    date: str = "Thu, 01 Jan 2026 00:00:00 UTC"
    valid_until: str = ""

    def add(
        self,
        suite: str,
        name: str,
        version: str,
        *,
        depends: str = "",
        essential: bool = False,
        component: str = "main",
        text: str = "",
    ) -> Path:
        """Build a package and put it into the pool."""
        archive = next(archive for archive, suites in SUITES.items() if suite in suites)
        tree = self.root / "work" / f"{name}-{version}"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <t@example.invalid>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Essential: yes\n" if essential else ""
        (tree / "DEBIAN/control").write_text(f"{control}Description: {name}\n a second line {text}\n")
        pool = self.root / archive / "pool" / component / name[0] / name
        pool.mkdir(parents=True, exist_ok=True)
        path = pool / f"{name}_{version.partition(':')[2] or version}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", tree, path],
            check=True,
            capture_output=True,
            env={"SOURCE_DATE_EPOCH": "1", "PATH": "/usr/bin:/bin"},
        )
        stanza = f"{control}Filename: {path.relative_to(self.root / archive)}\nSize: {path.stat().st_size}\n"
        stanza += f"SHA256: {hashlib.sha256(path.read_bytes()).hexdigest()}\nDescription: {name}\n"
        entries = self.debs.setdefault(suite, [])
        entries[:] = [entry for entry in entries if entry[0] != path]
        entries.append((path, component, stanza))
        return path

    def withdraw(self, suite: str, name: str) -> None:
        """Take a package out of a suite's index."""
        self.debs[suite] = [entry for entry in self.debs[suite] if not entry[2].startswith(f"Package: {name}\n")]

    def file(self, item: LockedPackage) -> Path:
        """Where the pool has a locked package."""
        return self.root / item.archive / item.filename

    def publish(self, key: Key | None = None) -> None:
        """Write every suite's indexes and sign its release file."""
        for archive, suites in SUITES.items():
            for suite in suites:
                self._publish(self.root / archive / "dists" / suite, suite, key or self.key)

    def index(self, suite: str, component: str = "main") -> Path:
        archive = next(archive for archive, suites in SUITES.items() if suite in suites)
        return self.root / archive / "dists" / suite / component / "binary-amd64" / "Packages"

    def _publish(self, directory: Path, suite: str, key: Key) -> None:
        rows = []
        for component in ("main", "contrib", "non-free", "non-free-firmware"):
            folder = directory / component / "binary-amd64"
            folder.mkdir(parents=True, exist_ok=True)
            text = "\n".join(stanza for _, own, stanza in self.debs.get(suite, []) if own == component).encode()
            for name, data in (("Packages", text), ("Packages.gz", gzip.compress(text, mtime=0))):
                (folder / name).write_bytes(data)
                rows.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {component}/binary-amd64/{name}\n")
        (directory / "Release").write_text(
            f"Origin: Test\nLabel: Test\nSuite: {suite}\nCodename: {suite}\nDate: {self.date}\n"
            f"{f'Valid-Until: {self.valid_until}' if self.valid_until else 'Version: 1'}\n"
            f"Architectures: all amd64\nComponents: main contrib non-free non-free-firmware\n"
            f"SHA256:\n{''.join(rows)}"
        )
        key.gpg("--clearsign", "--output", str(directory / "InRelease"), str(directory / "Release"))


class Handler(SimpleHTTPRequestHandler):
    """Serves files, counts requests, and answers what a test asks for."""

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        server.asked.append(self.path)
        failures = server.failures.get(self.path, [])
        if failures:
            self.send_error(failures.pop(0))
            return
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing."""


class Server(ThreadingHTTPServer):
    """The archive over HTTP."""

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.asked: list[str] = []
        self.failures: dict[str, list[int]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def archives(self) -> Archives:
        return Archives(f"{self.url}/debian", f"{self.url}/debian-security")


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """A server for a directory while the block runs."""
    server = Server(root)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
