"""A repository whose build takes no minutes, releases of it, and audits of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).resolve().parents[1] / "measurements"))

from appliance.audit.plan import Audit, run_audit
from appliance.audit.request import AuditRequest
from appliance.audit.work import WorkDirectory
from appliance.image.artefacts import describe_all
from appliance.image.lock import LockedPackage, PackageLock
from appliance.image.lock_wheels import WheelLock
from measurements import tpm
from measurements.manifest import Artefact, BuildRecipe, Engine, Manifest, Registers

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DEB = b"!<arch>\na package"
PACKAGE = LockedPackage(
    "tool", "1.0-1", "amd64", hashlib.sha256(DEB).hexdigest(), len(DEB), "pool/main/t/tool/tool_1.0-1_amd64.deb",
    "trixie", "main",
)  # fmt: skip
WORKER = "appliance/worker/worker.py"
IN_IMAGE = f"chrysalis.root.raw:/usr/lib/chrysalis/lib/python3.13/site-packages/{WORKER}"
IDENTITY = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1",
}  # fmt: skip


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", directory, *words], capture_output=True, text=True, check=True, env={**os.environ, **IDENTITY}
    )
    return done.stdout.strip()


@dataclass(frozen=True)
class Release:
    """A repository, what was built of its commit, and its manifest.

    Attributes:
        source: The repository.
        commit: Its first commit.
        published: The release's files.
        manifest: Its manifest.
    """

    source: Path
    commit: str
    published: Path
    manifest: Manifest

    def write(self, path: Path, **changed: Any) -> Path:
        """The manifest as a file, with some values replaced."""
        path.write_bytes(Manifest.model_validate({**self.manifest.model_dump(), **changed}).encode())
        return path


def make_source(directory: Path) -> str:
    """A repository that builds with the stand-in; its commit."""
    for package in ("appliance", "appliance/cli", "appliance/worker"):
        (directory / package).mkdir(parents=True)
        (directory / package / "__init__.py").write_text("")
    shutil.copy(HERE / "stand_in_build.py", directory / "appliance/cli/__main__.py")
    shutil.copy(HERE.parent / "measurements" / "measure_support.py", directory / "appliance/stand_in_images.py")
    (directory / WORKER).write_text("ANSWER = 42\n")
    (directory / "appliance/worker/other.py").write_text("OTHER = 1\n")
    lock = directory / "image" / "lock"
    lock.mkdir(parents=True)
    (directory / "image" / "init").write_text("init\n")
    for name in ("base", "tools"):
        packages = [PACKAGE] if name == "base" else []
        made = PackageLock.make(name, [("trixie", "Sat, 01 Nov 2026 00:00:00 UTC")], packages)
        (lock / f"{name}.json").write_bytes(made.to_bytes())
    (lock / "wheels-guest.json").write_bytes(WheelLock.make("guest", []).to_bytes())
    (directory / ".gitignore").write_text("__pycache__/\n")
    git(directory, "init", "--quiet", "--initial-branch", "main")
    git(directory, "add", "-A")
    git(directory, "commit", "--quiet", "-m", "first")
    return git(directory, "rev-parse", "HEAD")


def build(source: Path, output: Path) -> Path:
    """What the stand-in makes of a checkout."""
    command = [sys.executable, "-m", "appliance.cli", "image", "build", "--profile", "engine-cpu", "--offline"]
    subprocess.run(
        [*command, "--output", output],
        check=True,
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
    )
    return output


def manifest_of(built: Path) -> Manifest:
    """The manifest of a stand-in's build."""
    stated = json.loads((built / "manifest.json").read_bytes())
    files = describe_all(built, [path.name for path in built.iterdir() if path.name != "manifest.json"])
    image = (built / "chrysalis.efi").read_bytes()
    return Manifest(
        **stated,
        release=0,
        debug=False,
        engine=Engine(name="none", version="0"),
        source_date_epoch=1767225600,
        recipe=BuildRecipe(
            profile=stated["profile"],
            mkosi_version="25.3",
            tools_lock=stated["locks"]["tools.json"],
            command="chrysalis image build",
        ),
        artefacts=tuple(Artefact(name=file.name, size=file.size, sha256=file.sha256) for file in files),
        registers=tuple(Registers(platform="tpm", boot=boot, values=image_registers(image, boot))
                        for boot in ("direct", "disk")),
    )  # fmt: skip


def image_registers(image: bytes, boot: tpm.Boot) -> dict[str, str]:
    return {f"pcr{number}": value.hex() for number, value in tpm.predict(image, boot=boot).registers.items()}


def make_release(directory: Path) -> Release:
    """A repository with one release."""
    source = directory / "source"
    commit = make_source(source)
    published = build(source, directory / "published")
    return Release(source, commit, published, manifest_of(published))


def fill_cache(home: Path) -> Path:
    """Put the locked package where the cache has it."""
    place = home / "image" / "cache" / "debs"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{PACKAGE.sha256}.deb").write_bytes(DEB)
    return place / f"{PACKAGE.sha256}.deb"


def audited(release: Release, directory: Path, changed: Mapping[str, Any] | None = None, **options: Any) -> Audit:
    """An audit of a release; ``changed`` values stand in the manifest instead of the right ones."""
    directory.mkdir(parents=True, exist_ok=True)
    manifest = options.pop("manifest", None) or release.write(directory / "manifest.json", **(changed or {}))
    source = options.pop("source", release.source)
    request = AuditRequest(source=str(source), manifest=manifest, **options)
    work = WorkDirectory(directory / "audit")
    with work.held():
        return run_audit(request, work, announce=lambda _: None)
