"""The image's bill of materials, out of the locks: CycloneDX 1.6, the same bytes for the same locks.

In: the committed locks of a profile. Out: JSON. Everything that the image is assembled from is a component with its
package URL, size and SHA-256: packages, wheels, packages that single files are taken out of, firmware, and (scope
``excluded``) the tools that build it. The time is the image's epoch and the serial number follows from the locks.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

from appliance.image.artefacts import FIRMWARE_LOCKS
from appliance.image.lock import read_lock
from appliance.image.lock_index import LOCKS
from appliance.image.lock_wheels import LockedWheel, read_wheel_lock
from appliance.image.profiles import read_recipe
from appliance.image.wheel import CHECKOUT, EPOCH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from appliance.image.lock import LockedPackage
    from appliance.image.profiles import Recipe

# Name space of the serial numbers: our own, fixed once.
_SERIALS = UUID("3f1c7d5e-6a0b-5b8e-9d0c-6f1f0a1f7c55")


@dataclass(frozen=True, slots=True, order=True)
class Part:
    """A lock and what its contents are used for.

    Attributes:
        lock: The lock's name; ``wheels-…`` for wheels.
        use: ``image`` (installed), ``files`` (single files are taken out), ``firmware`` or ``build``.
    """

    lock: str
    use: str


def sbom(profile: str, *, debug: bool = False, checkout: Path = CHECKOUT) -> bytes:
    """The bill of materials of an image.

    Args:
        profile: ``base``, ``engine-cpu`` or ``engine-gpu``.
        debug: Whether of the debug image.
        checkout: The repository.

    Returns:
        CycloneDX 1.6 as JSON, UTF-8, with a final newline.

    Raises:
        BuildError: There is no such profile.
        LockError: A lock cannot be read.
    """
    recipe = read_recipe(checkout, profile, debug=debug)
    parts = locked_parts(recipe)
    project = tomllib.loads((checkout / "packaging/guest/pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = f"chrysalis-{recipe.name}"
    image = Component(name=name, version=project["version"], type=ComponentType.OPERATING_SYSTEM, bom_ref="image")
    guest = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref="guest",
        description=project["description"],
        scope=ComponentScope.REQUIRED,
    )
    components = [guest, *_components(parts, checkout)]
    digests = {part.lock: _digest(checkout / LOCKS / f"{part.lock}.json") for part in parts}
    state = "".join(f"{lock} {digest}\n" for lock, digest in sorted(digests.items()))
    bom = Bom(
        serial_number=uuid5(_SERIALS, f"{name} {project['version']}\n{state}"),
        metadata=BomMetaData(
            timestamp=datetime.fromtimestamp(EPOCH, UTC),
            component=image,
            properties=[Property(name=f"chrysalis:lock:{lock}", value=digest) for lock, digest in digests.items()],
        ),
        components=components,
    )
    bom.register_dependency(image, [item for item in components if item.scope is ComponentScope.REQUIRED])
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    return f"{text}\n".encode()


def locked_parts(recipe: Recipe) -> tuple[Part, ...]:
    """The locks of an image and what each is for."""
    parts = [Part(lock.name, "image") for lock in recipe.locks]
    parts += [Part("wheels-guest", "image"), Part("tools", "build")]
    parts += [Part(name, "firmware") for name in FIRMWARE_LOCKS]
    if recipe.content.engine is not None:
        parts.append(Part(f"wheels-{recipe.content.engine.wheels}", "image"))
    for file in recipe.content.locks:  # what a profile's own programs read
        name = file.removesuffix(".json")
        parts.append(Part(name, "build" if name.endswith("-build") else "files"))
    return tuple(sorted(parts))


def _components(parts: tuple[Part, ...], checkout: Path) -> Iterator[Component]:
    """One for each file that is locked; what several locks name is one component with all its uses."""
    uses: dict[LockedPackage | LockedWheel, set[str]] = {}
    for part in parts:
        for item in _items(part.lock, checkout):
            uses.setdefault(item, set()).add(part.use)
    for item, use in uses.items():
        yield _component(item, use)


def _items(name: str, checkout: Path) -> tuple[LockedPackage, ...] | tuple[LockedWheel, ...]:
    if name.startswith("wheels-"):
        return read_wheel_lock(checkout, name.removeprefix("wheels-")).wheels
    return read_lock(checkout / LOCKS / f"{name}.json").packages


def _component(item: LockedPackage | LockedWheel, uses: set[str]) -> Component:
    if isinstance(item, LockedWheel):
        name, file = item.name, item.filename
        purl = PackageURL("pypi", name=name, version=item.version, qualifiers={"file_name": file})
    else:
        name, file = item.package, item.filename
        qualifiers = {"arch": item.architecture, "distro": item.suite.partition("-")[0]}
        purl = PackageURL("deb", "debian", name, item.version, qualifiers)
    properties = {"file": file, "size": str(item.size), "use": " ".join(sorted(uses))}
    if not isinstance(item, LockedWheel):
        properties |= {"suite": item.suite, "component": item.component}
    return Component(
        name=name,
        version=item.version,
        type=ComponentType.FIRMWARE if uses == {"firmware"} else ComponentType.LIBRARY,
        bom_ref=f"sha256:{item.sha256}",
        scope=ComponentScope.EXCLUDED if uses == {"build"} else ComponentScope.REQUIRED,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=item.sha256)],
        purl=purl,
        properties=[Property(name=f"chrysalis:{key}", value=value) for key, value in properties.items()],
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
