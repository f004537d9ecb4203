"""What a verification says: every check with its input and its result, and the sum of them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from attestation.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from attestation.claims import WorkloadStatement
    from attestation.gpu.claims import GpuClaims
    from attestation.tdx import TdReport

Assurance = Literal["hardware", "none"]
NO_ATTESTATION = bytes(32)
"""The image hash that stands for "no attestation" (protocol specification, section 5.7)."""

_TITLES = {
    "verdict": "Verdict",
    "bundle": "The bundle: made for us, now, by the peer we talk to",
    "certificate": "The peer's certificate",
    "collateral": "What the makers of the hardware say of it",
    "platform": "The machine",
    "event log": "What the machine started, step by step",
    "workload": "What the machine says it runs",
    "gpus": "The GPUs together",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What was looked at, in a few words.
        passed: Whether it is as it has to be.
        seen: The value found, as text.
        expected: The value demanded, as text.
        hint: What to do if it fails; empty when the values say it.
        checked: Whether it was judged at all; what a policy leaves out is listed as passed and not checked.
        why: Why it matters, one sentence for a person who is no expert.
        group: Where it stands in :attr:`Verdict.tree`, outermost first, parts separated by ``/``, for example
            ``platform/tcb`` or ``gpu 0``; empty until whoever composes a verdict says it.
        lasting: Whether the same evidence gets the same answer until the verdict expires. Where somebody else was asked
            who may say otherwise a moment later, such as a registry, it is not, and has to be asked each time.
    """

    name: str
    passed: bool
    seen: str
    expected: str
    hint: str = ""
    checked: bool = True
    why: str = ""
    group: str = ""
    lasting: bool = True

    def within(self, group: str) -> Check:
        """This check in a group, unless it names one already."""
        if self.group:
            return self
        # Twenty of them are made for each quote, and replace() takes three times as long.
        return Check(
            self.name,
            self.passed,
            self.seen,
            self.expected,
            self.hint,
            self.checked,
            self.why,
            group,
            self.lasting,
        )

    def __str__(self) -> str:
        line = f"{'ok  ' if self.passed else 'FAIL'} {self.name}: {self.seen}"
        if self.passed:
            return line if self.checked else f"--   {self.name}: {self.seen} ({self.expected})"
        return f"{line}; expected {self.expected}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class CheckGroup:
    """Checks that belong together: a node of a verdict's tree.

    Attributes:
        name: As in :attr:`Check.group`, the last part.
        title: For a person.
        checks: Checks and further groups, in the order in which they were made.
    """

    name: str
    title: str
    checks: tuple[Check | CheckGroup, ...]

    @property
    def passed(self) -> bool:
        """Whether everything under this node passed."""
        return all(item.passed for item in self.checks)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of appraising evidence under a policy.

    Attributes:
        accepted: Whether every check passed.
        assurance: ``hardware`` only when the quote verified against the CPU vendor's root.
        policy: The policy's name.
        image_hash: 32 bytes that identify what was booted; zeros without attestation.
        public_key: The peer's raw Ed25519 key the evidence speaks for (32 bytes), or ``None``.
        checks: All checks in the order they were made, failed ones too.
        expires_at: Unix time after which this verdict is void (collateral, grace, certificate).
        statement: The workload statement, when fresh evidence carried one.
        machine: An identifier of the machine (TDX: PPID; TPM: hash of its endorsement key), empty when unknown.
        report: The TD report behind the image hash, when there is one.
        root_key_id: SHA-384 of the root's public key, empty when no root was involved.
        platform: Which kind of machine spoke (:attr:`attestation.rules.Subject.platform`).
        devices: The verified claims of its devices in order; ``None`` where nobody looked.
        judged_at: Unix time as of which all of this holds.
        made_at: Unix time that fresh evidence states.
        anchored_at: Unix time since when a chain holds the evidence's digest, if that was looked up.
        bundle_digest: SHA-256 of the bundle that a certificate names, ``None`` if it names none: what
            :meth:`~attestation.verifier.Verifier.verify_bundle` takes as ``digest``.
    """

    accepted: bool
    assurance: Assurance
    policy: str
    image_hash: bytes
    public_key: bytes | None
    checks: tuple[Check, ...] = field(repr=False)
    expires_at: float
    statement: WorkloadStatement | None = field(default=None, repr=False)
    machine: bytes = b""
    report: TdReport | None = field(default=None, repr=False)
    root_key_id: bytes = b""
    platform: str = "none"
    devices: tuple[GpuClaims, ...] | None = field(default=None, repr=False)
    judged_at: float = math.nan
    made_at: float | None = None
    anchored_at: float | None = None
    bundle_digest: bytes | None = None

    @property
    def tree(self) -> CheckGroup:
        """All checks by what they are about; the root is called ``verdict``."""
        return grow(self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def require(self) -> Verdict:
        """Return this verdict if it accepts.

        Raises:
            RefusedError: With this verdict, if it does not.
        """
        if not self.accepted:
            raise RefusedError(self)
        return self

    def explain(self) -> list[str]:
        """Lines for a person: assurance first, then the outcome, then every check."""
        lines = [] if self.assurance == "hardware" else ["no assurance: this rests on no hardware root of trust"]
        lines.append(f"{'accepted' if self.accepted else 'REFUSED'} by policy {self.policy!r}")
        lines.append(f"image {self.image_hash.hex() if self.image_hash != NO_ATTESTATION else 'not attested'}")
        if self.public_key is not None:
            lines.append(f"key {self.public_key.hex()}")
        lines.append(f"valid until {moment(self.expires_at)}")
        lines.extend(str(check) for check in self.checks)
        return lines

    def to_json(self) -> str:
        """The verdict as a JSON object; bytes are lower-case hex, times are Unix seconds (null: it does not expire)."""
        return json.dumps(
            {
                "accepted": self.accepted,
                "assurance": self.assurance,
                "policy": self.policy,
                "image_hash": self.image_hash.hex(),
                "public_key": self.public_key.hex() if self.public_key is not None else None,
                "platform": self.platform,
                "machine": self.machine.hex(),
                "judged_at": self.judged_at if math.isfinite(self.judged_at) else None,
                "made_at": self.made_at,
                "anchored_at": self.anchored_at,
                "expires_at": self.expires_at if math.isfinite(self.expires_at) else None,
                "statement": self.statement.to_dict() if self.statement is not None else None,
                "checks": [
                    {
                        "name": check.name,
                        "passed": check.passed,
                        "checked": check.checked,
                        "seen": check.seen,
                        "expected": check.expected,
                        "hint": "" if check.passed else check.hint,
                        "why": check.why,
                        "group": check.group,
                    }
                    for check in self.checks
                ],
            }
        )


def grow(checks: Iterable[Check]) -> CheckGroup:
    """The tree of checks by their groups, in the order in which groups first appear."""
    return _node("verdict", [(tuple(filter(None, check.group.split("/"))), check) for check in checks])


def _node(name: str, items: Sequence[tuple[tuple[str, ...], Check]]) -> CheckGroup:
    below: dict[str, list[tuple[tuple[str, ...], Check]]] = {}
    order: list[Check | str] = []
    for path, check in items:
        if not path:
            order.append(check)
            continue
        if path[0] not in below:
            below[path[0]] = []
            order.append(path[0])
        below[path[0]].append((path[1:], check))
    children = tuple(item if isinstance(item, Check) else _node(item, below[item]) for item in order)
    return CheckGroup(name, _TITLES.get(name, name.replace("gpu", "GPU", 1)), children)


def moment(unix: float) -> str:
    """A Unix time for a person."""
    try:
        return datetime.fromtimestamp(unix, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError):
        return "the end of time"
