"""A whole network for fault tests: contracts on the lab chain, gateway, worker, client as processes, a stub engine.

Everything but the engine is the production path. Programs are stopped, killed and started again by name; what they
say is read from their own pages; what was paid is read from proven chain state.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from aiohttp import web

from appliance.chain import admin, rewards
from appliance.chain.addresses import Address
from appliance.chain.layouts import WorkerData
from appliance.keys import new_key
from appliance.lab.processes import Child, Processes, stop, survivors, until_healthy
from appliance.lab.stub_engine import StubEngine
from appliance.lab.tee_service import collateral_path
from appliance.lab.world import TON, Economy, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from appliance.chain.types import AccountState
    from appliance.config import ReleaseTrust

MODEL = "stub/model@main:" + "ab" * 32
BASE_MODEL = "stub/model"
LIMIT_S = 90.0
"""How long anything may take on a busy machine; nothing is measured."""
PRICES = Economy(price_per_token=1_200_000, worker_fee_per_token=1_000_000)
COMPLETION = PRICES.completion_multiplier // PRICES.prompt_multiplier
WORKER_CAP = 256
PROBE = 20
PROGRAMS = ("gateway", "worker", "client")


@dataclass(slots=True)
class LabChain:
    """A lab chain as a process. ``stop`` and ``start`` again: the same chain at the same ports."""

    directory: Path
    process: subprocess.Popen[bytes] | None = None
    ports: tuple[str, ...] = ()

    @property
    def network_file(self) -> Path:
        return self.directory / "network.json"

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.network_file.read_text())
        return found

    @property
    def control(self) -> str:
        return str(self.facts["control"])

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "appliance.lab.chain", "--directory", str(self.directory), "--watch-parent"]
        with (self.directory / "chain.log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self.ports], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + LIMIT_S
        while not self.network_file.exists():
            assert self.process.poll() is None, (self.directory / "chain.log").read_text()
            assert time.monotonic() < deadline, "the lab chain did not start"
            time.sleep(0.05)
        liteserver = self.facts["liteservers"][0]["address"].rpartition(":")[2]
        self.ports = ("--liteserver-port", liteserver, "--control-port", self.control.rpartition(":")[2])

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(LIMIT_S)
            self.process = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a user got: status 0 when the connection broke. ``text`` is the body as it came."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """A good answer that came to its end."""
        return self.status == 200 and (not self.text.startswith("data:") or "data: [DONE]" in self.text)

    @property
    def tokens(self) -> int:
        """Adjusted tokens that the client endpoint says it cost; 0 for an answer that did not come to its end."""
        if not self.complete:
            return 0
        told = self.headers.get("x-chrysalis-tokens") or self.text.rpartition(" tokens=")[2]
        return int(told.split()[0])

    @property
    def error(self) -> dict[str, Any]:
        """The OpenAI-style error object: of the body, or the stream's last event."""
        if self.text.startswith("{"):
            found = json.loads(self.text)
            return dict(found["error"])
        for event in self.events():
            if "error" in event:
                return dict(event["error"])
        raise AssertionError(f"status {self.status}, no error object in {self.text[-300:]!r}")

    def events(self) -> Iterator[dict[str, Any]]:
        """The stream's events."""
        for line in self.text.splitlines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


