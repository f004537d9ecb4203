"""Class 14: the host puts an old state disk back. Nothing is sealed, so nothing on it is believed against the world.

A guest's TLS, HPKE and receipt keys are in memory alone. What a state disk holds is a ledger of totals that only grow,
and two others know them: the gateway that signed, and the chain that paid.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from appliance.accounting.reconcile import with_chain, with_peer
from appliance.accounting.records import Counters, ProxyRecord
from appliance.accounting.worker_ledger import WorkerLedger
from appliance.chain.addresses import Address

if TYPE_CHECKING:
    from pathlib import Path

RECORD = ProxyRecord(Address(0, b"\1" * 32), b"\2" * 32, Address(0, b"\3" * 32), params_version=4)
BEFORE = replace(RECORD, counters=Counters(10, 10, 12), payment=b"signed for 10")
AFTER = replace(RECORD, counters=Counters(500, 500, 500), payment=b"signed for 500")


def _state_disk(directory: Path) -> tuple[Path, Path]:
    """A worker's state directory after some work, and the host's copy of it from before."""
    disk, copy = directory / "state", directory / "copy"
    disk.mkdir()
    ledger = WorkerLedger(disk / "worker.sqlite")
    ledger.save([BEFORE])
    ledger.close()
    shutil.copytree(disk, copy)
    ledger = WorkerLedger(disk / "worker.sqlite")
    ledger.save([AFTER])
    ledger.close()
    return disk, copy


def _opened(disk: Path) -> tuple[ProxyRecord, bool]:
    ledger = WorkerLedger(disk / "worker.sqlite")
    record, restored = ledger.records()[RECORD.contract], ledger.restored
    ledger.close()
    return record, restored


@pytest.mark.parametrize("attack", [False, True])
def test_an_old_state_disk_is_caught_by_chain_and_gateway(tmp_path: Path, *, attack: bool) -> None:
    """The whole disk, with all that lies beside the ledger: the file alone cannot know, the other two do."""
    disk, copy = _state_disk(tmp_path)
    if attack:
        shutil.rmtree(disk)
        shutil.copytree(copy, disk)
    record, _ = _opened(disk)
    assert record == (BEFORE if attack else AFTER)
    chain = with_chain(record, 400)
    assert [finding.kind for finding in chain.findings] == (["disk-behind-chain"] if attack else [])
    assert chain.record.counters.committed == (400 if attack else 500)
    peer = with_peer(chain.record, Counters(500, 500, 500), b"signed for 500", paid=400)
    assert [finding.kind for finding in peer.findings] == (["disk-behind-peer"] if attack else [])
    assert peer.refused is None
    assert peer.record.counters == AFTER.counters
    assert peer.record.payment == b"signed for 500"


@pytest.mark.parametrize("attack", [False, True])
def test_an_old_ledger_alone_is_told_at_once(tmp_path: Path, *, attack: bool) -> None:
    disk, copy = _state_disk(tmp_path)
    if attack:
        shutil.copy(copy / "worker.sqlite", disk / "worker.sqlite")
    assert _opened(disk)[1] is attack


@pytest.mark.parametrize("attack", [False, True])
def test_a_gateway_in_league_with_the_host_gains_nothing(tmp_path: Path, *, attack: bool) -> None:
    """It offers the old total to the old disk: what the chain has paid refuses it; at worst the unpaid part is lost."""
    _, copy = _state_disk(tmp_path)
    record, _ = _opened(copy)
    chain = with_chain(record, 400).record
    offered = Counters(10, 10, 12) if attack else Counters(500, 500, 500)
    found = with_peer(chain, offered, b"payment", paid=400)
    assert (found.refused.kind if found.refused else None) == ("peer-behind-chain" if attack else None)
