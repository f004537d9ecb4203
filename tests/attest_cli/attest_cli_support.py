"""Machines of the synthetic worlds, and bundles of theirs, as the tests of this room use them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from appliance.cli.main import run
from appliance.lab.gpu_world import SyntheticGpus
from appliance.lab.tee import SyntheticTdx
from attestation import own_image
from attestation.claims import WorkloadStatement
from attestation.evidence import build_bundle
from attestation.ratls import Identity
from attestation.staple import Staple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
NONCE = bytes(range(32))
HOSTILE = "<script>alert('x')</script>&\"'\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\x00\x9b31m"
"""Markup, escape sequences of terminals, text that turns the reading order round, control characters."""


class TdxMachine:
    """A machine of the synthetic TDX world as a platform, with its event log."""

    name = "simulated"

    def __init__(self, world: SyntheticTdx) -> None:
        self.world = world

    async def collect(self, report_data: bytes) -> bytes:
        return self.world.quote(report_data)

    async def event_log(self) -> bytes | None:
        return self.world.event_log()


@dataclass(frozen=True)
class Site:
    """A worker with one GPU, its evidence, and the files by which a verifier knows its worlds."""

    directory: Path
    tdx: SyntheticTdx
    gpus: SyntheticGpus
    bundle: bytes
    image: bytes

    @property
    def file(self) -> Path:
        return self.directory / "evidence.cbor"

    def policy(self, name: str = "policy.toml", **more: Any) -> Path:
        """A policy's file for these worlds; ``more`` are top-level tables."""
        roots = {"tdx": ["tdx.der"], "gpu": ["gpu.der"], "rim": ["rim.der"]}
        document = {"name": "site", "platforms": ["tdx"], "simulated": roots, **more}
        path = (self.directory / name).with_suffix(".json")
        path.write_text(json.dumps(document))
        return path


def statement(image: bytes, **more: Any) -> WorkloadStatement:
    content: dict[str, Any] = {
        "image": image,
        "measured_config": bytes(32),
        "model": "stub/model@main:" + "ab" * 32,
        "model_hash": bytes.fromhex("ab" * 32),
        "engine": {"kind": "sglang", "device": "cuda"},
        "root_contract": "0:" + "11" * 32,
        "owner": "0:" + "22" * 32,
        "chain": bytes(32),
    }
    return WorkloadStatement(**{**content, **more})


def make_bundle(
    tdx: SyntheticTdx,
    gpus: SyntheticGpus | None,
    *,
    nonce: bytes = NONCE,
    made_at: float | None = None,
    stapled: bool = True,
    **stated: Any,
) -> bytes:
    """A bundle as a worker makes it, with everything stapled."""

    async def staple(_quote: bytes, _devices: Sequence[bytes]) -> Staple:
        if gpus is None:
            return Staple(tdx=tdx.collateral_json())
        return Staple(tdx=tdx.collateral_json(), rims=gpus.rims(), ocsp=gpus.ocsp())

    async def make() -> bytes:
        machine = TdxMachine(tdx)
        image = own_image.own_image(tdx.quote(bytes(64)))
        said = statement(image, **stated)
        identity = await Identity.create(machine)
        return await build_bundle(
            machine,
            identity,
            said,
            nonce,
            b"\7" * 32,
            devices=gpus,
            staple=staple if stapled else None,
            made_at=made_at,
        )

    return asyncio.run(make())


def make_site(directory: Path) -> Site:
    tdx, gpus = SyntheticTdx(), SyntheticGpus()
    bundle = make_bundle(tdx, gpus)
    (directory / "evidence.cbor").write_bytes(bundle)
    (directory / "tdx.der").write_bytes(tdx.root_der)
    (directory / "gpu.der").write_bytes(gpus.roots().device[0])
    (directory / "rim.der").write_bytes(gpus.roots().rim[0])
    return Site(directory, tdx, gpus, bundle, own_image.own_image(tdx.quote(bytes(64))))


@dataclass(frozen=True)
class Done:
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


def chrysalis(*words: str | Path, ok: bool | None = None) -> Done:
    """The command in this process, through its own entry point; never a traceback."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, ["chrysalis", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = argv
        structlog.reset_defaults()
    return _checked(Done(status, out.getvalue(), err.getvalue()), ok)


def chrysalis_process(*words: str | Path, ok: bool | None = None) -> Done:
    """The command as users start it."""
    command = [sys.executable, "-m", "appliance.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    return _checked(Done(done.returncode, done.stdout, done.stderr), ok)


def _checked(done: Done, ok: bool | None) -> Done:
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    assert "internal error" not in done.stderr, done.stderr
    if ok is not None:
        assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done
