"""How long the image boots, stage by stage, against a plain Debian cloud image to its login prompt.

``python benchmarks/boot.py [--json] [--image DIR] [--rounds N] [--accel auto|kvm|tcg] [--memory MiB] [--model tiny]``.
Both run on the same QEMU, firmware, machine shape and kind of TPM, one after the other, rounds alternating; the clock
starts when QEMU runs the guest, and each event counts when the host sees it. Of several rounds the best of each counts.

Of the image: each stage of its boot (DESIGN, section 4) as its console tells it; ``attestable`` is the first answer of
the attested status port to a fresh nonce, which needs everything but the model and the engine; ``first token`` is the
end of the engine's self-check, which has the engine answer a prompt. Stages that need a network beyond that (chain,
links) are not waited for. Of the cloud image (``benchmarks/cloud_image.py``): the kernel's first line and the prompt.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cloud_image
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.config import home
from appliance.engine.models import prepare
from appliance.host.errors import NotReadyError
from appliance.host.launch import decide_accel, start
from appliance.host.machine import FILES, STATUS_PORT, Configuration, Machine, qemu_command
from appliance.host.readiness import get_bytes
from appliance.host.swtpm import start_swtpm
from appliance.host.volumes import write_files
from appliance.lab.tpm_world import TpmWorld
from appliance.model import PackedModel, pack
from measurements.manifest import MANIFEST_NAME, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from appliance.host.kept import ProcessIdentity
    from appliance.host.machine import Accelerator

STAGE = re.compile(rb"chrysalis: stage ([a-z-]+) (done|failed|skipped)\b([^\r\n]*)")
PROMPT = re.compile(rb"login: ")
CRASH = re.compile(rb"(BUG: [^\r\n]*|Oops: [^\r\n]*|Kernel panic[^\r\n]*)")
"""QEMU 7.2's emulation of several processors often breaks a kernel that patches itself: such a boot does not count."""
ATTEMPTS = 4
POLL_S = 0.1
ASK_S = 1.0
LAST = "self-check"
WITH_ENGINE = frozenset({"engine", "self-check", "evidence", "chain", "links"})


@dataclass
class Events:
    """What was seen, and when: seconds since QEMU ran."""

    begun: float = field(default_factory=time.monotonic)
    seen: dict[str, float] = field(default_factory=dict)

    def note(self, name: str) -> None:
        """It happened, now if not before."""
        self.seen.setdefault(name, round(time.monotonic() - self.begun, 1))


class CrashedError(Exception):
    """The guest's kernel broke."""


@dataclass(frozen=True)
class Setting:
    """What both machines have in common."""

    image: Path
    accel: Accelerator
    cpus: int
    memory_mib: int
    limit_s: float


def shape(setting: Setting, name: str, directory: Path, **more: Any) -> Machine:
    return Machine(
        name=name,
        directory=directory,
        image=setting.image,
        cpus=setting.cpus,
        memory_mib=setting.memory_mib,
        accel=setting.accel,
        **more,
    )


async def watch(console: Path, events: Events, look: Callable[[bytes], bool], setting: Setting) -> bytes:
    """Follow a console until ``look`` is satisfied with all of it, or the time is over; all of it.

    Raises:
        CrashedError: The kernel broke.
    """
    while time.monotonic() - events.begun < setting.limit_s:
        said = console.read_bytes() if console.exists() else b""
        if look(said):
            return said
        if found := CRASH.search(said):
            raise CrashedError(found[1].decode(errors="replace"))
        await asyncio.sleep(POLL_S)
    print(f"seen until {setting.limit_s:g} s: {events.seen}", file=sys.stderr)
    if "attestable" in events.seen:  # what comes behind it may need more than this benchmark gives
        return said
    message = f"not there after {setting.limit_s:g} s; the last it said:\n{said[-2000:].decode(errors='replace')}"
    raise SystemExit(message)


# ---- the image ---------------------------------------------------------------------------------------------------


def has_engine(image: Path) -> bool:
    """Whether the image serves at all; without, its boot is measured up to attestable."""
    return parse_manifest((image / MANIFEST_NAME).read_bytes()).engine.name != "none"


