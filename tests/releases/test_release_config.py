"""What configurations say of releases: who may, what belongs together, and whose digest it moves."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import cbor2
import pytest
from pydantic import ValidationError
from releases_support import PUBLIC

from appliance.config import ClientConfig, GatewayConfig, MeasuredConfig, ReleaseTrust, WorkerConfig

KEY = base64.b64encode(PUBLIC).decode()
BLOCK = {"seqno": 0, "root_hash": "22" * 32, "file_hash": "33" * 32}
MEASURED: dict[str, Any] = {
    "network": {"global_id": -777, "root_contract": "0:" + "11" * 32, "zerostate": BLOCK, "key_block": BLOCK},
    "trust": {"policy": "tdx"},
}
OWNER = {"address": "0:" + "55" * 32}
HOST: dict[str, Any] = {"state_dir": "state", "liteservers": [{"address": "127.0.0.1:1", "key": "AAAA"}]}
KEYS = {"wallet_key_file": "w"}
PROGRAMS: dict[str, tuple[type[GatewayConfig | ClientConfig], dict[str, Any]]] = {
    "gateway": (
        GatewayConfig,
        KEYS | {"listen_workers": "127.0.0.1:1", "listen_clients": "127.0.0.1:2", "key_file": "k"},
    ),
    "client": (ClientConfig, KEYS | {"api_key_file": "a", "secret_file": "s"}),
}
RELEASES = {"keys": [KEY]}


@pytest.mark.parametrize("program", PROGRAMS)
def test_keys_and_manifests_belong_together(program: str) -> None:
    model, more = PROGRAMS[program]

    def made(measured: dict[str, Any], host: dict[str, Any]) -> GatewayConfig | ClientConfig:
        return model.model_validate({"measured": MEASURED | measured, "owner": OWNER, "host": HOST | more | host})

    found = made({"releases": RELEASES}, {"manifests": "manifests"})
    assert found.host.manifests == Path("manifests")
    assert made({}, {}).measured.releases is None
    for measured, host in (({"releases": RELEASES}, {}), ({}, {"manifests": "manifests"})):
        with pytest.raises(ValidationError, match="belong together"):
            made(measured, host)


def test_a_worker_that_would_ignore_it_is_refused() -> None:
    content = {
        "measured": MEASURED | {"model": "a/b@c:" + "00" * 32, "engine": {}},
        "owner": OWNER,
        "host": HOST,
    }
    WorkerConfig.model_validate(content)
    content["measured"]["releases"] = RELEASES
    with pytest.raises(ValidationError, match="for gateways and clients"):
        WorkerConfig.model_validate(content)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"keys": []}, "at least 1"),
        ({"keys": ["AAAA"]}, "32 bytes in base64"),
        ({"keys": ["A"]}, "32 bytes in base64"),
        ({"keys": [KEY], "threshold": 2}, "threshold 2 with 1 keys"),
        ({"keys": [KEY, KEY], "threshold": 2}, "threshold 2 with 1 keys"),
        ({"keys": [KEY], "grace_days": -1}, "greater than or equal to 0"),
        ({"keys": [KEY], "grace_days": 91}, "less than or equal to 90"),
        ({"keys": [KEY], "grace": 1}, "not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ReleaseTrust.model_validate(values)
    assert ReleaseTrust(keys=(KEY,), threshold=1, grace_days=0).grace_days == 0


def test_where_it_is_absent_no_digest_moves() -> None:
    """Workers' digests are in image hashes on chains: what is new must not change those of before."""
    plain = MeasuredConfig.model_validate(MEASURED)
    before = {name: value for name, value in plain.model_dump(mode="json").items() if name != "releases"}
    assert set(before) == {"network", "trust", "model", "engine", "model_volume", "time"}
    assert plain.digest() == hashlib.sha256(cbor2.dumps(before, canonical=True)).digest()
    stated = MeasuredConfig.model_validate(MEASURED | {"releases": RELEASES})
    other = MeasuredConfig.model_validate(MEASURED | {"releases": RELEASES | {"grace_days": 1}})
    assert len({plain.digest(), stated.digest(), other.digest()}) == 3