class Network:
    """One network with its own contracts and owners. Use as a context manager.

    ``used`` are the adjusted tokens of all answers that came to their end.

    Args:
        directory: For keys, files, ledgers and logs.
        chain: A running lab chain; several networks may share it.
        funds: TON for each node wallet.
        delist: ``image`` or ``model``: left out of the root contract.
        host: Host settings of a program besides the usual ones.
        releases: What gateway and client say of releases in their measured configurations.
        registers: Registers of a machine that are not the world's own, by its program.
    """

    def __init__(
        self,
        directory: Path,
        chain: LabChain,
        *,
        funds: Mapping[str, int] | None = None,
        delist: Sequence[str] = (),
        host: Mapping[str, Mapping[str, Any]] | None = None,
        delay_s: float = 0.02,
        releases: ReleaseTrust | None = None,
        registers: Mapping[str, Mapping[str, bytes]] | None = None,
    ) -> None:
        self.directory = directory
        self.chain = chain
        self.processes = Processes(directory)
        self.engine = StubEngine(BASE_MODEL, delay_s=delay_s)
        self.children: dict[str, Child] = {}
        self.ports: dict[str, int] = {}
        self.images: dict[str, bytes] = {}
        self.world: World
        self.root: Address
        self.opened: AccountState
        self._funds = {"worker": 10, "gateway": 10, "client": 100} | dict(funds or {})
        self._delist = delist
        self._host = host or {}
        self._releases = releases
        self._registers = registers or {}
        self._stack = AsyncExitStack()
        self._runner: web.AppRunner | None = None
        self._engine_port = 0
        self.used = 0

    async def __aenter__(self) -> Self:
        await self.found()
        return self

    async def __aexit__(self, kind: object, *_exc: object) -> None:
        try:
            await self.processes.stop()
        finally:
            await self.engine_stop()
            await self._stack.aclose()
        if kind is None:
            # The helper of a pool of processes ends a moment after its program.
            await until(lambda: not survivors(self.processes.sessions), "a process outlives its program")
            for log in self.directory.glob("*.log"):
                assert "Traceback" not in log.read_text(errors="replace"), log

    # Founding ----------------------------------------------------------------------------------------------------

    async def found(self) -> None:
        """Contracts, money, files, the stub engine; no program is started yet."""
        await self.engine_start()
        facts = self.chain.network_file
        world = self.world = await self._stack.enter_async_context(
            World(self.directory, facts, self.chain.control, PRICES)
        )
        self.root = await world.deploy_root()
        self.measured = {
            "worker": world.measured(MODEL, {"kind": "openai", "max_tokens": WORKER_CAP, "max_active_requests": 8}),
            "gateway": world.measured(releases=self._releases),
        }
        self.measured["client"] = self.measured["gateway"]
        for name in ("worker", "gateway"):
            machine = await world.machine(name, self.measured[name], registers=self._registers.get(name))
            self.images[name] = machine.image
        self.ports = {name: world.ports.take() for name in ("workers", "clients", *PROGRAMS)}
        orders = [
            admin.register_proxy(self.root, f"127.0.0.1:{self.ports['workers']} 127.0.0.1:{self.ports['clients']}"),
            admin.add_proxy_image(self.root, self.images["gateway"]),
        ]
        if "image" not in self._delist:
            orders.append(admin.add_image(self.root, self.images["worker"]))
        if "model" not in self._delist:
            orders.append(admin.add_model(self.root, MODEL))
        await world.order(*orders)
        await world.faucet(world.owner.address, 10 * TON)
        for name in ("api.key", "client.secret"):
            world.secret(name)
        new_key(self.directory / "gateway.key")
        self.wallets = {name: world.wallet_of(f"{name}-wallet.key") for name in PROGRAMS}
        for name, amount in self._funds.items():
            if amount:
                await world.faucet(self.wallets[name], amount * TON)
        for name in PROGRAMS:
            self.write(name)
        world.ports.release()
        self.opened = await world.chain.account(world.owner.address)

    def write(self, name: str, **host: Any) -> Path:
        """Write a program's file; ``host`` replaces settings."""
        here, world = self.directory, self.world
        status = f"127.0.0.1:{self.ports[name]}"
        common = {"collateral": str(collateral_path(world.quotes("gateway")))}
        owner: dict[str, Any] = {"address": world.owner.address.friendly(testnet=True)}
        if name == "worker":
            owner |= {"coefficient": 1000, "gas_key_file": str(here / "worker-wallet.key")}
            owner |= {"payout_min_nanotons": 1, "payout_max_fee_share": 1.0}
            settings = {
                "status": status,
                "quote_source": str(world.quotes("worker")),
                "engine_url": f"http://127.0.0.1:{self._engine_port}",
            }
        elif name == "gateway":
            settings = {
                "status": status,
                "quote_source": str(world.quotes("gateway")),
                "listen_workers": f"127.0.0.1:{self.ports['workers']}",
                "listen_clients": f"127.0.0.1:{self.ports['clients']}",
                "key_file": str(here / "gateway.key"),
                "wallet_key_file": str(here / "gateway-wallet.key"),
                "pow_difficulty": 8,
                "commit_interval_s": 1.0,
            }
        else:
            settings = {
                "listen": status,
                "wallet_key_file": str(here / "client-wallet.key"),
                "api_key_file": str(here / "api.key"),
                "secret_file": str(here / "client.secret"),
                "top_up_nanotons": 20 * TON,
                "max_coefficient": 1000,
            }
        return world.write_config(
            name, self.measured[name], owner, common | settings | dict(self._host.get(name, {})) | host
        )

    # The engine --------------------------------------------------------------------------------------------------

    async def engine_start(self) -> None:
        """Listen (again) at the engine's one address."""
        self._runner = web.AppRunner(self.engine.application(), access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._engine_port).start()
        self._engine_port = int(self._runner.addresses[0][1])

    async def engine_stop(self) -> None:
        """Refuse connections; what is open breaks."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # Programs ----------------------------------------------------------------------------------------------------

    async def launch(self, name: str, *faults: str) -> Child:
        """Start a program, with options of :mod:`appliance.lab.faults` if there are any."""
        config = str(self.directory / f"{name}.toml")
        if faults:
            arguments = ["appliance.lab.faults", *faults, "--", name, "run", "--config", config]
        else:
            arguments = ["appliance.cli", name, "run", "--config", config]
        child = self.children[name] = await self.processes.start(name, arguments)
        return child

    async def start(self, *names: str) -> None:
        """Start programs and wait until each is healthy."""
        for name in names:
            child = await self.launch(name)
            await until_healthy(child, f"http://127.0.0.1:{self.ports[name]}/health", timeout=LIMIT_S)

    async def start_all(self) -> None:
        """Start everything, and wait until a request can be answered."""
        await self.start("gateway")
        await asyncio.gather(self.start("worker"), self.launch("client"))
        await self.ready()

    async def stop(self, name: str) -> int:
        """End a program with SIGTERM."""
        return await stop(self.children[name])

    async def kill(self, name: str) -> None:
        """kill -9 of that one process; what it started has to go by itself."""
        child = self.children[name]
        child.process.kill()
        await child.process.wait()
        await self.gone(child)

    async def gone(self, child: Child) -> None:
        """Wait until nothing of a program's session is left."""
        await until(lambda: not survivors([child.process.pid]), "a process outlives its program")

    def log(self, name: str) -> str:
        """What a program wrote."""
        return (self.directory / f"{name}.log").read_text(errors="replace")

    # Asking ------------------------------------------------------------------------------------------------------

    async def ask(
        self,
        tokens: int = 10,
        *,
        stream: bool = False,
        prompt: str = "hello there",
        key: str | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        flowing: asyncio.Event | None = None,
        **more: Any,
    ) -> Answer:
        """One request of a user."""
        bearer = key if key is not None else (self.directory / "api.key").read_text().strip()
        content = {
            "model": BASE_MODEL,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "stream": stream,
        }
        data = body if body is not None else json.dumps(content | more).encode()
        sent = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"} | dict(headers or {})
        url = f"http://127.0.0.1:{self.ports['client']}/v1/chat/completions"
        parts: list[bytes] = []
        status, seen = 0, {}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_S)) as http:
            try:
                async with http.post(url, headers=sent, data=data) as answer:
                    status, seen = answer.status, dict(answer.headers)
                    async for part in answer.content.iter_any():
                        parts.append(part)
                        if flowing is not None and status == 200 and len(parts) >= 3:
                            flowing.set()
            except aiohttp.ClientError as error:
                return Answer(0, f"{type(error).__name__}: {b''.join(parts).decode(errors='replace')}")
        found = Answer(status, b"".join(parts).decode(), seen)
        self.used += found.tokens
        return found

    async def get(self, name: str, path: str = "/status") -> dict[str, Any]:
        """A page of a program."""
        found: dict[str, Any] = json.loads(await self.page(name, path))
        return found

    async def order(self, what: str) -> None:
        """An order of the worker's operator."""
        key = (self.directory / "worker-state" / "control.key").read_text().strip()
        url = f"http://127.0.0.1:{self.ports['worker']}/{what}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, headers={"Authorization": f"Bearer {key}"}) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def page(self, name: str, path: str) -> str:
        """A page of a program, as text."""
        headers = {"Authorization": "Bearer " + (self.directory / "api.key").read_text().strip()}
        url = f"http://127.0.0.1:{self.ports[name]}{path}"
        async with (
            aiohttp.ClientSession() as http,
            http.get(url, headers=headers if name == "client" else {}) as answer,
        ):
            return await answer.text()

    async def until(self, name: str, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait for a state of a program's status page; it may be down meanwhile."""
        found: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal found
            try:
                found = await self.get(name)
            except aiohttp.ClientError:
                return False
            return holds(found)

        try:
            await until_async(look, what)
        except AssertionError:
            shown = f"last seen of {name}: {json.dumps(found)[:3000]}"
            raise AssertionError(f"{what}; {shown}\n{self.log(name)[-2000:]}") from None
        return found

    async def ready(self) -> None:
        """Wait until gateway, worker and client serve each other, and the client knows it."""
        await self.until("gateway", lambda s: any(w["offered"] for w in s["workers"]), "no worker is offered")
        await self.until("client", lambda s: s["ready"], "the client has no gateway")

        async def offered() -> bool:
            return (await self.ask(PROBE)).complete

        await until_async(offered, "the client cannot ask")

    async def busy(self, count: int = 1) -> None:
        """Wait until the gateway has so many requests under way."""
        await self.until("gateway", lambda s: s["requests_open"] == count, f"not {count} requests open")

    async def streaming(self, tokens: int = 200) -> asyncio.Task[Answer]:
        """Ask for a long streamed answer, and return when its first parts are here."""
        flowing = asyncio.Event()
        asked = asyncio.create_task(self.ask(tokens, stream=True, flowing=flowing))
        begun = asyncio.create_task(flowing.wait())
        await asyncio.wait((asked, begun), timeout=LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        assert flowing.is_set(), asked.result() if asked.done() else "no part came"
        return asked

    # Money -------------------------------------------------------------------------------------------------------

    async def settle(self) -> int:
        """Wait until worker, gateway and contract agree on what was earned; returns adjusted tokens.

        The owner's balance must then have moved by exactly that, and proven transactions must explain every nanoton.
        A payout has to be worth its fee, so there is one more request. Use it once a network: the worker hears of
        newly signed payments every 10 to 20 seconds only (protocol specification, section 2.6).
        """
        state: dict[str, Any] = {}
        assert (await self.ask(PROBE)).complete

        async def agree() -> bool:
            await self.order("payout")
            worker, gateway = await self.get("worker"), await self.get("gateway")
            accounts, money = worker["accounts"], gateway["money"]
            paid = 0
            for account in accounts:
                contract = await self.world.chain.account(Address.parse(account["worker_contract"]))
                paid += WorkerData.from_cell(contract.data).tokens if contract.data is not None else 0
            state.update(max=sum(a["max"] for a in accounts), paid=paid, money=money, accounts=accounts)
            earned = money["earned"]
            return bool(earned == money["earned_committed"] == state["max"] == paid and money["reserved"] == 0)

        try:
            await until_async(agree, "the counts do not come together")
        except AssertionError:
            raise AssertionError(f"the counts do not come together: {state}") from None
        contracts = [Address.parse(account["worker_contract"]) for account in state["accounts"]]
        owner = self.world.owner.address

        async def arrived() -> bool:
            statement = await rewards.explain(self.world.chain, owner, contracts, since=self.opened)
            assert statement.difference == 0, statement.lines()
            # The gateway's owner is the same one here: what its contract earned comes by the same kind of message.
            payouts = sum(item.amount for item in statement.items if item.tokens is not None)
            return bool(payouts == state["paid"] * PRICES.worker_fee_per_token)

        await until_async(arrived, "the owner was not paid what the contract shows")
        return int(state["paid"])


def cost(completion: int, prompt: int = 2) -> int:
    """Adjusted tokens of an answer of the stub engine, which counts words."""
    return prompt + COMPLETION * completion


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait for something that another process or task changes."""

    async def look() -> bool:
        return holds()

    await until_async(look, what)


async def until_async(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    """As :func:`until`, for a question that has to be awaited."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await holds():  # noqa: ASYNC110 - other processes tell nobody here
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{what} within {LIMIT_S:g} s") from None


async def command(*arguments: str, timeout_s: float = LIMIT_S) -> tuple[int, str, str]:
    """``chrysalis`` as a user runs it: exit status, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "appliance.cli", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"chrysalis {arguments} goes on after {timeout_s:g} s") from None
    return process.returncode or 0, out.decode(), err.decode()
