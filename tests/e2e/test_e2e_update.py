"""A network moves from one release to the next: nobody is locked out, and nobody is taken back.

One network for all tests, in their order, as an operator would go through them (``docs/releases.md``).
"""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import tomli_w
from e2e_network import LIMIT_S, MODEL, Answer, Network, command, until_async
from typer.testing import CliRunner
from update_release import DAY, Image, Publisher

from appliance.chain import admin
from appliance.chain.admin import model_hash
from appliance.chain.registry import Registry
from appliance.cli.registry import app as registry
from appliance.config import ReleaseTrust
from appliance.lab.processes import Child, stop, until_healthy
from appliance.releases import GONE
from attestation.policies.release_memory import ReleaseMemory
from measurements.errors import ChrysalisError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from e2e_network import LabChain

    from appliance.chain.layouts import RootState

pytestmark = pytest.mark.asyncio(loop_scope="module")

TON = 10**9
OLD, NEXT, GATEWAY = Image("engine-cpu", "old"), Image("engine-cpu", "next"), Image("gateway")
SHAPES = 12
FAMILY = "chrysalis/engine-cpu"


class Update:
    """The network, its releases, and a second worker that runs the next image.

    Attributes:
        network: The network; its worker runs the old image.
        publisher: Signs the releases.
        images: Image hash of each worker's machine.
        answers: What users got from :meth:`asking`.
    """

    def __init__(self, network: Network, publisher: Publisher) -> None:
        self.network = network
        self.publisher = publisher
        self.images = {"worker": network.images["worker"]}
        self.answers: list[Answer] = []
        self.next: Child | None = None
        here = network.directory
        self.old = publisher.write(here / "old" / "manifest.json", publisher.manifest(OLD, 6))
        self.new = publisher.write(
            here / "next" / "manifest.json", publisher.manifest(NEXT, 7, since=-60, shapes=SHAPES)
        )

    def publish(self, *words: str | Path) -> list[str]:
        """The words of ``chrysalis registry publish`` on this network."""
        here = self.network.directory
        said = ["registry", "publish", *map(str, words), "--signed-by", self.publisher.public]
        said += ["--measured", str(here / "worker.toml"), "--network", str(here / "gateway.toml")]
        return [*said, "--memory", str(here / "published.json"), "--json"]

    async def run(self, *words: str | Path, key: Path | None = None) -> dict[str, Any]:
        """Run it; what it said."""
        signing = ["--key", str(key)] if key is not None else []
        status, out, err = await command(*self.publish(*words), *signing)
        assert "Traceback" not in err
        told: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert (status == 0) is told["ok"], err
        return told

    @property
    def owner(self) -> Path:
        """The root owner's key."""
        return self.network.directory / "root-owner.key"

    async def state(self) -> RootState:
        """The root contract's proven state."""
        return await Registry(self.network.world.chain, self.network.root).refresh()

    def place(self, name: str, source: Path) -> Path:
        """Put a manifest where gateway and client look for manifests."""
        path = self.network.directory / "manifests" / name
        path.parent.mkdir(exist_ok=True)
        path.with_name(name + ".sig").write_bytes(source.with_name(source.name + ".sig").read_bytes())
        partial = path.with_name(name + ".partial")
        partial.write_bytes(source.read_bytes())
        partial.replace(path)
        return path

    async def start_next(self) -> None:
        """Start a worker of the next image, on a machine of its own."""
        network, world = self.network, self.network.world
        machine = await world.machine("next", network.measured["worker"], registers=NEXT.registers)
        self.images["next"] = machine.image
        await world.faucet(world.wallet_of("next-wallet.key"), 10 * TON)
        network.ports["next"] = world.ports.take()
        world.ports.release()
        config = tomllib.loads((network.directory / "worker.toml").read_text())
        config["host"] |= {
            "status": f"127.0.0.1:{network.ports['next']}",
            "quote_source": str(world.quotes("next")),
            "state_dir": str(network.directory / "next-state"),
        }
        config["owner"]["gas_key_file"] = str(network.directory / "next-wallet.key")
        path = network.directory / "next.toml"
        path.write_text(tomli_w.dumps(config))
        self.next = await network.processes.start("next", ["appliance.cli", "worker", "run", "--config", str(path)])
        await until_healthy(self.next, f"http://127.0.0.1:{network.ports['next']}/health", timeout=LIMIT_S)

    async def offered(self, *names: str) -> None:
        """Wait until exactly these workers are offered requests."""
        wanted = {self.images[name].hex() for name in names}
        await self.network.until(
            "gateway",
            lambda s: {worker["image_hash"] for worker in s["workers"] if worker["offered"]} == wanted,
            f"not exactly {names} offered",
        )

    async def asking(self) -> None:
        """Ask again and again, as a user does who never has to know of the update."""
        while True:
            self.answers.append(await self.network.ask(8, stream=bool(len(self.answers) % 2)))
            await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def update(chain: LabChain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Update]:
    """A network whose root contract lists a gateway and nothing else yet."""
    directory = tmp_path_factory.mktemp("update")
    publisher = Publisher()
    manifests = {"manifests": str(directory / "manifests")}
    async with Network(
        directory,
        chain,
        delist=("image", "model"),
        host={"gateway": manifests, "client": manifests},
        releases=ReleaseTrust(keys=(publisher.public,), grace_days=1.0),
        registers={"worker": OLD.registers},
    ) as network:
        publisher.write(directory / "manifests" / "gateway.json", publisher.manifest(GATEWAY, 1))
        yield Update(network, publisher)


