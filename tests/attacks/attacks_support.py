"""A machine of the synthetic world whose boot, log and configuration can be attacked, and who judges its bundles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cbor2

from attestation import cbor, claims, policy
from attestation.claims import WorkloadStatement
from attestation.evidence import build_bundle
from attestation.ratls import Identity
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.tdx_log import TdxLog
from attestation.verifier import Verifier
from measurements.eventlog import Event, EventLog, encode_tcg2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.lab.tee import SyntheticTdx
    from attestation.collateral import CollateralSource
    from attestation.rules import Rule
    from attestation.tdx_log import LoggedEvent
    from attestation.verdict import Verdict

NOW = 1_795_000_000.0
"""A fixed clock (November 2026)."""

NONCE = b"\x4e" * 32
CONFIGURATION = b"\x0c" * 32
ROOT_CONTRACT = "0:" + "11" * 32


def relaid(log: TdxLog, register: int, position: int, digest: bytes) -> TdxLog:
    """The log of a machine that measured something else at one place; all the rest as it was."""
    changed = [
        (each.register, digest if (each.register, each.position) == (register, position) else each.digest)
        for each in _firmware(log)
    ]
    return TdxLog(_encoded(changed), log.runtime)


def appended(log: TdxLog, register: int, *digests: bytes) -> TdxLog:
    """The log of a machine that extended a register further, and says so."""
    events = [(each.register, each.digest) for each in _firmware(log)]
    return TdxLog(_encoded([*events, *((register, digest) for digest in digests)]), log.runtime)


def _firmware(log: TdxLog) -> list[LoggedEvent]:
    return [event for events in log.registers for event in events if event.source == "firmware"]


def _encoded(events: list[tuple[int, bytes]]) -> bytes:
    made = tuple(Event(register + 1, 6, {"sha384": digest}, b"data") for register, digest in events)
    return encode_tcg2(EventLog(("sha384",), made), register=1)


def booted(log: TdxLog, tdx: SyntheticTdx, **registers: bytes) -> SyntheticTdx:
    """A machine beside ``tdx``, under the same root, whose registers are those that the log leads to."""
    values = {f"rtmr{number}": value for number, value in enumerate(log.replay())}
    other = tdx.neighbour()
    other.registers.update(values | registers)
    other.log = log
    return other


def image_of(tdx: SyntheticTdx) -> bytes:
    """The image hash of a machine, 32 bytes."""
    return claims.image_hash(parse_quote(tdx.quote(bytes(64))).report.measurements)


@dataclass
class Machine:
    """A machine as a platform, with a key of its own and what it says.

    Attributes:
        tdx: The TD; ``tdx.log`` is what it shows.
        identity: Its key.
        statement: What it says it runs.
    """

    tdx: SyntheticTdx
    identity: Identity = field(init=False)
    statement: WorkloadStatement = field(init=False)
    name: str = "simulated"

    @classmethod
    async def start(cls, tdx: SyntheticTdx, *, identity: Identity | None = None, **stated: Any) -> Machine:
        """The machine, which tells the truth where nothing else is stated."""
        machine = cls(tdx)
        machine.identity = identity or await Identity.create(machine, clock=lambda: NOW)
        said = {"image": image_of(tdx), "measured_config": CONFIGURATION, "root_contract": ROOT_CONTRACT}
        machine.statement = WorkloadStatement(**(said | stated))
        return machine

    async def collect(self, report_data: bytes) -> bytes:
        return self.tdx.quote(report_data)

    async def event_log(self) -> bytes | None:
        return self.tdx.event_log()

    async def bundle(self, nonce: bytes = NONCE, *, made_at: float = NOW - 5) -> bytes:
        """Fresh evidence with its collateral."""

        async def staple(_: bytes, __: Sequence[bytes]) -> Staple:
            return Staple(tdx=self.tdx.collateral_json())

        return await build_bundle(self, self.identity, self.statement, nonce, b"", staple=staple, made_at=made_at)

    def signed(self, bundle: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
        """A bundle with other content, signed by whoever holds this machine's key."""
        content = cbor2.loads(bundle)
        change(content)
        del content["signature"]
        content["signature"] = self.identity.sign(b"chrysalis evidence bundle v2\0" + cbor.encode(content))
        return cbor.encode(content)


async def judged(
    bundle: bytes,
    tdx: SyntheticTdx,
    *rules: Rule,
    nonce: bytes | None = NONCE,
    public_key: bytes | None = None,
    now: float = NOW,
    source: CollateralSource | None = None,
) -> Verdict:
    """The verdict of somebody who trusts the root of ``tdx`` and demands ``rules`` besides what is always demanded."""
    chosen = policy.for_name("simulated", simulated_roots=(tdx.root_der,)).demanding(*rules)
    return await Verifier(chosen, source, clock=lambda: now).verify_bundle(bundle, nonce=nonce, public_key=public_key)


def failed(verdict: Verdict) -> list[str]:
    """Names of the checks that failed; a refused verdict has some, an accepted one none."""
    names = [check.name for check in verdict.failed]
    assert verdict.accepted is not bool(names)
    return names


def unchecked(verdict: Verdict) -> set[str]:
    """Names of what nobody looked at."""
    return {check.name for check in verdict.checks if not check.checked}


class Listing:
    """A registry that lists these images."""

    def __init__(self, *images: bytes) -> None:
        self._images = frozenset(images)

    def image_listed(self, image_hash: bytes, /) -> bool:
        return image_hash in self._images
