"""The program: put together from a configuration, told to stop by a signal; and the commands beside it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from client_world import (
    API_KEY,
    KEY,
    MODEL,
    OWNER,
    ROOT,
    SECRET,
    STAKE,
    FakeChain,
    FakeWallet,
    World,
    chat,
    client_data,
    root_state,
    terms,
)
from typer.testing import CliRunner

from appliance.accounting.client_ledger import ClientLedger
from appliance.accounting.errors import StoreBusyError
from appliance.chain import contracts
from appliance.chain.addresses import Address
from appliance.chain.layouts import RegisteredProxy, build_root
from appliance.chain.messages import Op
from appliance.chain.stateinit import wallet_address
from appliance.cli import peers
from appliance.client import program
from appliance.client.errors import ClientError
from appliance.client.inspect import ask
from appliance.client.money import Purse
from appliance.client.program import open_client, refund, run
from appliance.client.stake import RefundStage
from appliance.config import ClientConfig
from appliance.errors import ConfigError
from appliance.keys import write_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from client_world import Machine

AT = terms()


def configured(directory: Path, machine: Machine, **host: Any) -> ClientConfig:
    """A client's configuration whose files are in a directory."""
    for name, data in (
        ("api.key", API_KEY.encode()),
        ("client.secret", SECRET),
        ("wallet.key", base64.b64encode(KEY.private_bytes_raw())),
    ):
        if not (directory / name).exists():
            write_secret(directory / name, data)
    block = {"seqno": 0, "root_hash": "09" * 32, "file_hash": "00" * 32}
    return ClientConfig.model_validate(
        {
            "measured": {
                "network": {
                    "global_id": -1,
                    "zerostate": block,
                    "key_block": block,
                    "root_contract": ROOT.friendly(),
                    "is_test": True,
                },
                "trust": {
                    "policy": "simulated",
                    "development": True,
                    "simulated_roots": [base64.b64encode(machine.tdx.root_der).decode()],
                },
            },
            "owner": {"address": OWNER.friendly()},
            "host": {
                "state_dir": str(directory / "state"),
                "liteservers": [{"address": "127.0.0.1:1", "key": "AA=="}],
                "listen": "127.0.0.1:0",
                "api_key_file": str(directory / "api.key"),
                "wallet_key_file": str(directory / "wallet.key"),
                "secret_file": str(directory / "client.secret"),
                "collateral": str(directory / "collateral.json"),
            }
            | host,
        }
    )


@pytest.fixture
def config(world: World, monkeypatch: pytest.MonkeyPatch) -> ClientConfig:
    """A configuration whose chain is a written one and whose gateway is the scripted one, without RA-TLS."""
    directory = world.directory
    (directory / "collateral.json").write_bytes(world.machine.tdx.collateral_json())

    @asynccontextmanager
    async def open_chain(*_: object) -> AsyncIterator[FakeChain]:
        yield world.chain

    monkeypatch.setattr(program, "open_chain", open_chain)
    monkeypatch.setattr(program, "open_dialer", lambda *_, **__: world.dialer)
    monkeypatch.setattr(program, "NodeWallet", lambda *_, **__: world.wallet)
    return configured(directory, world.machine)


async def with_registry(world: World) -> None:
    """The chain has a root contract that names the gateway; another entry of it is nonsense."""
    await world.listen()
    here = f"127.0.0.1:{world.gateway.port}"
    proxies = (
        RegisteredProxy(1, "nonsense nonsense:99999", "nonsense", "nonsense:99999"),
        RegisteredProxy(2, f"127.0.0.1:1 {here}", "127.0.0.1:1", here),
    )
    world.root = root_state(
        proxy_hashes=frozenset({world.machine.image}),
        worker_hashes=frozenset({world.machine.image}),
        registered_proxies=proxies,
        last_proxy_seqno=2,
    )
    world.chain.utime = 2**31
    world.chain.accounts[ROOT] = (build_root(world.root), 5)
    await asyncio.sleep(0)


async def test_the_library_is_opened_from_a_configuration(world: World, config: ClientConfig) -> None:
    await with_registry(world)
    async with open_client(config) as client:
        answering = asyncio.create_task(world.gateway.answer("Paris."))
        answer = await client.complete("/v1/chat/completions", chat())
        body = b"".join([part async for part in answer.parts()])
        await answering
        assert json.loads(body)["choices"][0]["message"]["content"] == "Paris."
        assert answer.cost == 15 * 20
        assert [model["id"] for model in await client.models()] == [MODEL]
    ledger = ClientLedger(config.host.state_dir / "client.sqlite")
    assert ledger.accounts()[AT.contract].spent_tokens == 15
    ledger.close()


