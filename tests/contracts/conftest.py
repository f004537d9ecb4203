"""One TVM for all contract tests; a fresh network for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from contract_world import Network

from appliance.chain.contracts import ContractCodes, load
from appliance.lab.tvm import Tvm
from appliance.lab.tvm_tools import Tools, ToolsError, prepare_tools

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def tools() -> Tools:
    try:
        return prepare_tools()
    except ToolsError as error:
        pytest.skip(f"the TVM is not at hand: {error}")


@pytest.fixture(scope="session")
def tvm(tools: Tools) -> Iterator[Tvm]:
    with Tvm(tools=tools) as machine:
        yield machine


@pytest.fixture(scope="session")
def codes() -> ContractCodes:
    return load()


@pytest.fixture
def network(tvm: Tvm, codes: ContractCodes) -> Network:
    return Network(tvm, codes)
