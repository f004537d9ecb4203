"""What evidence shows and no rule looked at: listed in every verdict, so that nothing is skipped silently.

A policy is made of rules, and one that lacks a rule looks like one that needs none. So after the rules have spoken,
what none of them named is listed as passed and not checked, with what was seen.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from attestation.claims import WorkloadStatement
from attestation.rules import WORKLOAD
from attestation.verdict import NO_ATTESTATION, Check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from attestation.rules import Subject

_WORDS = "not checked: no rule of this policy asks"
_IMAGE = ("image", "measurement", "mrtd", "mr_td", "PCR 11 ")
_MACHINE = frozenset({"machine", "instance"})
_CONFIGURATION = ("mr_config_id", "host data", "stated configuration")
_STATED = tuple(item.name for item in fields(WorkloadStatement) if item.name != "image")
"""Fields of a statement; its image is compared with what was measured, always."""


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
    if subject.platform != "none" and not any(check.name in _MACHINE for check in checks):
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
    if not any(check.group.partition("/")[0] == "event log" or check.name == "event log" for check in checks):
        seen = "shown" if subject.log is not None else "none shown"
        why = "a log says which step of the start made a register what it is"
        yield _left_out("event log", seen, why, "event log")
    if subject.devices and not any(_of_devices(check) for check in checks):
        why = "a genuine device may have an old driver, another number of neighbours or its debugging mode on"
        yield _left_out("gpu policy", f"{len(subject.devices)} devices that verify", why, "gpus")
    compared = {check.name.removeprefix("statement ") for check in checks if check.name.startswith("statement ")}
    if any(_binds_configuration(check) for check in checks):
        compared.add("measured_config")
    open_fields = [name for name in _STATED if name not in compared]
    if open_fields:
        why = "the statement is the machine's own word: true if the image is a good one, and maybe not what you want"
        yield _left_out("statement", f"not compared: {', '.join(open_fields)}", why, WORKLOAD)


def _binds_configuration(check: Check) -> bool:
    """Whether the machine was launched for the configuration that it states: a register that is zero says nothing."""
    return check.checked and check.name.startswith(_CONFIGURATION) and check.seen != "zeros"


def _of_image(check: Check) -> bool:
    """Whether what was booted was compared with something: its hash, or the registers that say it."""
    return check.checked and check.name.startswith(_IMAGE)


def _of_devices(check: Check) -> bool:
    """Whether a rule about all devices said it; what was found out about one stands in that one's group."""
    return check.group in {"gpu", "gpus"}


def _left_out(name: str, seen: str, why: str, group: str) -> Check:
    return Check(name, True, seen, _WORDS, checked=False, why=why, group=group)