async def test_the_first_release_is_published(update: Update) -> None:
    network = update.network
    told = await update.run(update.old)
    assert [order["summary"].split()[1] for order in told["orders"]] == ["model", "worker"]
    assert told["sent"] is False
    assert list(told["images"]) == [network.images["worker"].hex()]
    assert (await update.state()).worker_hashes == frozenset(), "nothing was touched"
    assert not (network.directory / "published.json").exists()

    told = await update.run(update.old, key=update.owner)
    state = await update.state()
    assert state.worker_hashes == {network.images["worker"]}
    assert state.model_hashes == {model_hash(MODEL)}
    assert (told["sent"], told["version"]) == (True, state.version)
    again = await update.run(update.old, key=update.owner)
    assert (again["orders"], again["version"]) == ([], state.version), "said twice, it does nothing more"
    update.place("6.json", update.old)
    await network.start_all()


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("not above the one before", "does not follow release 6"),
        ("other files under its number", "release 6 of chrysalis/engine-cpu has files"),
        ("older than published", "release 5 of chrysalis/engine-cpu is older than release 6"),
        ("retiring what is not replaced", "would be locked out"),
        ("a wallet of a stranger", "the root contract's owner is"),
    ],
)
async def test_what_would_do_harm_is_not_published(update: Update, case: str, says: str) -> None:
    before = await update.state()
    publisher, here = update.publisher, update.network.directory
    path, key = here / "refused" / "manifest.json", update.owner
    words: list[str] = []
    manifest = publisher.manifest(NEXT, 6)
    match case:
        case "not above the one before":
            words = ["--previous", str(update.old)]
        case "older than published":
            manifest = publisher.manifest(OLD, 5)
        case "retiring what is not replaced":
            manifest, words = publisher.manifest(NEXT, 7), ["--retire", str(update.old)]
        case "a wallet of a stranger":
            manifest, key = publisher.manifest(NEXT, 7), here / "owner.key"
    publisher.write(path, manifest)
    said = [*update.publish(path), *words, "--key", str(key)]
    # In this process: it is the same command, and a start of a program costs more than what is looked at here.
    done = await asyncio.to_thread(CliRunner().invoke, registry, said[1:])
    assert isinstance(done.exception, ChrysalisError), done.output
    assert says in done.exception.message
    assert await update.state() == before


async def test_publishing_is_killed_and_gone_on_with(update: Update) -> None:
    """The next release is listed beside the present one; kill -9 in the middle of it harms nothing."""
    network = update.network
    before = await update.state()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "appliance.cli", *update.publish(update.new),
        "--key", str(update.owner),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        while f"4 of {SHAPES}" not in (line := (await process.stderr.readline()).decode()):
            assert line, "it ended before"
    process.kill()
    await process.wait()
    part = (await update.state()).worker_hashes
    assert before.worker_hashes < part
    assert (await network.ask(8)).complete

    told = await update.run(update.new, key=update.owner)
    assert len(told["orders"]) < SHAPES
    state = await update.state()
    assert state.worker_hashes == before.worker_hashes | {bytes.fromhex(image) for image in told["images"]}
    assert len(told["images"]) == SHAPES
    assert state.model_hashes == before.model_hashes
    assert (await update.run(update.new, key=update.owner))["orders"] == []


async def test_workers_are_rolled_over_while_users_ask(update: Update) -> None:
    """Both images are admitted, then the next alone; the old one is retired; not one answer is missing."""
    network = update.network
    asking = asyncio.create_task(update.asking())
    try:
        update.place("7.json", update.new)
        await update.start_next()
        await update.offered("worker", "next")
        await _more(update, 6)
        assert await network.stop("worker") == 0
        await update.offered("next")
        await _more(update, 6)
        told = await update.run(update.new, "--retire", update.old, key=update.owner)
        assert [order["summary"] for order in told["orders"]] == [
            f"remove worker image {update.images['worker'].hex()}"
        ]
        assert update.images["worker"] not in (await update.state()).worker_hashes
        await _more(update, 6)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert [answer for answer in update.answers if not answer.complete] == []
    for name in ("gateway-state", "client-state"):
        known = ReleaseMemory(network.directory / name / "releases.json").families()
        assert {family: seen.release for family, seen in known.items()} == {FAMILY: 7, "chrysalis/gateway": 1}