async def test_a_client_that_cannot_start_lets_go_of_its_ledger(world: World, config: ClientConfig) -> None:
    with pytest.raises(Exception, match="root contract"):
        async with open_client(config):
            raise AssertionError
    ClientLedger(config.host.state_dir / "client.sqlite").close()


async def test_the_program_serves_until_it_is_told_to_stop(
    world: World, config: ClientConfig, logged: list[dict[str, Any]]
) -> None:
    await with_registry(world)
    running = asyncio.create_task(run(config))
    await world.until(lambda: any(line["event"] == "client endpoint listens" for line in logged))
    listen = next(line["listen"] for line in logged if line["event"] == "client endpoint listens")
    again = config.model_copy(update={"host": config.host.model_copy(update={"listen": listen})})
    await world.until(lambda: any(line["event"] == "gateway ready" for line in logged))
    found = await ask(again.host, "/status")
    assert found["ready"]
    assert found["accounts"][0]["contract"] == str(AT.client_contract)
    with pytest.raises(StoreBusyError):
        await refund(config)
    async with aiohttp.ClientSession() as http, http.get(f"http://{listen}/status") as answer:
        assert answer.status == 401
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await running
    with pytest.raises(ClientError, match="no client answers"):
        await ask(again.host, "/status")
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


async def test_a_taken_port_is_told_before_anything_is_spent(world: World, config: ClientConfig) -> None:
    await with_registry(world)
    taken = config.host.model_copy(update={"listen": f"127.0.0.1:{world.gateway.port}"})
    with pytest.raises(ClientError, match="cannot listen on"):
        await run(config.model_copy(update={"host": taken}))
    assert not world.dialer.dialled


@pytest.mark.parametrize("name", ["api.key", "client.secret", "wallet.key"])
async def test_a_missing_or_open_secret_file_is_named(
    world: World, config: ClientConfig, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await with_registry(world)
    (world.directory / name).chmod(0o644)
    with pytest.raises(ConfigError, match=f"{name}.*expected 0600"):
        await run(config)
    (world.directory / name).unlink()
    with pytest.raises(ConfigError, match="keygen"):
        await run(config)


def test_the_wallet_is_the_nodes_own(world: World) -> None:
    config = configured(world.directory, world.machine)
    wallet = program._wallet(config, FakeChain())  # type: ignore[arg-type]  # nothing is read
    code = contracts.load().wallet
    assert wallet.address == wallet_address(code, OWNER, KEY.public_key().public_bytes_raw())


async def test_refunds_are_asked_for_account_by_account(world: World, config: ClientConfig) -> None:
    purse = Purse(ClientLedger(config.host.state_dir / "client.sqlite"), budget=None)
    purse.opened(AT, None, 0)
    purse.close()
    with pytest.raises(ClientError, match="no account with gateway"):
        await refund(config, Address(0, bytes(32)))
    (first,) = await refund(config, AT.contract)
    assert (first.stage, first.sent) == (RefundStage.REQUEST, True)
    world.chain.utime += 300
    assert (await refund(config))[0].stage is RefundStage.FINISH
    assert (await refund(config))[0].stage is RefundStage.DONE
    assert await refund(config) == []
    assert world.wallet.operations() == [Op.CLIENT_REQUEST_REFUND] * 2


def test_the_commands_print_what_they_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = FakeChain()
    chain.put(AT.client_contract, client_data(AT))

    async def found(*_: object) -> Any:
        purse = Purse(ClientLedger(tmp_path / "client.sqlite"), budget=None)
        purse.opened(AT, None, 0)
        account = purse.account(AT.contract)
        assert account is not None
        report = await program.Refunds(chain, FakeWallet(chain, AT), purse).step(account)
        purse.close()
        return [report]

    monkeypatch.setattr(program, "refund", found)
    monkeypatch.setattr(peers, "load", lambda *_: None)
    result = CliRunner().invoke(peers.client, ["refund", "--json", "--gateway", AT.contract.friendly()])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["refunds"][0] == {
        "gateway": AT.contract.raw(),
        "contract": AT.client_contract.raw(),
        "stage": "request",
        "balance_nanotons": STAKE,
        "unlock_at": 0,
        "sent": True,
    }
