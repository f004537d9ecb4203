"""Whether this worker may and can take work, and if not, why. Pure.

Rules: protocol specification, section 2.3, and section 8, items 20 and 21.

In: what is known about engine, registry, ledger, operator. Out: reasons, each with what to do. No reason: it works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReasonName = Literal[
    "draining",
    "operator",
    "engine",
    "ledger",
    "registry-unread",
    "registry-stale",
    "image-delisted",
    "model-delisted",
]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why no work is taken. ``refuses``: requests that arrive all the same are answered with "not ready"."""

    name: ReasonName
    text: str
    hint: str
    refuses: bool = True


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides.

    Attributes:
        engine_ready: The model server answers and its self-check was sane.
        enabled: The operator has not switched the worker off.
        draining: The process is about to end.
        ledger_fault: Why the ledger cannot be written, or None.
        registry_age: Seconds since the root contract was last proven; None before the first time.
        max_age: Seconds after which it is stale.
        image: Whether this machine's image is listed; None where images are not checked.
        model: Whether the model is listed; None where models are not checked.
        image_cure: Who has to send what to whom to have the image listed.
        model_cure: The same for the model.
    """

    engine_ready: bool
    enabled: bool
    draining: bool
    ledger_fault: str | None
    registry_age: float | None
    max_age: float
    image: bool | None
    model: bool | None
    image_cure: str = ""
    model_cure: str = ""


def reasons(now: Situation) -> tuple[Reason, ...]:
    """Why no work is taken; empty when it is."""
    found: list[Reason] = []
    if now.draining:
        found.append(Reason("draining", "the worker is shutting down", "running requests are finished first"))
    if not now.enabled:
        # As in the reference (section 2.3), what arrives while the gateways learn of it is still served.
        found.append(
            Reason("operator", "switched off by its operator", "POST /enable switches it on again", refuses=False)
        )
    if not now.engine_ready:
        found.append(Reason("engine", "the model server is not ready", "see the engine's stage", refuses=False))
    if now.ledger_fault is not None:
        found.append(
            Reason("ledger", f"the ledger cannot be written: {now.ledger_fault}", "free space; it is tried again")
        )
    if now.registry_age is None:
        found.append(Reason("registry-unread", "the root contract was not read yet", "check the liteservers"))
        return tuple(found)
    if now.registry_age > now.max_age:
        found.append(
            Reason(
                "registry-stale",
                f"the root contract was last proven {now.registry_age:.0f} s ago, expected at most {now.max_age:.0f}",
                "the liteservers cannot be reached or give no proof; work resumes with the next proof",
            )
        )
    if now.image is False:
        found.append(
            Reason(
                "image-delisted",
                "this machine's image is not in the root contract's list",
                _cure("run a listed release; work resumes when the image is listed again", now.image_cure),
            )
        )
    if now.model is False:
        found.append(
            Reason(
                "model-delisted",
                "this worker's model is not in the root contract's list",
                _cure("serve a listed model; work resumes when it is listed again", now.model_cure),
            )
        )
    return tuple(found)


def _cure(own: str, owners: str) -> str:
    """What this machine's operator can do, and what the root contract's owner."""
    return f"{own}: {owners}" if owners else own


def refusal(found: tuple[Reason, ...]) -> Reason | None:
    """The first reason for which arriving requests are refused."""
    return next((reason for reason in found if reason.refuses), None)
