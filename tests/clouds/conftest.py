"""AMD's keys and a TDX machine, made once for the room."""

from __future__ import annotations

import os
import time

import pytest

from appliance.lab.snp_world import SnpPki
from appliance.lab.tee import SyntheticTdx
from attestation.snp.tcb import Product


@pytest.fixture(scope="session")
def genoa() -> SnpPki:
    """AMD's keys for Genoa."""
    return SnpPki(Product.GENOA, time.time())


@pytest.fixture(scope="session")
def tdx() -> SyntheticTdx:
    """A machine with Intel's processor."""
    return SyntheticTdx()


@pytest.fixture
def question() -> bytes:
    """Report data of a question."""
    return os.urandom(64)
