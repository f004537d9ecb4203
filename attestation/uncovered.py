"""What evidence shows and no rule looked at: listed in every verdict, so that nothing is skipped silently.

A policy is made of rules, and one that lacks a rule looks like one that needs none. So after the rules have spoken,
what none of them named is listed as passed and not checked, with what was seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attestation.rules import WORKLOAD
from attestation.verdict import NO_ATTESTATION, Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attestation.rules import Subject

_WORDS = "not checked: no rule of this policy asks"
_IMAGE = ("image", "measurement", "mrtd", "mr_td", "PCR 11 ")
_STATED = ("owner", "model", "root_contract", "engine", "coefficient", "role", "chain", "generation")


def unchecked(subject: Subject, checks: Sequence[Check]) -> tuple[Check, ...]:
    """What was shown and not judged.

    Args:
        subject: What the rules looked at.
        checks: What they said.
    """
    return (*_machine(subject, checks), *_beside(subject, checks))


def _machine(subject: Subject, checks: Sequence[Check]) -> Iterator[Check]:
    if subject.image_hash != NO_ATTESTATION and not any(_of_image(check) for check in checks):
        yield _left_out(
            "image",
            subject.image_hash.hex(),
            "a verifier that takes any image believes whatever the image says: compare it with a list",
            "platform",
        )
    if subject.platform != "none" and not _named(checks, "machine"):
        yield _left_out(
            "machine",
            "any",
            "who holds a machine in hand can attack its memory bus, so where it stands may matter",
            "platform",
        )


def _beside(subject: Subject, checks: Sequence[Check]) -> Iterator[Check]:
    """Of fresh evidence: log, devices and statement."""
    if subject.statement is None:
        return
    if not _grouped(checks, "event log") and not _named(checks, "event log"):
        seen = "shown" if subject.log is not None else "none shown"
        why = "a log says which step of the start made a register what it is"
        yield _left_out("event log", seen, why, "event log")
    if subject.devices and not any(_of_devices(check) for check in checks):
        why = "a genuine device may have an old driver, another number of neighbours or its debugging mode on"
        yield _left_out("gpu policy", f"{len(subject.devices)} devices that verify", why, "gpus")
    open_fields = [name for name in _STATED if not _named(checks, f"statement {name}")]
    if open_fields:
        why = "the statement is the machine's own word: true if the image is a good one, and maybe not what you want"
        yield _left_out("statement", f"not compared: {', '.join(open_fields)}", why, WORKLOAD)


def _named(checks: Sequence[Check], name: str) -> bool:
    return any(check.name.startswith(name) for check in checks)


def _grouped(checks: Sequence[Check], group: str) -> bool:
    return any(check.group.partition("/")[0] == group for check in checks)


def _of_image(check: Check) -> bool:
    """Whether what was booted was compared with something: its hash, or the registers that say it."""
    return check.checked and check.name.startswith(_IMAGE)


def _of_devices(check: Check) -> bool:
    """Whether a rule about all devices said it; what was found out about one stands in that one's group."""
    return check.group in {"gpu", "gpus"}


def _left_out(name: str, seen: str, why: str, group: str) -> Check:
    return Check(name, True, seen, _WORDS, checked=False, why=why, group=group)
