"""Others that lie, expire, stand behind a router, go away or have no money: work goes on, or the reason is told.

One network for all tests, in their order: each says what it changes, and ends with the control that works again.
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from e2e_network import LIMIT_S, Network, command, until_async

from appliance.assembly import block_id
from appliance.chain import admin
from appliance.chain.addresses import Address
from appliance.config import LiteserverConfig, TrustConfig
from appliance.keys import new_key
from appliance.lab.chain.adversary import forged_chain
from appliance.lab.chain.devnet import DevNet
from appliance.lab.chain.liteserver import LiteServer
from appliance.lab.chain.machine import TvmMachine
from appliance.lab.processes import Child, stop, until_healthy
from appliance.lab.tee import SyntheticTdx
from appliance.lab.tee_service import collateral_path
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import prepare_tools
from attestation import policy
from attestation.collateral import FileCollateral
from attestation.errors import RefusedError
from attestation.platforms import SimulatedTdx
from attestation.ratls import Identity, RatlsDialer, RatlsListener
from attestation.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from e2e_network import LabChain

pytestmark = pytest.mark.asyncio(loop_scope="module")

TON = 10**9
FAKE_IMAGE = bytes.fromhex("5c55c8f4db4010ba9203d83536d0609856af8c847ac039e37e7dde8fbd574b61")


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevNet]:
    """A chain of somebody else's, with a validator of its own."""
    tools = prepare_tools()
    with Tvm(tools.slim_config()) as tvm:
        net = DevNet(TvmMachine(tvm), tmp_path_factory.mktemp("forged"), base_config=tools.slim_config())
        for _ in range(3):
            net.tick()
        yield net
        net.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network(chain: LabChain, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    """A healthy network whose worker has no gas money."""
    async with Network(tmp_path_factory.mktemp("peers"), chain, funds={"worker": 0}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def liar(forged: DevNet, network: Network) -> AsyncIterator[dict[str, Any]]:
    """A liteserver that says the forged chain grew from our zerostate: its entry for a program's file."""
    server = LiteServer(forged, answers=forged_chain(block_id(network.world.network.zerostate)))
    await server.start()
    key = base64.b64encode(server.public_key).decode()
    yield LiteserverConfig(address=f"127.0.0.1:{server.port}", key=key).model_dump()
    assert server.counts, "nobody asked the liar"
    await server.close()


async def test_beside_an_honest_liteserver_a_liar_is_set_aside(network: Network, liar: dict[str, Any]) -> None:
    honest = [server.model_dump() for server in network.world.liteservers]
    for name in ("worker", "client"):
        network.write(name, liteservers=[liar, *honest])
    await network.start_all()
    assert (await network.ask(10)).complete
    for name in ("worker", "client"):
        demoted = [line for line in network.log(name).splitlines() if "liteserver set aside" in line]
        assert demoted, network.log(name)
        assert all(liar["address"] in line and "ProofError" in line for line in demoted), demoted
    assert "liteserver set aside" not in network.log("gateway")  # the control: it has the honest one only


async def test_an_empty_worker_wallet_says_what_to_send_to_whom(network: Network) -> None:
    wallet = network.wallets["worker"]
    assert (await network.ask(50)).complete

    told = ""

    async def complains() -> bool:
        nonlocal told
        await network.order("payout")
        told = " ".join(account["payout"] for account in (await network.get("worker"))["accounts"])
        return "send at least" in told

    await until_async(complains, "the status does not say what to send")
    assert any(text in told for text in (wallet.raw(), wallet.friendly(), wallet.friendly(testnet=True))), told
    assert "TON" in told
    # The control: with that much the contract is deployed, which is what the wallet is for.
    await network.world.faucet(wallet, 10 * TON)
    (account,) = (await network.get("worker"))["accounts"]

    async def deployed() -> bool:
        await network.order("payout")
        found = await network.world.chain.account(Address.parse(account["worker_contract"]))
        return found.status == "active"

    await until_async(deployed, "the contract is not deployed with a funded wallet")


async def test_a_lying_liteserver_alone_is_named_with_its_proof(network: Network, liar: dict[str, Any]) -> None:
    for name in ("worker", "client"):
        assert await network.stop(name) == 0
        network.write(name, liteservers=[liar])
    # The client cannot start, and says why.
    status, _, err = await command("client", "run", "--config", str(network.directory / "client.toml"))
    assert status == 1, err
    assert "the proof is for hash" in " ".join(err.split()), err
    assert "Traceback" not in err
    # The worker waits for the truth, and says so.
    await network.launch("worker")

    def waits(page: dict[str, Any]) -> bool:
        return any("the proof is for hash" in stage["reason"] for stage in page["stages"] if stage["name"] == "chain")

    page = await network.until("worker", waits, "the worker does not say why it waits")
    assert not page["working"]
    assert "root contract not read" in network.log("worker")
    assert await network.stop("worker") == 0
    # The control: the honest one alone.
    for name in ("worker", "client"):
        network.write(name)
    await network.start("worker", "client")
    await network.ready()


async def test_another_root_key_is_refused_by_the_name_of_the_check(network: Network) -> None:
    assert await network.stop("client") == 0
    mine = network.measured["client"]
    other = base64.b64encode(SyntheticTdx().root_der).decode()
    trust = mine.trust.model_copy(update={"simulated_roots": (other,)})
    network.measured["client"] = mine.model_copy(update={"trust": trust})
    network.write("client")
    await network.launch("client")
    page = await network.until("client", lambda s: any(g["reason"] for g in s["gateways"]), "no reason")
    (reason,) = [gateway["reason"] for gateway in page["gateways"]]
    assert "policy 'simulated' refuses: quote" in reason, reason
    assert "does not verify under root certificate" in reason, reason
    assert not page["ready"]
    assert await network.stop("client") == 0
    # The control: the root that everybody trusts.
    network.measured["client"] = mine
    network.write("client")
    await network.start("client")
    await network.ready()


async def test_an_expired_certificate_is_refused_by_the_name_of_the_check(network: Network) -> None:
    quotes = network.world.quotes("gateway")
    known = policy.for_name("simulated", simulated_roots=(network.world.tee.root_der,))
    verifier = Verifier(known, FileCollateral(collateral_path(quotes)))
    two_days_ago = await Identity.create(SimulatedTdx(quotes), clock=lambda: time.time() - 2 * 86_400)
    today = await Identity.create(SimulatedTdx(quotes))
    strangers = Verifier(policy.for_name("any"))
    for identity, good in ((two_days_ago, False), (today, True)):
        server = await RatlsListener(identity, strangers, 0).serve(asyncio.Protocol, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        dialer = RatlsDialer(await Identity.create(None), verifier)
        if good:
            transport, _ = await dialer.connect(asyncio.Protocol, "127.0.0.1", port)
            transport.abort()
        else:
            with pytest.raises(RefusedError, match="certificate dates") as caught:
                await dialer.connect(asyncio.Protocol, "127.0.0.1", port)
            assert [check.name for check in caught.value.verdict.failed] == ["certificate dates"]
        server.close()


async def test_behind_routers_a_request_is_answered(network: Network) -> None:
    for name in ("client", "worker", "gateway"):
        assert await network.stop(name) == 0
    # The link's key is the router's, so programs behind it have no fresh evidence: the reference's development policy.
    trust = TrustConfig(policy="fake_tdx", development=True)
    before = dict(network.measured)
    network.measured = {name: config.model_copy(update={"trust": trust}) for name, config in before.items()}
    image = FAKE_IMAGE
    await network.world.order(admin.add_image(network.root, image), admin.add_proxy_image(network.root, image))
    ports = {name: network.world.ports.take() for name in ("workers", "clients", "socks")}
    network.world.ports.release()
    network.write(
        "gateway",
        behind_router=True,
        listen_workers=f"127.0.0.1:{ports['workers']}",
        listen_clients=f"127.0.0.1:{ports['clients']}",
    )
    network.write("worker", router=f"127.0.0.1:{ports['socks']}")
    network.write("client")
    fake = ["attestation.ratls", "--platform", "fake_tdx", "-d", "8"]
    routers = [
        await network.processes.start(
            "gateway-router",
            [
                *fake,
                *("-R", f"{network.ports['workers']}:127.0.0.1:{ports['workers']}@fake_tdx"),
                *("-R", f"{network.ports['clients']}:127.0.0.1:{ports['clients']}@any"),
            ],
        ),
        await network.processes.start("worker-router", [*fake, "-S", f"{ports['socks']}@fake_tdx"]),
    ]
    await network.start_all()
    assert (await network.ask(10)).complete
    assert (await network.ask(10, stream=True)).complete
    # Only through the worker's router: without it there is no link, and the worker says why.
    assert await stop(routers[1]) == 0
    page = await network.until("worker", lambda s: bool(s["troubles"]), "the worker does not miss its router")
    assert any("router" in why for why in page["troubles"].values()), page["troubles"]
    for name in ("client", "worker", "gateway"):
        assert await network.stop(name) == 0
    assert await stop(routers[0]) == 0
    network.measured = before
    for name in ("gateway", "worker", "client"):
        network.write(name, **({"gateway_connections": 2} if name == "worker" else {}))
    await network.start_all()


async def test_a_gateway_that_is_gone_is_missed_and_another_one_used(network: Network) -> None:
    gone = f"127.0.0.1:{network.ports['workers']}"
    await network.kill("gateway")
    page = await network.until("worker", lambda s: gone in s["troubles"], "the worker does not miss it")
    assert page["troubles"][gone]
    told = await network.until("client", lambda s: any(g["reason"] for g in s["gateways"]), "the client does not")
    assert not told["ready"]
    assert all(network.children[name].alive for name in ("worker", "client"))
    await second_gateway(network)
    await network.until("gateway2", lambda s: any(w["offered"] for w in s["workers"]), "no worker comes over")
    await network.until("client", lambda s: s["ready"], "the client does not come over")
    assert (await network.ask(10)).complete
    assert (await network.get("gateway2"))["money"]["earned"] > 0


async def second_gateway(network: Network) -> Child:
    """Start another gateway with keys, wallet and ports of its own, and register it."""
    world, here = network.world, network.directory
    ports = {name: world.ports.take() for name in ("workers", "clients", "status")}
    world.ports.release()
    new_key(here / "gateway2.key")
    await world.faucet(world.wallet_of("gateway2-wallet.key"), 10 * TON)
    world.write_config(
        "gateway2",
        network.measured["gateway"],
        {"address": world.owner.address.friendly(testnet=True)},
        {
            "status": f"127.0.0.1:{ports['status']}",
            "collateral": str(collateral_path(world.quotes("gateway"))),
            "quote_source": str(world.quotes("gateway")),
            "listen_workers": f"127.0.0.1:{ports['workers']}",
            "listen_clients": f"127.0.0.1:{ports['clients']}",
            "key_file": str(here / "gateway2.key"),
            "wallet_key_file": str(here / "gateway2-wallet.key"),
            "pow_difficulty": 8,
            "commit_interval_s": 1.0,
        },
    )
    arguments = ["appliance.cli", "gateway", "run", "--config", str(here / "gateway2.toml")]
    child = network.children["gateway2"] = await network.processes.start("gateway2", arguments)
    network.ports["gateway2"] = ports["status"]
    await until_healthy(child, f"http://127.0.0.1:{ports['status']}/health", timeout=LIMIT_S)
    text = f"127.0.0.1:{ports['workers']} 127.0.0.1:{ports['clients']}"
    await world.order(admin.register_proxy(network.root, text))
    return child
