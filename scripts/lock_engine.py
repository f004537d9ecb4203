"""Make the engine's locked requirement files again: ``python scripts/lock_engine.py [--upgrade | --light]``.

Comes in: ``requirements/engine-cpu.in`` and the two ``.excludes`` files beside it. Goes out, all with SHA-256 hashes
of the Linux x86-64 wheels for Python 3.11 to 3.13 (the light engine's: 3.13 alone) and without naming any host:

* ``engine-cpu.txt``            every package of the CPU engine; its torch line accepts the CPU and the full build
* ``engine-cpu-torch.txt``      the CPU build of torch alone, tried first by the installer
* ``engine-cpu-cuda-deps.txt``  what the full build of torch needs besides, for where no CPU build is offered
* ``engine-light.txt``          the packages of the light engine, in the versions of ``engine-cpu.txt`` (``--light``
  makes only this one)

The comment above each requirement gives the bytes of its largest wheel, from which the installer's progress is made.
Versions that are already locked are kept unless ``--upgrade`` is given. The hash of the CPU build is taken from the
wheel that ``pip`` offers on this machine; where it offers none, the hash that is already locked is kept.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
PYTHONS = ("3.11", "3.12", "3.13")
IMAGE_PYTHON = "3.13"  # Debian trixie's
PLATFORM = "x86_64-manylinux_2_34"  # SGLang's own wheels ask for it


@dataclass
class Package:
    """One locked package: version, wheel hashes, and the bytes of its largest wheel."""

    version: str
    hashes: set[str] = field(default_factory=set)
    size: int = 0

    def text(self, name: str) -> str:
        """The requirement as pip reads it, hashes sorted."""
        hashes = " \\\n".join(f"    --hash=sha256:{value}" for value in sorted(self.hashes))
        return f"# bytes: {self.size}\n{name}=={self.version} \\\n{hashes}\n"


def resolve(requirements: Path, excludes: list[Path], constraints: Path | None, python: str) -> dict[str, Package]:
    """Ask uv for one Python version; wheels only."""
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "pylock.toml"
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--format", "pylock.toml"]
        command += ["--only-binary", ":all:", "--python-platform", PLATFORM, "--python-version", python]
        # The full build is resolved from the index alone: no --find-links of this machine.
        command += ["--output-file", str(output), str(requirements)]
        for path in excludes:
            command += ["--excludes", str(path)]
        if constraints is not None:
            command += ["--constraints", str(constraints)]
        subprocess.run(command, check=True, env=environment_without_find_links())
        lock = tomllib.loads(output.read_text())
    packages = {}
    for entry in lock["packages"]:
        package = packages[entry["name"]] = Package(entry["version"])
        for wheel in entry["wheels"]:
            package.hashes.add(wheel["hashes"]["sha256"])
            package.size = max(package.size, int(wheel.get("size", 0)))
    return packages


def environment_without_find_links() -> dict[str, str]:
    """This process's environment, less what would let uv see wheels that only this machine has."""
    return {key: value for key, value in os.environ.items() if key not in {"UV_FIND_LINKS", "PIP_FIND_LINKS"}}


def resolve_all(requirements: Path, excludes: list[Path], constraints: Path | None) -> dict[str, Package]:
    """Resolve for the first Python, then collect the wheels of the same versions for the others."""
    merged = resolve(requirements, excludes, constraints, PYTHONS[0])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pinned:
        pinned.write("".join(f"{name}=={package.version}\n" for name, package in merged.items()))
        pinned.flush()
        for python in PYTHONS[1:]:
            other = resolve(requirements, excludes, Path(pinned.name), python)
            if missing := set(other) ^ set(merged):
                sys.exit(f"Python {python} needs another set of packages: {', '.join(sorted(missing))}")
            for name, package in other.items():
                merged[name].hashes |= package.hashes
                merged[name].size = max(merged[name].size, package.size)
    return merged


def versions(*paths: Path) -> str:
    """The pinned versions of locked files that exist, as constraints."""
    texts = [path.read_text() for path in paths if path.exists()]
    return "".join(f"{pin}\n" for text in texts for pin in re.findall(r"^[a-z0-9.-]+==[^\s+]+", text, re.MULTILINE))


def resolve_light(engine: Path) -> dict[str, Package]:
    """The light engine's packages for the image's Python, in the versions that ``engine`` locks."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write(versions(engine))
        kept.flush()
        source, excludes = REQUIREMENTS / "engine-light.in", REQUIREMENTS / "engine-light.excludes"
        return resolve(source, [excludes], Path(kept.name), IMAGE_PYTHON)


def cpu_build(version: str, locked: Path) -> Package:
    """The CPU build of torch that pip offers here, else the one that is locked already."""
    local = f"{version}+cpu"
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            scratch,
            f"torch=={local}",
        ]
        subprocess.run(command, check=False)
        package = Package(local)
        for wheel in Path(scratch).glob("*.whl"):
            package.hashes.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
            package.size = wheel.stat().st_size
    if locked.exists() and f"torch=={local} " in (text := locked.read_text()):
        package.hashes |= set(re.findall(r"sha256:([0-9a-f]{64})", text))
        package.size = package.size or int(re.findall(r"# bytes: (\d+)", text)[0])
    if not package.hashes:
        sys.exit(f"pip offers no torch=={local} here and none is locked: point pip at one with --find-links")
    return package


def write(path: Path, packages: dict[str, Package]) -> None:
    """Write one locked file, sorted by name."""
    path.write_text("\n".join(packages[name].text(name) for name in sorted(packages)))
    total = sum(package.size for package in packages.values())
    print(f"{path.name}: {len(packages)} packages, {total / 1e6:.0f} MB to fetch at most")


def main() -> None:
    """Resolve the sets and write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    parser.add_argument("--light", action="store_true", help="make engine-light.txt only")
    options = parser.parse_args()
    engine, torch_alone, cuda = (REQUIREMENTS / f"engine-cpu{part}.txt" for part in ("", "-torch", "-cuda-deps"))
    light = REQUIREMENTS / "engine-light.txt"
    if options.light:
        write(light, resolve_light(engine))
        return
    source, excludes = REQUIREMENTS / "engine-cpu.in", REQUIREMENTS / "engine-cpu.excludes"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as kept:
        kept.write("" if options.upgrade else versions(engine, cuda))
        kept.flush()
        constraints = Path(kept.name)
        cpu = resolve_all(source, [excludes, REQUIREMENTS / "engine-cpu-torch.excludes"], constraints)
        full = resolve_all(source, [excludes], constraints)
    if changed := [name for name in cpu if full[name].version != cpu[name].version]:
        sys.exit(f"the two sets disagree on {', '.join(changed)}")
    write(cuda, {name: package for name, package in full.items() if name not in cpu})
    build = cpu_build(cpu["torch"].version, torch_alone)
    write(torch_alone, {"torch": build})
    cpu["torch"].hashes |= build.hashes
    write(engine, cpu)
    write(light, resolve_light(engine))


if __name__ == "__main__":
    main()
