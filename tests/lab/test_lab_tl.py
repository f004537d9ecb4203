"""The liteserver's schema and codec."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core.tl.generator import TlGenerator

from appliance.lab.chain.errors import TlError
from appliance.lab.chain.lite_api import lite_schema

SCHEMA = lite_schema()
HASH = bytes(range(32))
BLOCK = {"workchain": -1, "shard": -(2**63), "seqno": 7, "root_hash": HASH, "file_hash": HASH[::-1]}


def test_identifiers_are_those_of_the_published_schema() -> None:
    published = TlGenerator.with_default_schemas().generate()
    for name, constructor in SCHEMA.by_name.items():
        known = published.get_by_name(name)
        assert known is not None, name
        assert constructor.id == int.from_bytes(known.id, "big"), name
        assert [field.name for field in constructor.fields] == list(known.args), name


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("liteServer.getTime", {}),
        ("liteServer.error", {"code": -400, "message": "übel"}),
        ("liteServer.lookupBlock", {"mode": 2, "id": {"workchain": 0, "shard": 1, "seqno": 2}, "lt": 99}),
        ("liteServer.getBlockProof", {"mode": 1, "known_block": BLOCK, "target_block": BLOCK}),
        ("liteServer.getBlockProof", {"mode": 0, "known_block": BLOCK}),
        ("liteServer.getLibraries", {"library_list": [HASH, HASH]}),
        ("liteServer.transactionList", {"ids": [BLOCK, BLOCK, BLOCK], "transactions": b"x" * 300}),
    ],
)
def test_objects_come_back(name: str, fields: dict[str, object]) -> None:
    decoded = SCHEMA.decode(SCHEMA.encode(name, **fields))
    assert decoded.pop("@type") == name
    for key, expected in fields.items():
        seen = decoded[key]
        if isinstance(seen, dict):
            seen.pop("@type")
        if isinstance(seen, list):
            seen = [
                {k: v for k, v in item.items() if k != "@type"} if isinstance(item, dict) else item for item in seen
            ]
        assert seen == expected


def test_boxed_fields_name_their_constructor() -> None:
    back = {
        "@type": "liteServer.blockLinkBack",
        "to_key_block": True,
        "from": BLOCK,
        "to": BLOCK,
        "dest_proof": b"1",
        "proof": b"2",
        "state_proof": b"3",
    }
    whole = {"complete": True, "from": BLOCK, "to": BLOCK, "steps": [back]}
    decoded = SCHEMA.decode(SCHEMA.encode("liteServer.partialBlockProof", **whole))
    assert decoded["steps"][0]["@type"] == "liteServer.blockLinkBack"
    assert decoded["steps"][0]["state_proof"] == b"3"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(data: bytes) -> None:
    try:
        SCHEMA.decode(data)
    except TlError:
        return


@settings(deadline=None)
@given(st.sampled_from(sorted(SCHEMA.by_name)), st.binary(max_size=200))
def test_any_body_of_a_known_constructor_too(name: str, body: bytes) -> None:
    try:
        SCHEMA.decode(SCHEMA.by_name[name].id.to_bytes(4, "little") + body)
    except TlError:
        return


def test_bytes_after_the_end_are_refused() -> None:
    whole = SCHEMA.encode("liteServer.getTime")
    assert SCHEMA.decode(whole)["@type"] == "liteServer.getTime"
    with pytest.raises(TlError, match="4 bytes after the end"):
        SCHEMA.decode(whole + bytes(4))


def test_a_vector_cannot_promise_more_than_there_is() -> None:
    data = SCHEMA.by_name["liteServer.getLibraries"].id.to_bytes(4, "little") + b"\xff\xff\xff\x7f" + bytes(64)
    with pytest.raises(TlError, match="vector"):
        SCHEMA.decode(data)
