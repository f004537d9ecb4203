"""``chrysalis audit`` of the real image: its files, lists and registers; and, where asked for, its whole rebuild.

A rebuild takes minutes, so it is asked for: ``CHRYSALIS_AUDIT=1``, as root, with an image that was built from a commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from appliance.audit.plan import Audit, run_audit
from appliance.audit.request import AuditRequest
from appliance.audit.work import WorkDirectory
from appliance.image.artefacts import ROOT_FILES, UKI
from appliance.image.compare import entries
from measurements import uki
from measurements.manifest import MANIFEST_NAME, Artefact, Manifest, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

ASKED = "CHRYSALIS_AUDIT"
SOURCE = Path(__file__).resolve().parents[2]
SITE = "/usr/lib/chrysalis/lib/python3.13/site-packages"
MODULE = "appliance/worker/book.py"

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def stated(built_image: Path) -> Manifest:
    """The image's manifest, as if its source had been committed: here it is compared with files, not rebuilt."""
    found = parse_manifest((built_image / MANIFEST_NAME).read_bytes())
    return found.model_copy(update={"source_commit": found.source_commit or "0" * 40, "source_modified": False})


def linked(directory: Path, image: Path, changed: Mapping[str, bytes] | None = None) -> Path:
    """The image's files under another name, some of them with other contents."""
    directory.mkdir()
    for path in image.iterdir():
        if path.name not in (changed or {}):
            (directory / path.name).symlink_to(path)
    for name, data in (changed or {}).items():
        (directory / name).write_bytes(data)
    return directory


def with_digest(manifest: Manifest, name: str, data: bytes) -> Manifest:
    """The manifest of a release in which one file has other contents."""
    entry = Artefact(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())
    listed = tuple(entry if item.name == name else item for item in manifest.artefacts)
    return manifest.model_copy(update={"artefacts": listed})


def audited(directory: Path, manifest: Manifest, image: Path, **options: Any) -> Audit:
    directory.mkdir(exist_ok=True)
    (directory / MANIFEST_NAME).write_bytes(manifest.encode())
    request = AuditRequest(
        source=str(SOURCE), manifest=directory / MANIFEST_NAME, as_it_is=True, built=image, **options
    )
    work = WorkDirectory(directory / "audit")
    with work.held():
        return run_audit(request, work, announce=lambda _: None)


def test_the_image_is_what_its_manifest_says(built_image: Path, stated: Manifest, tmp_path: Path) -> None:
    published = linked(tmp_path / "published", built_image)
    done = audited(tmp_path / "audit", stated, built_image, published=published)
    assert {step.name: step.summary for step in done.steps if step.status == "differs"} == {}
    assert done.verdict.kind == "reproduced"
    assert len(done.step("artefacts").rows) >= 12
    values = [row for row in done.step("registers").rows if row.same]
    assert len(values) == sum(len(entry.values) for entry in stated.registers)


def test_an_altered_image_is_named_with_its_section(built_image: Path, stated: Manifest, tmp_path: Path) -> None:
    data = bytearray((built_image / UKI).read_bytes())
    section = uki.parse(bytes(data)).sections[".cmdline"]
    data[bytes(data).index(section)] ^= 1
    published = linked(tmp_path / "published", built_image, {UKI: bytes(data)})
    done = audited(tmp_path / "audit", stated, built_image, published=published)
    assert done.verdict.line == f"differs: published {UKI}"
    assert "section .cmdline differs" in done.step("published").findings[0].text


def test_one_altered_module_is_named_inside_the_root(built_image: Path, stated: Manifest, tmp_path: Path) -> None:
    """The release of somebody whose source differs in one module: list, root and byte code follow."""
    text = (built_image / ROOT_FILES).read_text()
    known = entries(text)
    path, code = f"{SITE}/{MODULE}", f"{SITE}/appliance/worker/__pycache__/book.cpython-313.pyc"
    for name in (path, code):
        text = text.replace(known[name][-1], hashlib.sha256(name.encode()).hexdigest())
    published = linked(tmp_path / "published", built_image, {ROOT_FILES: text.encode()})
    done = audited(tmp_path / "audit", with_digest(stated, ROOT_FILES, text.encode()), built_image, published=published)
    assert done.verdict.line == f"differs: chrysalis.root.raw:{path}"
    assert code in done.step("artefacts").findings[0].text


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(ASKED), reason=f"two builds of minutes each: {ASKED}=1 asks for them")
def test_a_whole_rebuild_reproduces_and_names_one_changed_line(built_image: Path, tmp_path: Path) -> None:
    """In a fresh clone, by the command: first the commit of the manifest, then the tree with one line more."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", SOURCE, clone], check=True)
    command = [sys.executable, "-m", "appliance.cli", "audit", clone, "--manifest", built_image / MANIFEST_NAME]
    command += ["--artefacts", built_image, "--offline", "--json"]

    def audit(*more: str | Path) -> tuple[int, dict[str, Any]]:
        done = subprocess.run([*command, *more], cwd=SOURCE, capture_output=True, text=True, check=False)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout.splitlines()[-1])

    status, told = audit("--work", tmp_path / "first")
    assert (status, told["verdict"]) == (0, "reproduced")
    manifest = parse_manifest((built_image / MANIFEST_NAME).read_bytes())
    subprocess.run(["git", "-C", clone, "checkout", "--quiet", str(manifest.source_commit)], check=True)
    module = clone / MODULE
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    status, told = audit("--source-as-it-is", "--work", tmp_path / "second")
    assert status == 1
    assert told["verdict"].startswith(f"differs: chrysalis.root.raw:{SITE}/{MODULE}")
