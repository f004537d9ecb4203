"""What the image says about itself: ``/usr/lib/chrysalis/image.json``, part of the measured root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.errors import StageError

if TYPE_CHECKING:
    from appliance.boot.system import System

IMAGE_FILE: Final = "/usr/lib/chrysalis/image.json"


class EngineInfo(BaseModel):
    """The model server that the image carries."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    version: str = ""


class ImageInfo(BaseModel):
    """An image's own description. ``command_line`` is the kernel's without the root hash, which the build adds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    profile: str = Field(max_length=64)
    debug: bool = False
    engine: EngineInfo | None = None
    source_date_epoch: int = Field(ge=0)
    command_line: str


def read_image(system: System) -> ImageInfo:
    """Read it.

    Raises:
        StageError: It is missing or not one: the image was not built by this project's build.
    """
    try:
        return ImageInfo.model_validate_json(system.read(IMAGE_FILE))
    except (OSError, ValidationError) as error:
        raise StageError(f"{IMAGE_FILE}: {type(error).__name__}", hint="build the image with just image") from None
