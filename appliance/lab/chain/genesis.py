"""The beginning of a chain: zerostates, the faucet's account, the first validator.

In: base parameters and a time. Out: the height 0 in the store, with all that a chain must remember for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance.chain.boc import encode_boc
from appliance.lab.chain.assembly import block_row
from appliance.lab.chain.blocks import zerostate
from appliance.lab.chain.config import ChainConfig, Validator
from appliance.lab.chain.faucet import SUPPLY, Faucet
from appliance.lab.chain.layout import BASECHAIN, MASTERCHAIN
from appliance.lab.chain.ledger import (
    Fees,
    Ledger,
    empty_accounts,
    empty_previous,
    empty_queue,
    with_account,
)
from appliance.lab.chain.states import master_state, shard_state, shard_top
from appliance.lab.chain.store import ChainStore, Change

if TYPE_CHECKING:
    from pytoniq_core.boc.cell import Cell

    from appliance.lab.chain.clock import Clock


def create_chain(store: ChainStore, base_config: Cell, clock: Clock, global_id: int) -> None:
    """Store the zerostates of a new chain.

    Args:
        store: An empty file.
        base_config: Parameters (``Hashmap 32 ^Cell``); 19, 28 and 34 become this chain's own.
        clock: Its time is the zerostates'; its offset is kept.
        global_id: The network's id.
    """
    faucet_key, validator = Ed25519PrivateKey.generate(), Validator(Ed25519PrivateKey.generate())
    faucet = Faucet(faucet_key)
    now = clock.now()
    config = ChainConfig.from_root(base_config).for_chain(global_id, validator)
    account = faucet.genesis_account(now)
    ledger = Ledger(
        global_id=global_id,
        seqno=0,
        utime=now,
        lt=0,
        accounts=with_account(empty_accounts(), faucet.address.hash, account, SUPPLY),
        queue=empty_queue(),
        previous=empty_previous(),
        config=config,
        validator=validator,
        fees=Fees(),
        supply=SUPPLY,
        is_key=False,
        last_key=None,
    )
    under = shard_state(ledger, None)
    shard = zerostate(under, BASECHAIN, ledger)
    over = master_state(ledger, shard_top(shard, 0, validator.catchain_seqno))
    master = zerostate(over, MASTERCHAIN, ledger)
    store.commit(
        Change(
            blocks=(block_row(master, over, 0), block_row(shard, under, 0)),
            accounts={faucet.address.hash: encode_boc(account)},
            validator=(validator.since, validator.catchain_seqno, validator.key.private_bytes_raw()),
            meta={
                "global_id": str(global_id).encode(),
                "supply": str(SUPPLY).encode(),
                "config": encode_boc(config.root),
                "faucet_seed": faucet_key.private_bytes_raw(),
                "clock_offset": str(clock.offset).encode(),
            },
        )
    )
