"""What a root contract lists, against a release and the manifests that explain the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from audit_support import Release, audited, image_registers
from measure_support import uki

from appliance.audit.listed import compare_registry
from appliance.audit.request import RegistryFacts
from attestation.policies.reference_images import Configuration, image_hashes
from measurements.manifest import Manifest, Registers

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = Configuration("measured.toml", bytes(range(32)))
STRANGE = b"\x5c" * 32


def hashes(manifest: Manifest) -> frozenset[bytes]:
    return frozenset(image_hashes(manifest, (CONFIGURATION,)).hashes)


def facts(*worker: bytes, gateways: tuple[bytes, ...] = ()) -> RegistryFacts:
    return RegistryFacts(
        root="0:" + "11" * 32,
        version=7,
        block=42,
        worker_images=frozenset(worker),
        gateway_images=frozenset(gateways),
    )


@pytest.fixture(scope="module")
def other(release: Release) -> Manifest:
    """The release before: another kernel."""
    image = uki({".uname": b"6.11.0"}, command_line=release.manifest.command_line)
    sets = tuple(
        Registers(platform="tpm", boot=boot, values=image_registers(image, boot)) for boot in ("direct", "disk")
    )
    return release.manifest.model_copy(update={"registers": sets})


def test_the_hashes_of_a_release_are_named_as_listed_or_not(release: Release) -> None:
    listed = sorted(hashes(release.manifest))
    step = compare_registry(release.manifest, facts(listed[0]), configurations=(CONFIGURATION,), known={})
    assert step.status == "same"
    assert "1 of this release's 2 image hashes are listed; 0 of 1" in step.summary
    assert {row.stated: row.seen for row in step.rows} == {listed[0].hex(): "listed", listed[1].hex(): "not listed"}
    assert step.inputs["seen in block"] == "42"


def test_a_listed_image_that_nobody_explains_differs(release: Release, other: Manifest) -> None:
    """The control explains it: the manifest of the release that it belongs to."""
    assert not hashes(other) & hashes(release.manifest)
    every = hashes(release.manifest) | hashes(other)
    step = compare_registry(release.manifest, facts(*every), configurations=(CONFIGURATION,), known={})
    assert step.status == "differs"
    assert {finding.subject for finding in step.findings} == {
        f"listed worker image {value.hex()}" for value in hashes(other)
    }
    known = {"release 1": other}
    explained = compare_registry(release.manifest, facts(*every), configurations=(CONFIGURATION,), known=known)
    assert explained.status == "same"
    assert any("is of release 1" in note for note in explained.notes)


def test_gateways_images_count_too(release: Release) -> None:
    step = compare_registry(release.manifest, facts(gateways=(STRANGE,)), configurations=(CONFIGURATION,), known={})
    assert [finding.subject for finding in step.findings] == [f"listed gateway image {STRANGE.hex()}"]


def test_without_configurations_the_reader_is_told_to_name_them(release: Release) -> None:
    step = compare_registry(release.manifest, facts(STRANGE), known={})
    assert step.status == "differs"
    assert any("--measured" in note for note in step.notes)
    assert any("PCR 14 holds the measured configuration" in note for note in step.notes)


@pytest.mark.usefixtures("audit_home")
def test_the_registry_in_a_whole_audit(release: Release, tmp_path: Path) -> None:
    known = facts(*hashes(release.manifest))
    options = {"configurations": (CONFIGURATION,), "built": release.published}
    assert audited(release, tmp_path, registry=known, **options).verdict.kind == "reproduced"
    strange = replace(known, worker_images=known.worker_images | {STRANGE})
    done = audited(release, tmp_path, registry=strange, **options)
    assert done.verdict.line == f"differs: listed worker image {STRANGE.hex()}"
    down = audited(release, tmp_path, registry="no liteserver answers", **options)
    assert down.verdict.line == "could not be checked: the registry cannot be read: no liteserver answers"
