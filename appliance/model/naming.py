"""A model's name: ``base@commit:hash`` (protocol specification, section 7.6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from appliance.model.errors import VolumeFormatError

PATTERN: Final = r"^(?P<base>[A-Za-z0-9._/-]{1,200})@(?P<commit>[A-Za-z0-9._-]{1,64}):(?P<root>[0-9a-f]{64})$"
"""The same language as ``appliance.config.models.ModelName``; kept apart so that the guest needs no schema library."""


@dataclass(frozen=True, slots=True)
class VolumeName:
    """The parts of a model's name.

    Attributes:
        base: What requests carry.
        commit: The checkpoint's version, as its publisher counts.
        root_hash: The verity root hash: 64 lower-case hex digits.
    """

    base: str
    commit: str
    root_hash: str

    def __str__(self) -> str:
        return f"{self.base}@{self.commit}:{self.root_hash}"

    @classmethod
    def parse(cls, text: str) -> VolumeName:
        """Take a name apart.

        Raises:
            VolumeFormatError: It is none.
        """
        parts = re.fullmatch(PATTERN, text)
        if parts is None or "\n" in text:
            raise VolumeFormatError(
                f"model name {text!r} is not base@commit:hash",
                hint="base of letters, digits and ._/-, commit likewise without /, hash of 64 lower-case hex digits",
            )
        return cls(parts["base"], parts["commit"], parts["root"])
