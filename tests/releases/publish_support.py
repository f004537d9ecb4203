"""Root contracts and releases of small numbers, for tests of plans."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.admin import model_hash
from appliance.chain.layouts import Params, RootState
from appliance.chain.publish import Listing

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Address.parse("0:" + "11" * 32)
PARAMS = Params(1, 7, True, 20, 17, 600, 300)


def image(number: int) -> bytes:
    return hashlib.sha256(f"image {number}".encode()).digest()


def model(number: int) -> str:
    return f"Org/Model{number}@main:{number:064x}"


def state(workers: Iterable[int] = (), gateways: Iterable[int] = (), models: Iterable[int] = ()) -> RootState:
    return RootState(
        owner=Address.parse("0:" + "22" * 32),
        version=5,
        proxy_hashes=frozenset(map(image, gateways)),
        registered_proxies=(),
        last_proxy_seqno=0,
        worker_hashes=frozenset(map(image, workers)),
        model_hashes=frozenset(model_hash(model(number)) for number in models),
        params=PARAMS,
    )


def listing(images: Iterable[int], models: Iterable[int] = (), *, gateways: bool = False) -> Listing:
    return Listing(frozenset(map(image, images)), frozenset(map(model, models)), gateways)
