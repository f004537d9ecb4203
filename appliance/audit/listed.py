"""The registry: which images of the release the root contract lists, and which listed ones nobody can explain.

An image hash covers the image and the measured configuration it was launched with, which a manifest does not know: so
the configurations that machines run with are named as well. A listed hash that belongs to no manifest at hand is a
difference: clients of that network would trust a machine whose source nobody showed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.audit.outcome import Finding, Row, Step
from attestation.policies.reference_images import UNBOUND, Configuration, image_hashes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from appliance.audit.request import RegistryFacts
    from measurements.manifest import Manifest

NAME = "registry"
TITLE = "The registry"


def compare_registry(
    manifest: Manifest,
    facts: RegistryFacts,
    *,
    configurations: Sequence[Configuration] = (),
    known: Mapping[str, Manifest],
) -> Step:
    """Hold a release against what a root contract lists.

    Args:
        manifest: The release.
        facts: What is listed.
        configurations: Measured configurations that machines are launched with.
        known: Other manifests by name, which explain other listed images.
    """
    used = (UNBOUND, *configurations)
    own = image_hashes(manifest, used)
    lists = {"worker image": facts.worker_images, "gateway image": facts.gateway_images}
    listed = facts.worker_images | facts.gateway_images
    rows = [
        Row("; ".join(places), value.hex(), "listed" if value in listed else "not listed", same=True)
        for value, places in sorted(own.hashes.items())
    ]
    explained = dict.fromkeys(own.hashes, "this release")
    for name, other in known.items():
        for value in image_hashes(other, used).hashes:
            explained.setdefault(value, name)
    findings = [
        Finding(f"listed {kind} {value.hex()}", "no manifest at hand has it: nobody says what it runs")
        for kind, values in lists.items()
        for value in sorted(values)
        if value not in explained
    ]
    notes = [f"{value.hex()} is of {explained[value]}" for value in sorted(listed) if value in explained]
    notes += [f"no image hash for {place}: {why}" for place, why in own.left_out.items()]
    if findings and not configurations:
        notes.append(
            "an image hash covers the measured configuration too: name those in use (--measured measured.toml)"
        )
    count = len(own.hashes.keys() & listed)
    return Step(
        name=NAME,
        title=TITLE,
        status="differs" if findings else "same",
        summary=f"{count} of this release's {len(rows)} image hashes are listed; "
        f"{len(findings)} of {len(listed)} listed ones are explained by no manifest at hand",
        inputs={
            "root contract": facts.root,
            "version": str(facts.version),
            "seen in block": str(facts.block),
            "configurations": ", ".join(item.name for item in used),
            "manifests": ", ".join(["this release", *known]),
        },
        rows=tuple(rows),
        findings=tuple(findings),
        notes=tuple(notes),
    )