def configuration(image: Path, volume: PackedModel, world: TpmWorld, authority: int) -> Configuration:
    """Complete and valid; the chain is one that nobody runs, because nothing waits for it."""
    engine = parse_manifest((image / MANIFEST_NAME).read_bytes()).engine.name
    block = {"seqno": 0, "root_hash": "1" * 64, "file_hash": "2" * 64}
    measured = {
        "model": volume.name,
        "network": {"global_id": 1, "zerostate": block, "key_block": block, "root_contract": f"0:{'0' * 64}"},
        "trust": {
            "policy": "simulated",
            "development": True,
            "tpm_roots": [base64.b64encode(root).decode() for root in world.roots],
        },
        "engine": {"kind": engine if has_engine(image) else "transformers"},
        "model_volume": {"format": volume.format, "data_blocks": volume.data_blocks},
    }
    nobody = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    host = {
        "liteservers": [{"address": "10.0.2.2:1", "key": base64.b64encode(nobody).decode()}],
        "attestation_ca": f"http://10.0.2.2:{authority}",
    }
    owner = {"address": f"0:{'0' * 64}"}
    return Configuration(measured=tomli_w.dumps(measured), owner=tomli_w.dumps(owner), host=tomli_w.dumps(host))


async def boot_image(setting: Setting, volume: PackedModel, scratch: Path) -> dict[str, float]:
    """Boot it until the engine has answered; when each thing happened."""
    world = TpmWorld(scratch / "world")
    async with world.serve() as authority:
        texts = configuration(setting.image, volume, world, authority)
        machine = shape(setting, "bench", scratch / "vm", configuration=texts, model=volume.path)
        vm = await start(machine, prepare_tpm=world.prepare_swtpm)
        events = Events()
        asking = asyncio.create_task(ask(vm.forwards[STATUS_PORT], events))
        failed: dict[str, str] = {}

        def look(said: bytes) -> bool:
            if said:
                events.note("first line")
            for raw, state, more in STAGE.findall(said):
                name = raw.decode()
                if state == b"failed":
                    failed[name] = more.decode(errors="replace")
                    events.note(f"{name} failed")
                else:
                    events.note(name)
            ended = LAST in events.seen or not has_engine(setting.image) or failed.keys() & WITH_ENGINE
            return bool(ended and "attestable" in events.seen) or bool(failed.keys() - WITH_ENGINE)

        try:
            await watch(vm.console, events, look, setting)
        finally:
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
            await vm.stop(0)
    for name, why in failed.items():
        print(f"stage {name} failed:{why}", file=sys.stderr)
    return events.seen


async def ask(port: int, events: Events) -> None:
    """Ask for fresh evidence until there is some; not before the machine has keys, so as not to take its time."""
    while "attestable" not in events.seen:
        if "keys" in events.seen:
            with suppress(NotReadyError):
                await asyncio.to_thread(get_bytes, port, f"/v1/attestation?nonce={secrets.token_hex(32)}", 30.0)
                events.note("attestable")
        await asyncio.sleep(ASK_S)


# ---- the cloud image ---------------------------------------------------------------------------------------------


def start_cloud(setting: Setting, disk: Path, scratch: Path) -> tuple[Path, subprocess.Popen[bytes], ProcessIdentity]:
    """Its directory, QEMU, and its TPM. The disk is writable, as in a cloud: a copy, thrown away afterwards."""
    directory = scratch / "cloud"
    machine = shape(setting, "cloud", directory, disk=str(directory / "disk.raw"), forwards=())
    directory.mkdir()
    subprocess.run(["cp", "--sparse=always", disk, directory / "disk.raw"], check=True)
    write_files(machine)
    TpmWorld(scratch / "cloud-world").prepare_swtpm(directory / FILES.tpm_state)
    tpm = start_swtpm(directory, lambda _command: None)
    fixed, free = "node-name=image,read-only=on", "node-name=image,read-only=off"
    command = [word.replace(fixed, free) for word in qemu_command(machine)]
    with (directory / FILES.qemu_log).open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    return directory, process, tpm


