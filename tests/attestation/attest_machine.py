"""A whole machine for tests of evidence: a synthetic TD with its log, GPUs, an identity, and who verifies them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cbor2
from attest_support import NOW

from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation import cbor, claims, evidence, policy
from attestation.claims import WorkloadStatement
from attestation.ratls import Identity
from attestation.staple import Staple
from attestation.tdx import parse_quote
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from attestation.evidence import DeviceCollector
    from attestation.verdict import Verdict

NONCE = b"\x4e" * 32
BLOCK = b"\xb1" * 32
MADE = NOW - 5


class LoggingTdx:
    """A synthetic TD as a platform that shows its log."""

    name = "simulated"

    def __init__(self, tdx: SyntheticTdx) -> None:
        self.tdx = tdx

    async def collect(self, report_data: bytes) -> bytes:
        return self.tdx.quote(report_data)

    async def event_log(self) -> bytes | None:
        return self.tdx.event_log()


@dataclass(kw_only=True)
class Machine:
    """One machine; its parts can be exchanged before it makes evidence.

    Attributes:
        tdx: The TD.
        gpus: Its GPUs, ``None`` for a machine without any.
        identity: Its key.
        statement: What it says.
        collector: Who asks the GPUs, for attacks; the GPUs themselves by default.
        stapled: What travels with its evidence, all that its worlds have by default.
    """

    tdx: SyntheticTdx
    gpus: SyntheticGpus | None
    identity: Identity
    statement: WorkloadStatement
    collector: DeviceCollector | None = None
    stapled: Staple | None = None
    keys: dict[str, bytes] = field(default_factory=lambda: {"hpke": b"\x07" * 32})

    @classmethod
    async def boot(cls, *, gpus: int = 1, tdx: SyntheticTdx | None = None, **stated: Any) -> Machine:
        """A machine with GPUs that states so."""
        world = tdx or SyntheticTdx(clock=lambda: NOW)
        platform = LoggingTdx(world)
        engine = {"device": "cuda" if gpus else "cpu", "tensor_parallel": max(1, gpus), "data_parallel": 1}
        values: dict[str, Any] = {
            "image": claims.image_hash(parse_quote(world.quote(bytes(64))).report.measurements),
            "measured_config": b"\x0c" * 32,
            "engine": engine,
        }
        return cls(
            tdx=world,
            gpus=SyntheticGpus(gpus, clock=lambda: NOW) if gpus else None,
            identity=await Identity.create(platform, clock=lambda: NOW),
            statement=WorkloadStatement(**(values | stated)),
        )

    async def bundle(self, nonce: bytes = NONCE, **changes: Any) -> bytes:
        """Fresh evidence with all that a verifier needs."""
        given: dict[str, Any] = {
            "keys": self.keys,
            "devices": self.collector or self.gpus,
            "staple": self._staple,
            "made_at": MADE,
        }
        return await evidence.build_bundle(
            LoggingTdx(self.tdx), self.identity, self.statement, nonce, BLOCK, **(given | changes)
        )

    async def _staple(self, quote: bytes, devices: Sequence[bytes]) -> Staple:
        if self.stapled is not None:
            return self.stapled
        gpus = self.gpus
        return Staple(
            tdx=self.tdx.collateral_json(),
            rims=gpus.rims() if gpus and devices else {},
            ocsp=gpus.ocsp() if gpus and devices else {},
        )

    def verifier(self, *, now: float = NOW, **options: Any) -> Verifier:
        """Who trusts the worlds of this machine and has no source of its own."""
        chosen = policy.for_name(
            "simulated",
            simulated_roots=(self.tdx.root_der,),
            gpu_roots=self.gpus.roots() if self.gpus else None,
        )
        return Verifier(chosen, clock=lambda: now, **options)

    async def judged(self, bundle: bytes | None = None, **given: Any) -> Verdict:
        """The verdict on fresh evidence, this machine's own by default."""
        asked: dict[str, Any] = {"nonce": NONCE, "public_key": self.identity.public_key}
        return await self.verifier().verify_bundle(bundle or await self.bundle(), **(asked | given))


def failed(verdict: Verdict) -> list[str]:
    """Names of the checks that failed."""
    return [check.name for check in verdict.failed]


def unchecked(verdict: Verdict) -> list[str]:
    """Names of what nobody looked at."""
    return [check.name for check in verdict.checks if not check.checked]


def signed_again(bundle: bytes, change: Callable[[dict[str, Any]], object], signer: Identity) -> bytes:
    """A bundle with other content, signed by whoever has the key."""
    content = cbor2.loads(bundle)
    change(content)
    del content["signature"]
    content["signature"] = signer.sign(b"chrysalis evidence bundle v2\0" + cbor.encode(content))
    return cbor.encode(content)
