"""The demonstration: the whole network on this machine, on real parts, told stage by stage.

Every program runs as a process on its production path; this module starts them, asks three prompts, waits for the pay
to arrive on chain, and compares independent counts. It decides nothing that the programs decide. ``ok`` means: every
answer came, the token counts agree, and the owner's balance moved by exactly what proven transactions explain.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.accounting.tokens import Multipliers, Usage, adjusted
from appliance.chain import rewards
from appliance.chain.addresses import Address
from appliance.chain.layouts import WorkerData
from appliance.chain.wallet import tons
from appliance.lab import retokenize
from appliance.lab.asking import Asked, Caller, messages
from appliance.lab.demo_network import COEFFICIENT, PRICES, Founded, found_network
from appliance.lab.demo_result import Reporter, Result, Settings
from appliance.lab.demo_site import ENGINE_START_S, fetch
from appliance.lab.errors import LabError, RefusedWorkerError
from appliance.lab.processes import Child, Processes, survivors, until_file, until_healthy
from appliance.lab.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from appliance.chain.types import AccountState
    from appliance.lab.demo_site import Served, WorkerSite

_KINDS = ("prompt", "cached", "completion", "reasoning")
MAX_TOKENS = 48
START_S = 120.0
PAID_S = 240.0


class Demonstration:
    """One run.

    Args:
        settings: What to demonstrate.
        reporter: Who is told.
        site: Where the worker runs.
    """

    def __init__(self, settings: Settings, reporter: Reporter, site: WorkerSite) -> None:
        self._settings = settings
        self._tell = reporter
        self._site = site
        self._result = Result()
        self._processes = Processes(settings.directory)
        self._urls: dict[str, str] = {}
        self.staying = False

    async def run(self) -> Result:
        """Run everything; errors end up in the result, and no process is left in any case.

        Raises:
            ChrysalisError: A part could not be started or did not do its work. The result so far is in ``result``.
        """
        try:
            await self._demonstrate()
        finally:
            with self._stage("stop"):
                await self._site.stop()
                await self._processes.stop()
            self._result.processes_left = [
                f"{pid} {name}" for pid, name in survivors([*self._processes.sessions, *self._site.sessions])
            ]
        self._result.checks["no process is left"] = not self._result.processes_left
        self._result.ok = all(self._result.checks.values())
        return self._result

    @property
    def result(self) -> Result:
        """What is known so far."""
        return self._result

    async def _demonstrate(self) -> None:
        with self._stage("engine and model"):
            served = await self._site.model(self._settings.model, self._tell.progress)
            self._result.engine = dict(served.engine)
            self._tell.line(f"{served.engine['name']} {served.engine['version']} with {served.name}")
        with self._stage("chain"):
            network, control = await self._start_chain()
        async with World(self._settings.directory, network, control, PRICES) as world:
            with self._stage("contracts"):
                founded = await found_network(world, served, self._site, self._tell.line, delist=self._settings.delist)
                self._urls |= founded.urls
            with self._stage("gateway"):
                await self._start("gateway", START_S)
            with self._stage("worker"):
                self._tell.line("the worker starts its engine, proves what it is and connects to the gateway …")
                await self._site.start(self._processes, wait=not self._settings.refused)
                if self._settings.refused:
                    await self._watch_refusal()
                await self._until_offered()
            with self._stage("client"):
                await self._start("client", START_S)
            with self._stage("proofs"):
                await self._show_proofs(served, founded)
                self._result.checks |= await self._site.prove(self._result)
            contract = await self._worker_contract()
            before = await world.chain.account(world.owner.address)
            engine_before = await self._site.counters()
            with self._stage("prompts"):
                await self._ask(served)
            with self._stage("payment"):
                await self._await_payment(world, contract)
            with self._stage("accounts"):
                await self._settle(world, served, contract, before, engine_before)
            if self._settings.stay is not None:
                with self._stage("stay"):
                    await self._stay(self._settings.stay)

    # Stages ------------------------------------------------------------------------------------------------------

    async def _start_chain(self) -> tuple[Path, str]:
        directory = self._settings.directory / "chain"
        child = await self._processes.start("chain", ["appliance.lab.chain", "--directory", str(directory)])
        network = directory / "network.json"
        await until_file(child, network, timeout=START_S)
        facts = json.loads(network.read_text())
        control = str(facts["control"])
        self._urls["chain"] = control
        await until_healthy(child, control + "/status", timeout=START_S)
        self._tell.line(f"local chain {facts['global_id']}, one validator, liteserver on loopback")
        return network, control

    async def _start(self, name: str, limit: float, *, wait: bool = True) -> Child:
        config = str(self._settings.directory / f"{name}.toml")
        child = await self._processes.start(name, ["appliance.cli", name, "run", "--config", config])
        if wait:
            await until_healthy(child, self._urls[name] + "/health", timeout=limit)
            self._tell.line(f"{name} is ready ({self._urls[name]})")
        return child

    async def _until_offered(self) -> None:
        """Wait until the gateway has admitted the worker: engine healthy, evidence verified, registered."""
        async with asyncio.timeout(START_S):
            while not any(worker["offered"] for worker in (await self._status("gateway"))["workers"]):
                self._still_running()
                await asyncio.sleep(0.2)
        self._tell.line("the gateway verified the worker's fresh evidence and offers it requests")

    async def _watch_refusal(self) -> None:
        """With something not listed, or altered, somebody must say why the worker takes no work."""
        async with asyncio.timeout(ENGINE_START_S):
            while not (reason := await self._site.objection(await self._status("gateway"))):
                self._still_running()
                await asyncio.sleep(1.0)
        raise RefusedWorkerError(f"the worker is refused, as it should be: {reason}")

    def _still_running(self) -> None:
        if (fallen := self._processes.fallen()) is not None:
            raise LabError(f"{fallen.name} ended; it said:\n{fallen.tail()}")

    async def _show_proofs(self, served: Served, founded: Founded) -> None:
        found = await self._get("client", f"/v1/attestation?model={served.base_name}")
        gateway = found["gateways"][0]
        worker = gateway["workers"][0]
        self._result.verdicts = {"gateway": gateway["gateway"], "worker": worker}
        proven = (("gateway", gateway["gateway"], founded.gateway_image), ("worker", worker, founded.worker_image))
        for name, verdict, image in proven:
            self._tell.line(f"{name}:")
            for line in verdict["explained"]:
                self._tell.line(f"  {line}")
            accepted = bool(verdict["accepted"]) and verdict["image_hash"] == image.hex()
            self._result.checks[f"{name} is verified and runs the listed image"] = accepted

    async def _ask(self, served: Served) -> None:
        key = (self._settings.directory / "api.key").read_text().strip()
        caller = Caller(self._urls["client"], key, served.base_name, MAX_TOKENS)
        *plain, last = self._settings.prompts
        for prompt in plain:
            self._tell.line(f"> {prompt}")
            self._answered(await caller.over_http(prompt, self._tell.text))
        self._tell.line(f"> {last}")
        self._answered(await caller.over_openai(last, self._tell.text))
        self._result.checks["every answer came"] = all(asked.answer for asked in self._result.prompts)

    def _answered(self, asked: Asked) -> None:
        self._result.prompts.append(asked)
        used, rate = asked.tokens["completion"], asked.tokens["completion"] / max(asked.seconds, 1e-9)
        self._tell.text("\n")
        self._tell.line(f"  [{used} tokens in {asked.seconds:.1f} s, {rate:.1f}/s, via {asked.via}]")

    async def _await_payment(self, world: World, contract: Address) -> None:
        """Wait until the worker contract has paid for every token of the answers."""
        owed = self._owed()
        self._tell.line(f"{owed} adjusted tokens are earned; waiting for the gateway's commitment and the payout …")
        head = await world.chain.head()
        async with asyncio.timeout(PAID_S):
            while await self._paid_tokens(world, contract) < owed:
                self._still_running()
                head = await world.chain.wait_head(head.block.seqno, timeout=60.0)
        self._result.signed_tokens = await self._paid_tokens(world, contract)

    async def _settle(
        self,
        world: World,
        served: Served,
        contract: Address,
        before: AccountState,
        engine_before: dict[str, int],
    ) -> None:
        """Compare the counts with each other and the balance with proven transactions."""
        result = self._result
        worker = await self._site.status()
        engine_now = await self._site.counters()
        engine = {name: engine_now[name] - engine_before[name] for name in engine_before}
        counted = {
            "engine": {"prompt": engine["prompt_tokens"], "completion": engine["generation_tokens"]},
            "retokenised": await self._retokenise(served),
            "usage": {kind: sum(asked.tokens[kind] for asked in result.prompts) for kind in ("prompt", "completion")},
            "ledger": _ledger(worker),
        }
        result.tokens = counted
        owed = self._owed()
        result.checks["engine and usage agree"] = counted["engine"] == counted["usage"]
        if self._settings.model != "tiny":  # random weights do not write what their tokenizer would
            result.checks["the text's own tokens agree"] = counted["engine"] == counted["retokenised"]
        result.checks["ledger and usage agree"] = counted["ledger"]["total"] == owed
        result.checks["everything earned is signed and paid"] = result.signed_tokens == owed
        statement = await rewards.explain(world.chain, world.owner.address, [contract], since=before)
        result.owner_before, result.owner_after = statement.opening, statement.closing
        result.expected_delta = statement.explained
        result.checks["the balance moved as proven transactions explain"] = statement.difference == 0
        fee = PRICES.worker_fee_per_token
        result.checks["the owner was paid tokens times fee"] = statement.earned == owed * fee
        head = await world.chain.head()
        chain = await self._get("chain", "/status")
        result.chain = {"height": head.block.seqno, "transactions": chain["transactions"]}
        self._tell.line(f"owner before {tons(result.owner_before)}, after {tons(result.owner_after)}")
        for line in self._arithmetic():
            self._tell.line(f"  {line}")
        self._tell.line(f"  {owed} adjusted tokens × {fee} nanotons = {tons(owed * fee)}")
        for line in statement.lines():
            self._tell.line(f"  {line}")

    def _owed(self) -> int:
        """Adjusted tokens that the answers' own usage makes at this network's prices."""
        prices = Multipliers(
            PRICES.prompt_multiplier,
            PRICES.cached_multiplier,
            PRICES.completion_multiplier,
            PRICES.reasoning_multiplier,
        )
        asked = self._result.prompts
        return sum(adjusted(Usage(**item.tokens), COEFFICIENT, prices).total_tokens_used for item in asked)

    def _arithmetic(self) -> list[str]:
        """How raw tokens become adjusted ones, kind by kind (rounded down request by request, protocol section 3.5)."""
        used = {kind: sum(asked.tokens[kind] for asked in self._result.prompts) for kind in _KINDS}
        raw = {
            "prompt": used["prompt"] - used["cached"],
            "cached": used["cached"],
            "completion": used["completion"] - used["reasoning"],
            "reasoning": used["reasoning"],
        }
        counted = self._result.tokens["ledger"]
        return [
            f"{raw[kind]} {kind} tokens × {COEFFICIENT / 1000:g} × {getattr(PRICES, kind + '_multiplier') / 10000:g}"
            f" = {counted[kind]}"
            for kind in _KINDS
        ]

    async def _stay(self, ended: asyncio.Event) -> None:
        """Leave the network running for whoever wants to look at it, until told to end."""
        self._result.ok = all(self._result.checks.values())
        self._tell.shown(self._result)
        for name, url in {**self._urls, **self._site.addresses()}.items():
            self._tell.line(f"{name}: {url}")
        self._tell.line("the network stays up; press Ctrl-C to end it")
        ending = asyncio.create_task(ended.wait())
        self.staying = True
        try:
            while not ending.done():
                self._still_running()
                await asyncio.wait({ending}, timeout=1.0)
        finally:
            ending.cancel()

    # Small things -----------------------------------------------------------------------------------------------

    async def _worker_contract(self) -> Address:
        worker = await self._site.status()
        return Address.parse(worker["accounts"][0]["worker_contract"])

    async def _paid_tokens(self, world: World, contract: Address) -> int:
        state = await world.chain.account(contract)
        return WorkerData.from_cell(state.data).tokens if state.data is not None else 0

    async def _retokenise(self, served: Served) -> dict[str, int]:
        conversations = [
            {"messages": messages(asked.text), "answer": asked.answer, "ended": asked.finish_reason == "stop"}
            for asked in self._result.prompts
        ]
        script = str(Path(retokenize.__file__))
        process = await asyncio.create_subprocess_exec(
            str(served.prepared.environment.python),
            script,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        task = json.dumps({"model": str(served.prepared.directory), "conversations": conversations}).encode()
        output, _ = await process.communicate(task)
        if process.returncode:
            raise LabError(f"the tokenizer ended with status {process.returncode}")
        counts = json.loads(output)
        return {kind: sum(count[kind] for count in counts) for kind in ("prompt", "completion")}

    async def _status(self, name: str) -> dict[str, Any]:
        return await self._get(name, "/status")

    async def _get(self, name: str, path: str) -> dict[str, Any]:
        headers = {}
        if name == "client":
            headers["Authorization"] = "Bearer " + (self._settings.directory / "api.key").read_text().strip()
        return await fetch(name, self._urls[name] + path, headers)

    @contextlib.contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._tell.stage(name)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._result.stages.append({"name": name, "seconds": round(time.monotonic() - begun, 3)})


def _ledger(status: dict[str, Any]) -> dict[str, int]:
    """Adjusted tokens by kind as the worker counted them, and their total as its ledger has it."""
    kinds = {kind: int(status["requests"][kind]) for kind in ("prompt", "cached", "completion", "reasoning")}
    return kinds | {"total": sum(int(account["max"]) for account in status["accounts"])}