async def _more(update: Update, count: int) -> None:
    wanted = len(update.answers) + count

    async def enough() -> bool:
        return len(update.answers) >= wanted

    await until_async(enough, "nobody is answered")


async def test_the_retired_image_is_refused(update: Update) -> None:
    network = update.network
    await network.launch("worker")
    old = update.images["worker"].hex()

    def refused(state: dict[str, Any]) -> bool:
        return any(old in text and "is not listed" in text for text in state["refused_workers"])

    await network.until("gateway", refused, "the old worker is not refused")
    await update.offered("next")
    assert (await network.ask(8)).complete
    await network.stop("worker")


async def test_an_image_that_is_listed_but_of_no_release_is_refused(update: Update) -> None:
    """The root contract's list alone is not enough; nor is a manifest that was taken away."""
    network = update.network
    for name in ("6.json", "6.json.sig"):
        (network.directory / "manifests" / name).unlink()

    async def gone() -> bool:
        return GONE in network.log("gateway")

    # The gateway looks at its manifests now and then: until it has, the old release is one that it knows.
    await until_async(gone, "nobody noticed that a manifest is gone")
    await network.world.order(admin.add_image(network.root, update.images["worker"]))
    await network.launch("worker")
    await network.until(
        "gateway",
        lambda s: any("image in a current release" in text for text in s["refused_workers"]),
        "it is not refused at the door",
    )
    await update.offered("next")
    # Control: with its manifest beside the newer one, within the grace, the same worker is admitted.
    update.place("6.json", update.old)
    await update.offered("worker", "next")
    assert await network.stop("worker") == 0
    told = await update.run(update.new, "--retire", update.old, key=update.owner)
    assert len(told["orders"]) == 1
    await update.offered("next")


async def test_a_rollback_is_refused_by_gateway_and_client(update: Update) -> None:
    network, publisher = update.network, update.publisher
    manifests = network.directory / "manifests"
    programs = ("client", "gateway")

    async def refuses(says: str) -> None:
        files = [str(network.directory / f"{name}.toml") for name in programs]
        ended = await asyncio.gather(
            *(command(name, "run", "--config", file) for name, file in zip(programs, files, strict=True))
        )
        for status, _, err in ended:
            assert status == 1
            assert "Traceback" not in err
            assert says in " ".join(err.split())

    for name in programs:
        assert await network.stop(name) == 0
    (manifests / "7.json").unlink()
    await refuses("release 6 of chrysalis/engine-cpu is older than release 7, which was seen here before")
    # The old image with dates of today, under a number that nobody used: lower than what was seen all the same.
    publisher.write(manifests / "6.json", publisher.manifest(OLD, 5, since=-1))
    await refuses("release 5 of chrysalis/engine-cpu is older than release 7")
    publisher.write(manifests / "6.json", publisher.manifest(OLD, 7, since=-1))
    await refuses("release 7 of chrysalis/engine-cpu has files")
    # The newest release, expired, and nothing beside it.
    (manifests / "6.json").unlink()
    (manifests / "gateway.json").rename(manifests / "gateway.hidden")
    publisher.write(manifests / "7.json", publisher.manifest(NEXT, 7, since=-2 * DAY, until=-DAY))
    await refuses("release 7 of chrysalis/engine-cpu expired at")
    # Control: everything is back, and both serve again.
    (manifests / "gateway.hidden").rename(manifests / "gateway.json")
    update.place("7.json", update.new)
    update.place("6.json", update.old)
    await network.start("gateway")
    await network.launch("client")
    await update.offered("next")
    await network.ready()


async def test_a_running_program_keeps_its_last_good_releases(update: Update) -> None:
    network = update.network
    newest = network.directory / "manifests" / "7.json"
    kept = newest.read_bytes()
    newest.unlink()

    async def told() -> bool:
        return all("RollbackError" in network.log(name) for name in ("gateway", "client"))

    await until_async(told, "nobody noticed")
    assert "release manifests not taken over" in network.log("gateway")
    assert (await network.ask(8)).complete
    newest.write_bytes(kept)


async def test_a_release_with_a_hole_is_withdrawn_at_once(update: Update) -> None:
    network = update.network
    words = ["registry", "withdraw", *update.publish(update.new)[2:]]
    place = words.index("--memory")
    del words[place : place + 2]
    key = ["--key", str(update.owner)]
    status, out, _ = await command(*words, *key)
    assert status != 0
    assert "nobody would be admitted any more" in json.loads(out)["error"]
    status, out, err = await command(*words, *key, "--last")
    assert status == 0, err
    assert (await update.state()).worker_hashes == frozenset()
    await network.until("gateway", lambda s: not any(w["offered"] for w in s["workers"]), "still offered")
    # And a release that was closed in time is published after it.
    await network.world.order(admin.add_image(network.root, update.images["next"]))
    await update.offered("next")
    assert update.next is not None
    assert await stop(update.next) == 0
