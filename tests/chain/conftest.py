"""The lab's chain for this room's tests: one TVM, a chain a test."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.lab.chain.clock import Clock
from appliance.lab.chain.devnet import DevNet
from appliance.lab.chain.machine import TvmMachine
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import prepare_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytoniq_core.boc.cell import Cell


@pytest.fixture(scope="session")
def base_config() -> Cell:
    return prepare_tools().slim_config()


@pytest.fixture(scope="session")
def tvm(base_config: Cell) -> Iterator[Tvm]:
    with Tvm(base_config) as machine:
        yield machine


@pytest.fixture
def make_net(tvm: Tvm, base_config: Cell, tmp_path: Path) -> Iterator[Callable[..., DevNet]]:
    """Makes chains that share the one TVM; only one of them may execute messages."""
    made: list[DevNet] = []

    def make(name: str = "chain", **options: Any) -> DevNet:
        net = DevNet(TvmMachine(tvm), tmp_path / name, base_config=base_config, **options)
        made.append(net)
        return net

    yield make
    for net in made:
        net.close()


@pytest.fixture
def net(make_net: Callable[..., DevNet]) -> DevNet:
    """A chain whose time stands still until a test moves it: storage costs nanotons by the second."""
    now = int(time.time())
    return make_net(clock=Clock(lambda: now))
