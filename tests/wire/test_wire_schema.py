"""The table: its ids are the protocol's, its classes are committed, and its parser refuses what it does not know."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from appliance.wire import generate, messages
from appliance.wire.base import TLFunction, TLObject
from appliance.wire.schema import SCHEMA
from appliance.wire.tl import SchemaError, constructor_id, parse_schema

if TYPE_CHECKING:
    from pathlib import Path

# Annex A of the protocol specification: id, T(ype) or F(unction), name.
ANNEX_A = """
    0xBBE9627C T tcp.ping
    0x0BD4302C T tcp.pong
    0x9C17BAF8 T tcp.packet
    0xC048C311 T tcp.queryAnswer
    0x4CD2F602 T tcp.queryError
    0x3AF51908 T tcp.query
    0x636D41D6 T tcp.connected
    0xA57C4261 T tcp.connect
    0x8E9BE511 T http.header
    0x1CD0C42B T http.response
    0x47492DE5 F http.request
    0x70C5B15C T tokensUsed
    0x869C73ED T worker.params
    0xB3B71039 T worker.enabledDisabled
    0x6AF092B0 T worker.newCoefficient
    0x66BC82EE T worker.connectedToProxy
    0x9054C411 T worker.compareBalanceWithProxyResult
    0x0C10973E T worker.extendedCompareBalanceWithProxyResult
    0x3AD9B886 T worker.proxyHandshakeCompleted
    0xA88BD701 T worker.paymentStatus
    0xCC484C5D F worker.connectToProxy
    0xDB386501 F worker.compareBalanceWithProxy
    0xF8DD9914 F worker.extendedCompareBalanceWithProxy
    0xF843B066 F worker.proxyHandshakeComplete
    0xDC70A524 F worker.updatePaymentStatus
    0xD5C5609F T proxy.params
    0xC6BCF127 T proxy.clientRequestPayment
    0x02998182 T proxy.signedPayment
    0xB347CE64 T proxy.signedPaymentEmpty
    0x37E5F725 T proxy.queryAnswer
    0x669D014E T proxy.queryAnswerError
    0x72EB00EE T proxy.queryAnswerPart
    0x940E1168 T proxy.queryAnswerPartError
    0xE794E6FC T proxy.queryFinalInfo
    0x1CE574E8 T proxy.queryAnswerEx
    0x8F7FB0A7 T proxy.queryAnswerErrorEx
    0x6D85B50F T proxy.queryAnswerPartEx
    0x1436C0D5 T proxy.workerRequestPayment
    0x47182416 F proxy.runQuery
    0xC805E7E2 F proxy.runQueryEx
    0x40FDCA64 T client.params
    0xD6FFC5AF T client.proxyConnectionAuthShort
    0x417BF016 T client.proxyConnectionAuthLong
    0x75D5AC34 T client.authorizationWithProxySuccess
    0x60551C96 T client.authorizationWithProxyFailed
    0x95317AD1 T client.connectedToProxy
    0x9B943922 T client.queryAnswer
    0x6D60569A T client.queryAnswerError
    0xB765DE4C T client.queryAnswerPart
    0xD790A022 T client.queryAnswerPartError
    0x69A452F0 T client.queryFinalInfo
    0xCD524720 T client.queryAnswerEx
    0x072562A8 T client.queryAnswerErrorEx
    0xC07BFAEC T client.queryAnswerPartEx
    0x83AABEAD T client.refund
    0xCF9D9957 T client.refundRejected
    0x8210E21C T client.workerType
    0xF64E0E01 T client.workerTypes
    0x3EA93D00 T client.workerInstanceV2
    0xB27D8197 T client.workerTypeV2
    0x0CF0DC67 T client.workerTypesV2
    0xAA8A0ECC T client.paymentStatus
    0xFF5FA0F4 F client.connectToProxy
    0x6C276723 F client.authorizeWithProxyShort
    0xD3474303 F client.authorizeWithProxyLong
    0xBC748F32 F client.runQuery
    0xF54CB74B F client.runQueryEx
    0x238D863D F client.requestRefund
    0x9ED1C697 F client.updatePaymentStatus
    0x7F062BDB F client.getWorkerTypes
    0xB2133D72 F client.getWorkerTypesV2
    0xBC3F6DA5 T ton.blockIdExt
    0x5BF5E272 T proxyRunner.config
    0x870DB56D T workerRunner.config
    0xAF0BD51F T clientRunner.config
    0x9F4E446A T rootConfig.registeredProxy
    0x87A976CC T rootConfig.pseudo
    0x5E84869B T rootConfig.configV5
    0x6CFEAA21 T proxyDb.clientInfo
    0x3078C9BF T proxyDb.clientInfoV2
    0x2517B38F T proxyDb.workerInfo
    0x525B14A9 T proxyDb.pendingBlockchainSeqnoCommit
    0x43DC40B4 T proxyDb.configEmpty
    0xBDE43703 T proxyDb.configV4
    0xAD2CFB4A T proxyDb.configV4Disabled
    0x2FAE7B42 T proxyDb.oldClient
    0xF04156A0 T proxyDb.oldWorker
    0xA8C9E178 T proxyDb.oldInstance
    0x60F4F8E7 T keyManager.privateKey
    0x0ED66CE5 T keyManager.privateKeys
    0x2A26EFF5 F keyManager.getWorkerPrivateKeys
    0x47A9C2DE F keyManager.getProxyPrivateKeys
