"""What a demonstration is asked to do, whom it tells, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from appliance.engine.progress import Progress
    from appliance.lab.asking import Asked

PROMPTS = (
    "What is the capital of France? Answer in one sentence.",
    "Name three primary colours.",
    "Write one short sentence about the sea.",
)


Part = Literal["root", "uki", "command-line", "configuration", "model"]


class Reporter(Protocol):
    """Who is told."""

    def stage(self, name: str) -> None:
        """A stage begins."""
        ...

    def line(self, text: str) -> None:
        """Something worth knowing."""
        ...

    def text(self, piece: str) -> None:
        """A piece of an answer as it comes."""
        ...

    def progress(self, report: Progress) -> None:
        """A long preparation goes on."""
        ...

    def shown(self, result: Result) -> None:
        """Everything is shown, and the network stays up."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What to demonstrate.

    Attributes:
        directory: Where everything is kept.
        model: A recipe of the engine room: ``smollm2`` or ``tiny``.
        prompts: At least one; the last is asked through the ``openai`` package.
        delist: What to leave out of the root contract, to see the refusal.
        tamper: What to alter by one byte after it was listed, to see the refusal; of a booted image only.
        stay: When all is shown, leave everything running until this is set.
    """

    directory: Path
    model: str = "smollm2"
    prompts: tuple[str, ...] = PROMPTS
    delist: Literal["image", "model"] | None = None
    tamper: Part | None = None
    stay: asyncio.Event | None = None

    @property
    def refused(self) -> bool:
        """Whether the run shows a refusal."""
        return self.delist is not None or self.tamper is not None


@dataclass(slots=True)
class Result:
    """What is printed in the end; :meth:`to_dict` is the JSON object."""

    ok: bool = False
    error: str = ""
    engine: dict[str, Any] = field(default_factory=dict)
    prompts: list[Asked] = field(default_factory=list)
    verdicts: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    signed_tokens: int = 0
    owner_before: int = 0
    owner_after: int = 0
    expected_delta: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)
    chain: dict[str, Any] = field(default_factory=dict)
    processes_left: list[str] = field(default_factory=list)
    checks: dict[str, bool] = field(default_factory=dict)
    vm: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            name: [item.to_dict() for item in self.prompts] if name == "prompts" else getattr(self, name)
            for name in self.__slots__
        }
