"""One TVM process for the room's tests and chains in temporary directories."""

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
    """Makes chains that share the one TVM; only one of them may be at work at a time (the configuration is shared)."""
    made: list[DevNet] = []

    def make(name: str = "chain", **options: Any) -> DevNet:
        if "clock" not in options:
            now = time.time()
            options["clock"] = Clock(lambda: now)  # storage fees would depend on how fast the machine is
        net = DevNet(TvmMachine(tvm), tmp_path / name, base_config=base_config, **options)
        made.append(net)
        return net

    yield make
    for net in made:
        net.close()


@pytest.fixture
def net(make_net: Callable[..., DevNet]) -> DevNet:
    return make_net()