"""

BUILT_IN = {"bytes", "true", "boolTrue", "boolFalse"}


@pytest.mark.parametrize("line", ANNEX_A.strip().splitlines(), ids=lambda line: line.split()[2])
def test_ids_are_those_of_annex_a(line: str) -> None:
    number, kind, name = line.split()
    constructor = SCHEMA[name]
    assert constructor.id == int(number, 16)
    assert constructor.is_function == (kind == "F")
    assert constructor.id == messages.CLASSES[constructor.id].TL_ID
    assert name == messages.CLASSES[constructor.id].TL_NAME


def test_every_constructor_of_the_compiled_scheme_is_there(shared: Path) -> None:
    items = json.loads((shared / "vectors" / "cocoon.json").read_text())["constructor_ids"]["items"]
    assert len(items) == 102
    for name in items.keys() - BUILT_IN:
        constructor, expected = SCHEMA[name], items[name]
        assert constructor.id == int(expected["id"], 16)
        assert constructor.text == expected["text"]
        assert constructor.explicit == expected["explicit"]
        assert constructor.is_function == (expected["kind"] == "function")
        assert constructor_id(constructor.text) == int(expected["crc32"], 16)
    ours = {c.name for c in SCHEMA} - items.keys()
    assert ours == {c.name for c in SCHEMA if c.name.startswith("chrysalis.")}


def test_explicit_ids_win() -> None:
    assert {c.name for c in SCHEMA if c.explicit} == {
        "worker.params",
        "proxy.params",
        "client.params",
        "client.workerInstanceV2",
    }
    assert all(c.id != constructor_id(c.text) for c in SCHEMA if c.explicit)
    assert all(c.id == constructor_id(c.text) for c in SCHEMA if not c.explicit)


def test_the_committed_classes_are_what_the_table_gives() -> None:
    assert generate.TARGET.read_text(encoding="utf-8") == generate.render(SCHEMA)


def test_every_constructor_has_a_frozen_class_with_its_fields() -> None:
    assert len(messages.CLASSES) == len(SCHEMA)
    for constructor in SCHEMA:
        cls = messages.CLASSES[constructor.id]
        assert cls.__name__ == constructor.class_name
        assert issubclass(cls, TLObject)
        assert issubclass(cls, TLFunction) == constructor.is_function
        assert [f.name for f in dataclasses.fields(cls)] == [f.name for f in constructor.fields]
        assert not hasattr(cls, "__dict__") or "__dict__" not in dir(cls)


def test_every_function_has_a_result() -> None:
    functions = {messages.CLASSES[c.id]: c for c in SCHEMA if c.is_function}
    assert set(messages.RESULT_OF) == set(functions)
    for cls, constructor in functions.items():
        assert {SCHEMA[result.TL_NAME].result for result in messages.RESULT_OF[cls]} == {constructor.result}


def test_objects_are_immutable_and_compare_by_value() -> None:
    one = messages.TcpPing(7)
    assert one == messages.TcpPing(7)
    assert one != messages.TcpPong(7)
    assert hash(one) == hash(messages.TcpPing(7))
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.id = 8  # type: ignore[misc]


def test_a_representation_shows_no_content() -> None:
    header = messages.HttpHeader("authorization", "secret")
    request = messages.HttpRequest("POST", "/v1", "HTTP/1.1", (header,), b"prompt")
    shown = repr(messages.TcpPacket(b"prompt")) + repr(request) + repr(header)
    assert "prompt" not in shown
    assert "secret" not in shown
    assert "<6 bytes>" in shown
    assert repr(messages.TcpPing(7)) == "TcpPing(id=7)"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("a.b x:int", "not a combinator"),
        ("a.b x = a.B;", "not understood"),
        ("a.b x:int = a.B; a.b y:int = a.C;", "name comes twice"),
        ("a.b#1 x:int = a.B; a.c#1 y:int = a.C;", "id comes twice"),
        ("aB x:int = a.B; a.b y:int = a.C;", "class_name comes twice"),
        ("a.b x:a.c = a.B;", "no such type"),
        ("a.b x:a.C = a.B;", "no constructor makes"),
        ("a.b x:a.b = a.B;", "contains itself"),
        ("a.b x:a.C = a.B; a.c y:a.b = a.C;", "contains itself"),
        ("a.b x:(vector a.B) = a.B;", "contains itself"),
        ("a.b x:flags.0?int = a.B;", "flags:# before it"),
        ("a.b flags:# x:flags.0?int y:int = a.B;", "follows an optional one"),
        ("a.b count:# = a.B;", "flags:# before it"),
        ("a.b x:(vector a.c) = a.B; a.c = a.C;", "at least one byte"),
        ("---functions---\n---functions---", "comes twice"),
    ],
)
def test_a_wrong_scheme_is_refused(source: str, what: str) -> None:
    with pytest.raises(SchemaError, match=what):
        parse_schema(source)


def test_a_right_scheme_is_not() -> None:
    schema = parse_schema(
        "a.b#1f flags:# x:flags.3?int = a.B; // note; with = signs\n---functions---\na.f x:a.B = a.B;"
    )
    assert schema["a.b"].id == 0x1F
    assert schema["a.b"].text == "a.b flags:# x:flags.3?int = a.B"
    assert schema["a.b"].fields[1].bit == 3
    assert schema["a.f"].is_function
    assert not schema["a.b"].is_function
