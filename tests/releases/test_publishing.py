"""Sending a root owner's changes: batches, interruptions and wallets that lose messages, against a root in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from publish_support import ROOT, image, listing, model, state

from appliance.chain import publishing
from appliance.chain.admin import model_hash
from appliance.chain.envelopes import MAX_WALLET_MESSAGES
from appliance.chain.errors import ChainTimeoutError, NotConfirmedError, PublishError
from appliance.chain.publish import Change, applied, publish
from appliance.chain.publishing import carry_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from appliance.chain.addresses import Address
    from appliance.chain.layouts import RootState
    from appliance.chain.owner_wallet import OwnerWallet
    from appliance.chain.registry import Registry

NEW = listing(range(10, 20), {1})


@dataclass
class Chain:
    """A root contract and its owner's wallet.

    Attributes:
        state: What is proven.
        losses: For each coming transfer: ``ok``, ``lost`` (nothing happened), ``overtaken`` (an earlier run's message
            took its place and did the same), ``late`` (shown at the look after the next one), ``ignored``.
        batches: What was sent.
    """

    state: RootState
    losses: list[str] = field(default_factory=list)
    batches: list[list[bytes]] = field(default_factory=list)
    coming: RootState | None = None
    looks: int = 0

    @property
    def root_address(self) -> Address:
        return ROOT

    @property
    def address(self) -> Address:
        return self.state.owner

    async def refresh(self) -> RootState:
        self.looks += 1
        if self.coming is not None and self.looks >= 2:
            self.state, self.coming = self.coming, None
        return self.state

    async def transfer(self, messages: Sequence[Any]) -> None:
        assert 1 <= len(messages) <= MAX_WALLET_MESSAGES
        bodies = [message.body.begin_parse().load_bytes(44)[12:] for message in messages]
        self.batches.append(bodies)
        fate = self.losses.pop(0) if self.losses else "ok"
        done = applied(self.state, [_read(body) for body in bodies])
        if fate in {"ok", "overtaken"}:
            self.state = done
        if fate == "late":
            self.coming, self.looks = done, 0
        if fate in {"lost", "overtaken"}:
            raise NotConfirmedError("another message used the sequence number")


def _read(entry: bytes) -> Change:
    if entry == model_hash(model(1)):
        return Change("model_hashes", entry, True, model(1))
    return Change("worker_hashes", entry, True)


async def carried(chain: Chain) -> tuple[RootState, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []

    def plan(now: RootState) -> tuple[Change, ...]:
        return publish(now, NEW)

    found = await carry_out(
        cast("Registry", chain), cast("OwnerWallet", chain), plan, lambda done, total: told.append((done, total))
    )
    return found, told


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PAUSE_S", 0.0)


async def test_all_is_sent_in_batches_and_told() -> None:
    chain = Chain(state({1}))
    found, told = await carried(chain)
    assert found == applied(state({1}), publish(state({1}), NEW))
    assert told == [(0, 11), (4, 11), (8, 11), (11, 11)]
    assert [len(batch) for batch in chain.batches] == [4, 4, 3]
    assert chain.batches[0][0] == model_hash(model(1)), "the model first"
    again, told = await carried(chain)
    assert (again, told) == (found, [(0, 0)])
    assert len(chain.batches) == 3, "nothing was sent again"


@pytest.mark.parametrize(
    ("losses", "batches"),
    [(["lost"], 4), (["overtaken"], 3), (["ok", "overtaken", "lost"], 4), (["late", "late", "late"], 3)],
)
async def test_what_gets_lost_or_comes_late_is_gone_on_with(losses: list[str], batches: int) -> None:
    chain = Chain(state({1}), losses)
    found, _ = await carried(chain)
    assert found.worker_hashes == {image(1), *map(image, range(10, 20))}
    assert len(chain.batches) == batches


async def test_a_wallet_that_loses_everything_ends_it() -> None:
    with pytest.raises(NotConfirmedError):
        await carried(Chain(state({1}), ["lost", "lost", "lost"]))
    # Control: one loss fewer.
    await carried(Chain(state({1}), ["lost", "lost"]))


async def test_a_message_that_the_root_ignores_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "SHOWN_S", 0.0)
    with pytest.raises(ChainTimeoutError, match="4 of 4 changes that were sent do not show"):
        await carried(Chain(state({1}), ["ignored"]))


async def test_only_the_owners_wallet_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(state({1}))
    monkeypatch.setattr(Chain, "address", ROOT)
    with pytest.raises(PublishError, match="the root contract's owner is"):
        await carried(chain)
    assert chain.batches == []