async def boot_cloud(setting: Setting, disk: Path, scratch: Path) -> dict[str, float]:
    """Boot it to its prompt."""
    directory, process, tpm = await asyncio.to_thread(start_cloud, setting, disk, scratch)
    events = Events()

    def look(said: bytes) -> bool:
        if said:
            events.note("first line")
        if PROMPT.search(said):
            events.note("login prompt")
        return "login prompt" in events.seen or process.poll() is not None

    try:
        said = await watch(directory / FILES.console, events, look, setting)
    finally:
        process.kill()
        process.wait()
        tpm.end(10)
    if "login prompt" not in events.seen:
        message = f"QEMU ended: {(directory / FILES.qemu_log).read_text()}\n{said[-1500:].decode(errors='replace')}"
        raise SystemExit(message)
    return events.seen


# ---- both --------------------------------------------------------------------------------------------------------


async def sound(
    scratch: Path, name: str, boot: Callable[[Path], Coroutine[Any, Any, dict[str, float]]]
) -> dict[str, float]:
    """Boot until no kernel breaks.

    Raises:
        SystemExit: Each of several did.
    """
    for attempt in range(ATTEMPTS):
        place = scratch / f"{name}-{attempt}"
        place.mkdir()
        try:
            found = await boot(place)
        except CrashedError as error:
            print(f"{name}: the guest's kernel broke ({error}); once more", file=sys.stderr)
        else:
            print(f"{name}: {found}", file=sys.stderr)
            return found
        finally:
            shutil.rmtree(place)
    message = f"{name}: the guest's kernel broke {ATTEMPTS} times"
    raise SystemExit(message)


def best(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: min(found[name] for found in rounds if name in found) for name in rounds[-1]}


async def measure(options: argparse.Namespace, image: Path) -> list[dict[str, Any]]:
    disk = cloud_image.make(home() / "cloud-image")
    with tempfile.TemporaryDirectory(dir=home(), prefix="bench-") as name:
        scratch = Path(name)
        prepared = await prepare(options.model)
        volume = pack(prepared.directory, scratch / "volume", name=options.model, commit="1")
        probe = shape(Setting(image, options.accel, 1, options.memory, 0), "probe", scratch / "probe")
        accel = decide_accel(probe)[0].accel
        cpus = options.cpus or (2 if accel == "kvm" else 1)
        setting = Setting(image, accel, cpus, options.memory, options.limit)
        ours, theirs = [], []
        for number in range(options.rounds):
            theirs.append(await sound(scratch, f"cloud{number}", lambda place: boot_cloud(setting, disk, place)))
            ours.append(await sound(scratch, f"image{number}", lambda place: boot_image(setting, volume, place)))
    plain, mine = best(theirs), best(ours)
    login = plain["login prompt"]
    rows = [{"name": f"cloud image: {event}", "seconds": at, "accel": setting.accel} for event, at in plain.items()]
    for event, at in sorted(mine.items(), key=lambda item: item[1]):
        shown = "first token" if event == LAST else event
        rows.append(
            {"name": f"image: {shown}", "seconds": at, "of_login": round(at / login, 2), "accel": setting.accel}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--image", type=Path, default=None, help="directory of a built image")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--cpus", type=int, default=0, help="of both machines; by default 2, emulated 1")
    parser.add_argument("--memory", type=int, default=3072, help="MiB, of both machines")
    parser.add_argument("--model", default="tiny", help="the recipe whose volume is served")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds that a boot may take")
    options = parser.parse_args()
    image = (options.image or home() / "image" / "engine-cpu").absolute()
    if not (image / "chrysalis.raw").exists():
        made = [{"name": f"not measured: no built image in {image.name} (chrysalis image build)"}]
    elif os.geteuid() != 0:
        made = [{"name": "not measured: making the cloud image needs root"}]
    else:
        made = asyncio.run(measure(options, image))
    if options.json:
        print(json.dumps({"rows": made}))
        return
    for row in made:
        print(", ".join(f"{key} {value}" if key != "name" else f"{value:<28}" for key, value in row.items()))


if __name__ == "__main__":
    main()
