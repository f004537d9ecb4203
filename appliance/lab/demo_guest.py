"""The demonstration's worker inside the booted image: firmware, UKI, dm-verity root, measured boot, TPM, model volume.

In: a built image. Out: a worker that the gateway admits for what its machine measured. What the machine will measure is
computed from the image's files before it starts, and listed; the prediction never sees a log or a quote.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from appliance.config.ports import host_port
from appliance.engine.models import prepare
from appliance.host import launch, readiness, running
from appliance.host.errors import LaunchError
from appliance.host.machine import STATUS_PORT, Configuration, Machine
from appliance.lab import tamper
from appliance.lab.collateral_server import CollateralServer
from appliance.lab.demo_evidence import keep_evidence
from appliance.lab.demo_site import Served, Settled, engine_settings, fetch
from appliance.lab.errors import LabError
from appliance.lab.tpm_world import TpmWorld
from appliance.lab.world import QUICK_POLL_S
from appliance.model import pack
from attestation.tpm import references
from measurements import tpm
from measurements.manifest import MANIFEST_NAME, parse_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from appliance.config import MeasuredConfig
    from appliance.engine.progress import ProgressCallback
    from appliance.host.launch import RunningVm
    from appliance.host.machine import Accelerator
    from appliance.lab.demo_result import Part, Result
    from appliance.lab.processes import Processes
    from appliance.lab.world import World
    from appliance.model import PackedModel
    from measurements.manifest import Manifest

HOST_FROM_GUEST = "10.0.2.2"
"""The host's loopback as QEMU's user networking shows it to the guest."""
START_S = 1200.0
DISK, UKI, ROOT = "chrysalis.raw", "chrysalis.efi", "chrysalis.root.raw"
REGISTERS = (4, 9, 11, 12)
"""What the image's files decide; register 14 is the measured configuration's."""
REGISTER_CHECK = re.compile(r"PCR (\d+)\b")
NOT_VERIFIED = re.compile(r"device-mapper: verity[^\r\n\x1b]*corrupted[^\r\n\x1b]*")
"""What a kernel says of a root file system that does not verify."""
KERNEL_FAULT = re.compile(r"RIP: 0010:")
"""A fault inside the kernel (x86, ``arch/x86/kernel/dumpstack.c``): no attack of this demonstration makes one."""
MAX_RESTARTS = 2


@dataclass(frozen=True, slots=True)
class GuestSettings:
    """Which image, and on what machine.

    Attributes:
        image: Directory of the built image.
        accel: ``auto``, ``kvm`` or ``tcg``.
        tamper: What is altered by one byte after it was predicted and listed.
        cpus: Virtual CPUs.
        memory_mib: Memory of the guest.
    """

    image: Path
    accel: Accelerator = "auto"
    tamper: Part | None = None
    cpus: int = 2
    memory_mib: int = 3072


class GuestSite:
    """The worker in a virtual machine that boots the image.

    Args:
        directory: The demonstration's.
        settings: Which image, and on what machine.
        say: Told what happens.

    Raises:
        MeasurementError: The image has no manifest, or one that is refused.
    """

    def __init__(self, directory: Path, settings: GuestSettings, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._settings = settings
        self._say = say
        self._stack = AsyncExitStack()
        self._manifest: Manifest = read_manifest(settings.image)
        self._key = secrets.token_urlsafe(32)
        self._authorities = TpmWorld(directory / "tpm-world")
        self._volume: PackedModel | None = None
        self._machine: Machine | None = None
        self._vm: RunningVm | None = None
        self._predicted: dict[int, bytes] = {}
        self._restarts = 0
        self.sessions: list[int] = []

    async def model(self, recipe: str, progress: ProgressCallback) -> Served:
        """The recipe's checkpoint as a volume, served by the engine that the image carries."""
        prepared = await prepare(recipe, progress)
        base, _, rest = prepared.name.partition("@")
        self._volume = await asyncio.to_thread(
            pack,
            prepared.directory,
            self._directory / "model.volume",
            name=base,
            commit=rest.partition(":")[0],
            progress=progress,
        )
        engine = self._manifest.engine
        facts = {"name": engine.name, "version": engine.version, "model": self._volume.name}
        return Served(prepared, self._volume.name, facts, engine_settings(prepared) | {"kind": engine.name})

    async def found(self, world: World, served: Served, owner: Mapping[str, Any], ports: Mapping[str, int]) -> Settled:
        """Predict what the machine will measure, open its authorities, write its three configurations."""
        volume = self._packed
        authority = await self._stack.enter_async_context(self._authorities.serve())
        collateral = await self._stack.enter_async_context(CollateralServer(tdx=world.tee))
        roots = {"tpm_roots": [base64.b64encode(root).decode() for root in self._authorities.roots]}
        measured = world.measured(
            served.name,
            served.settings,
            trust=roots,
            model_volume={"format": volume.format, "data_blocks": volume.data_blocks},
        )
        host = {
            "liteservers": [seen_from_guest(server.model_dump()) for server in world.liteservers],
            "gateways": [f"{HOST_FROM_GUEST}:{ports['workers']}"],
            "attestation_ca": f"http://{HOST_FROM_GUEST}:{authority}",
            "collateral": f"http://{HOST_FROM_GUEST}:{collateral.port}",
            "registry_poll_s": QUICK_POLL_S,
            "owner_page_sha256": hashlib.sha256(self._key.encode()).hexdigest(),
        }
        texts = Configuration(
            measured=tomli_w.dumps(measured.model_dump(mode="json", exclude_none=True)),
            owner=tomli_w.dumps({key: value for key, value in owner.items() if key != "gas_key_file"}),
            host=tomli_w.dumps(host),
            gas_key=await asyncio.to_thread(Path(owner["gas_key_file"]).read_bytes),
        )
        self._predicted = self._predict(measured)
        self._machine = await asyncio.to_thread(self._make, texts, served)
        reference = {"name": "worker"} | {f"pcr{number}": value.hex() for number, value in self._predicted.items()}
        return Settled(references.image_hash(self._predicted), roots | {"tpm_references": [reference]})

    async def start(self, processes: Processes, *, wait: bool) -> None:
        """Boot; with ``wait``, return when every stage of the guest is done."""
        if self._machine is None:
            raise LabError("the machine was not made yet")
        await self._boot(self._machine)
        while wait:
            try:
                await readiness.until_stages(self._running, seconds=START_S, report=self._report)
            except LaunchError:
                if not await self._boot_again():
                    raise
            else:
                return

    async def status(self) -> dict[str, Any]:
        """The worker's status by way of the guest's attested port."""
        return await self._get("/v1/worker/status")

    async def counters(self) -> dict[str, int]:
        """The engine's counters by the same way."""
        return await self._get("/v1/worker/engine")

    async def objection(self, gateway: Mapping[str, Any]) -> str:
        """A stage that failed in the guest, what its console says of a part that did not verify, or a gateway's no."""
        vm = self._running
        alive = vm.alive
        stages, _ = await asyncio.to_thread(readiness.look, vm)
        for stage in stages:
            if stage.state == "failed":
                return f"the guest's stage {stage.name} failed: {stage.reason}"
        if refused := gateway.get("refused_workers"):
            return f"the gateway refused it: {refused[-1]}"
        if found := NOT_VERIFIED.search(await asyncio.to_thread(self._console)):
            return f"the guest's kernel refused the root file system: {found[0].strip()}"
        return "" if alive or await self._boot_again() else f"the machine ended; it said:\n{vm.tail()}"

    async def prove(self, result: Result) -> dict[str, bool]:
        """Compare what the gateway's and client's verifier saw with what the image's files predicted."""
        verdict = result.verdicts["worker"]
        seen = registers_seen(verdict)
        vm = self._running
        result.vm = {
            "image": str(self._settings.image),
            "accel": vm.accel,
            "directory": str(vm.directory),
            "console": str(vm.console),
            "status_url": self._url,
            "status_key": self._key,
            "stages": await self._get("/v1/stages"),
            "predicted": {f"pcr{number}": value.hex() for number, value in self._predicted.items()},
            "seen": {f"pcr{number}": value for number, value in seen.items()},
            "verdict": verdict,
        }
        for number, value in self._predicted.items():
            self._say(f"PCR {number}: predicted {value.hex()}, quoted {seen.get(number, 'nothing')}")
        values = {f"pcr{number}": value.hex() for number, value in self._predicted.items()}
        kept = await keep_evidence(
            self._directory,
            self._url,
            platform="tpm",
            roots=self._authorities.roots,
            measurements={"registers": [{"platform": "tpm", "name": "predicted from the files", "values": values}]},
            say=self._say,
        )
        return kept | {
            f"PCR {number} is what the image's files predict": seen.get(number) == value.hex()
            for number, value in self._predicted.items()
        }

    def addresses(self) -> dict[str, str]:
        """The attested status port."""
        return {"worker (in the guest)": self._url}

    async def stop(self) -> None:
        """End the machine and its authorities; it keeps nothing, so the power button gets no time."""
        if self._vm is not None:
            await self._vm.stop(0)
        await self._stack.aclose()

    # What is altered, and by what is measured -----------------------------------------------------------------------

    def _predict(self, measured: MeasuredConfig) -> dict[int, bytes]:
        uki = (self._settings.image / UKI).read_bytes()
        registers = tpm.predict(uki, boot="disk").registers
        return {number: registers[number] for number in REGISTERS} | {14: tpm.configuration_register(measured.digest())}

    def _make(self, texts: Configuration, served: Served) -> Machine:
        """The machine; what is to be altered is altered in a copy, after everything was predicted."""
        image, part = self._settings.image, self._settings.tamper
        disk, volume = image / DISK, self._packed.path
        copy = self._directory / "altered"
        change: object = None
        if part == "root":
            change, disk = tamper.alter_root(disk, image / ROOT, copy), copy
        elif part == "uki":
            change, disk = tamper.alter_uki(disk, image / UKI, copy), copy
        elif part == "command-line":
            change, disk = tamper.alter_command_line(disk, image / UKI, copy), copy
        elif part == "model":
            change, volume = tamper.alter_model(volume, served.prepared.directory, copy), copy
        elif part == "configuration":
            change, texts = (
                "one digit of max_tokens",
                replace(texts, measured=tamper.alter_configuration(texts.measured)),
            )
        if change is not None:
            self._say(f"altered after it was listed: {part} ({change})")
        return Machine(
            name=f"demo-{secrets.token_hex(3)}",
            directory=self._directory / "vm",
            image=image,
            disk=str(disk),
            cpus=self._settings.cpus,
            memory_mib=self._settings.memory_mib,
            accel=self._settings.accel,
            configuration=texts,
            model=volume,
        )

    # Starting, and starting again -------------------------------------------------------------------------------------

    async def _boot(self, machine: Machine) -> None:
        self._vm = vm = await launch.start(machine, tell=self._say, prepare_tpm=self._authorities.prepare_swtpm)
        swtpm = vm.record.swtpm
        self.sessions += [vm.pid, *([swtpm.pid] if swtpm is not None else [])]

    async def _boot_again(self) -> bool:
        """Whether a machine that ended was started once more: QEMU's emulation lets a kernel fault now and then."""
        vm, machine = self._running, self._machine
        faulted = KERNEL_FAULT.search(await asyncio.to_thread(self._console)) is not None
        if vm.alive or machine is None or vm.accel != "tcg" or not faulted or self._restarts >= MAX_RESTARTS:
            return False
        self._restarts += 1
        self._say("the guest's kernel faulted under emulation; the machine is started again")
        await running.delete(vm)
        await self._boot(machine)
        return True

    def _console(self) -> str:
        return self._running.console.read_text(errors="replace")

    # Small things ---------------------------------------------------------------------------------------------------

    @property
    def _packed(self) -> PackedModel:
        if self._volume is None:
            raise LabError("the model was not packed yet")
        return self._volume

    @property
    def _running(self) -> RunningVm:
        if self._vm is None:
            raise LabError("the machine was not started yet")
        return self._vm

    @property
    def _url(self) -> str:
        return f"https://127.0.0.1:{self._running.forwards[STATUS_PORT]}"

    async def _get(self, path: str) -> dict[str, Any]:
        """Ask the attested port; its certificate carries evidence and no name, and this is the owner's look."""
        return await fetch("guest", self._url + path, {"Authorization": f"Bearer {self._key}"}, ssl=False)

    def _report(self, stage: readiness.Stage) -> None:
        if stage.state in {"done", "skipped", "failed"}:
            self._say(f"  guest: {stage.name} {stage.state}" + (f" ({stage.seconds:.1f} s)" if stage.seconds else ""))


def read_manifest(image: Path) -> Manifest:
    """The manifest of a built image.

    Raises:
        LabError: There is no image.
        ManifestError: It is none.
    """
    try:
        return parse_manifest((image / MANIFEST_NAME).read_bytes())
    except OSError:
        raise LabError(f"no image in {image}", hint="build it: just image") from None


def seen_from_guest(server: dict[str, Any]) -> dict[str, Any]:
    """A liteserver of this machine's loopback, as the guest reaches it."""
    _, port = host_port(server["address"])
    return server | {"address": f"{HOST_FROM_GUEST}:{port}"}


def registers_seen(verdict: Mapping[str, Any]) -> dict[int, str]:
    """What a verdict says it saw in the registers, as hex by number."""
    found = {}
    for check in verdict["checks"]:
        if (named := REGISTER_CHECK.match(check["name"])) is not None:
            found[int(named[1])] = check["seen"]
    return found
