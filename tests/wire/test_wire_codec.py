"""The codec: golden bytes, round trips over the whole table, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import ANY_OBJECT, objects

from appliance.wire.base import TLObject
from appliance.wire.codec import decode, encode
from appliance.wire.errors import CodecError, EncodeError, UnknownConstructorError
from appliance.wire.messages import (
    CLASSES,
    RESULT_OF,
    ChrysalisHello,
    ChrysalisWorkerEvidence,
    ClientWorkerInstanceV2,
    ClientWorkerTypesV2,
    ClientWorkerTypeV2,
    HttpHeader,
    HttpResponse,
    ProxyQueryAnswerPartEx,
    ProxyQueryFinalInfo,
    ProxyRunQueryEx,
    ProxySignedPayment,
    ProxySignedPaymentEmpty,
    TcpConnect,
    TcpPacket,
    TcpPing,
    TcpPong,
    TcpQueryError,
    TokensUsed,
    WorkerConnectToProxy,
    WorkerEnabledDisabled,
    WorkerParams,
    WorkerProxyHandshakeComplete,
    WorkerUpdatePaymentStatus,
)
from appliance.wire.primitives import MAX_ELEMENTS
from appliance.wire.schema import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

REQUEST = bytes(range(32))


def plain(value: object) -> Any:
    """An object in the form the vectors give values in."""
    match value:
        case TLObject():
            fields = {f.name: plain(getattr(value, f.name)) for f in SCHEMA[value.TL_NAME].fields}
            return {"_": value.TL_NAME, **{k: v for k, v in fields.items() if v is not None}}
        case bytes():
            return {"hex": value.hex()}
        case tuple():
            return [plain(item) for item in value]
        case _:
            return value


def without_bare_names(value: Any, seen: Any) -> Any:
    """``value`` without the names that the vectors leave out of bare objects."""
    if isinstance(value, dict):
        return {k: without_bare_names(v, seen[k]) for k, v in value.items() if k != "_" or "_" in seen}
    if isinstance(value, list):
        return [without_bare_names(a, b) for a, b in zip(value, seen, strict=True)]
    return value


def test_every_message_of_the_vectors(shared: Path, record_property: Any) -> None:
    items = json.loads((shared / "vectors" / "cocoon.json").read_text())["tl_messages"]["items"]
    for item in items:
        data = bytes.fromhex(item["hex"])
        value = decode(data)
        assert encode(value) == data, item["name"]
        assert without_bare_names(plain(value), item["value"]) == item["value"], item["name"]
    record_property("messages", len(items))
    assert len(items) == 46


GOLDEN = [
    (TcpConnect(0x1122334455667788), "61427ca58877665544332211"),
    (WorkerUpdatePaymentStatus(), "24a570dc"),
    (WorkerEnabledDisabled(1), "3910b7b301000000"),
    (WorkerProxyHandshakeComplete(is_disabled=True), "66b043f8b5757299"),
    (TcpPacket(bytes.fromhex("3910b7b300000000")), "f8ba179c083910b7b300000000000000"),
    (TcpQueryError(5, 0, "Lost promise"), "02f6d24c0500000000000000000000000c4c6f73742070726f6d697365000000"),
    (
        ProxyQueryAnswerPartEx(REQUEST, b"ab", 1, ProxyQueryFinalInfo(2, TokensUsed(1, 2, 3, 4, 5), None, 1.5, -2.0)),
        "0fb5856d"
        + REQUEST.hex()
        + "02616200"
        + "01000000"
        + "02000000"
        + "".join(f"{n:02x}00000000000000" for n in (1, 2, 3, 4, 5))
        + "000000000000f83f00000000000000c0",
    ),
]


@pytest.mark.parametrize(("value", "text"), GOLDEN, ids=lambda v: type(v).__name__ if isinstance(v, TLObject) else "")
def test_golden_bytes(value: TLObject, text: str) -> None:
    assert encode(value).hex() == text
    assert decode(bytes.fromhex(text)) == value


@pytest.mark.parametrize("constructor", list(SCHEMA), ids=lambda c: c.name)
def test_round_trip_of_every_constructor(constructor: Any) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(objects(constructor))
    def check(value: TLObject) -> None:
        data = encode(value)
        assert len(data) % 4 == 0
        assert struct.unpack_from("<I", data) == (constructor.id,)
        again = decode(data, CLASSES[constructor.id])
        assert type(again) is type(value)
        assert encode(again) == data
        if "nan" not in repr(value):
            assert again == value

    check()


@given(ANY_OBJECT, st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_cut_object_is_refused(value: TLObject, data: st.DataObject) -> None:
    whole = encode(value)
    assert encode(decode(whole)) == whole
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(CodecError):
        decode(whole[:cut])


@given(ANY_OBJECT, st.binary(min_size=1, max_size=9))
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_trailing_bytes_are_refused(value: TLObject, tail: bytes) -> None:
    with pytest.raises(CodecError, match="trailing"):
        decode(encode(value) + tail)


@given(ANY_OBJECT, st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_changed_bytes_are_refused_or_read_as_what_they_say(value: TLObject, data: st.DataObject) -> None:
    changed = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    accepts_only_what_it_writes(bytes(changed))


@given(st.sampled_from(list(SCHEMA)), st.binary(max_size=80))
@settings(max_examples=600, deadline=None)
def test_arbitrary_bytes_only_raise_codec_errors(constructor: Any, body: bytes) -> None:
    accepts_only_what_it_writes(struct.pack("<I", constructor.id) + body)


def accepts_only_what_it_writes(data: bytes) -> None:
    try:
        value = decode(data)
    except CodecError:
        return
    written = encode(value)
    repaired = b"\xef\xbf\xbd" in written or b" " in written
    assert written == data or repaired
    assert encode(decode(written)) == written


def test_reads_any_kind_of_buffer_and_shares_none() -> None:
    data = bytearray(encode(TcpPacket(b"abcdef")))
    values = [decode(data), decode(memoryview(data)), decode(bytes(data))]
    data[5] = 0
    assert values == [TcpPacket(b"abcdef")] * 3


def test_a_decoded_object_is_as_one_that_was_made() -> None:
    made = HttpHeader("a", "b")
    (read,) = decode(encode(HttpResponse("1", 200, "", (made,), b"")), HttpResponse).headers
    assert (type(read), read, hash(read)) == (HttpHeader, made, hash(made))
    assert dataclasses.replace(read, value="c") == HttpHeader("a", "c")
    assert copy.deepcopy(read) == pickle.loads(pickle.dumps(read)) == made  # noqa: S301 -- our own bytes
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.value = "c"  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        read.other = "c"  # type: ignore[attr-defined]


def test_the_expected_class_is_demanded() -> None:
    data = encode(TcpPing(1))
    assert decode(data, TcpPing) == TcpPing(1)
    assert decode(data, (TcpPing, TcpPong)) == TcpPing(1)
    with pytest.raises(CodecError, match="a TcpPing was sent, expected TcpPong"):
        decode(data, TcpPong)
    with pytest.raises(CodecError, match="expected WorkerPaymentStatus"):
        decode(data, RESULT_OF[WorkerUpdatePaymentStatus])


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x01\x02\x03", bytes(4), b"\xff" * 64])
def test_an_unknown_or_cut_id_is_refused(data: bytes) -> None:
    error = CodecError if len(data) < 4 else UnknownConstructorError
    with pytest.raises(error):
        decode(data)


def test_an_unknown_id_is_named() -> None:
    with pytest.raises(UnknownConstructorError, match="0xdeadbeef") as caught:
        decode(bytes.fromhex("efbeadde"))
    assert caught.value.constructor == 0xDEADBEEF


# Strings


def blob(prefix: bytes, data: bytes, tail: bytes) -> bytes:
    return struct.pack("<I", TcpPacket.TL_ID) + prefix + data + tail


@pytest.mark.parametrize("size", [0, 1, 2, 3, 252, 253, 254, 255, 256, 257, (1 << 24) - 1, 1 << 24, (1 << 24) + 1])
def test_every_form_of_a_length(size: int) -> None:
    value = TcpPacket(b"\x5a" * size)
    data = encode(value)
    head = 1 if size < 254 else 4 if size < 1 << 24 else 8
    assert len(data) == 4 + (head + size + 3) // 4 * 4
    assert decode(data) == value


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (blob(b"\x02", b"ab", b"\0"), blob(b"\xfe\x02\0\0", b"ab", b"\0\0")),
        (blob(b"\x02", b"ab", b"\0"), blob(b"\xff\x02\0\0\0\0\0\0", b"ab", b"\0\0")),
        (blob(b"\xfd", b"x" * 253, b"\0\0"), blob(b"\xfe\xfd\0\0", b"x" * 253, b"\0\0\0")),
        (blob(b"\xfe\xfe\0\0", b"x" * 254, b"\0\0"), blob(b"\xff\xfe\0\0\0\0\0\0", b"x" * 254, b"\0\0")),
    ],
)
def test_a_length_in_a_longer_form_than_needed_is_refused(good: bytes, bad: bytes) -> None:
    assert encode(decode(good)) == good
    with pytest.raises(CodecError, match="instead of fewer"):
        decode(bad)


@pytest.mark.parametrize("size", [0, 1, 2, 254])
def test_padding_has_to_be_zero(size: int) -> None:
    good = encode(TcpPacket(b"x" * size))
    assert decode(good) == TcpPacket(b"x" * size)
    with pytest.raises(CodecError, match=r"padding of tcp\.packet\.data"):
        decode(good[:-1] + b"\x01")


@pytest.mark.parametrize(
    "bad", [blob(b"\xfd", b"x" * 10, b""), blob(b"\xfe\xff\xff\xff", b"", b""), blob(b"\xff" * 8, b"", b"")]
)
def test_a_length_past_the_end_is_refused(bad: bytes) -> None:
    with pytest.raises(CodecError):
        decode(bad)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"gr\xc3\xbc\xc3\x9fe", "grüße"),
        (b"a\xffb", "a\ufffdb"),
        (b"cut \xe2\x82", "cut \ufffd"),
        (b"a\0b", "a b"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_a_string_that_is_no_text_is_repaired_and_costs_nothing_else(raw: bytes, text: str) -> None:
    head = struct.pack("<IqiB", TcpQueryError.TL_ID, 1, 602, len(raw))
    value = decode(head + raw + bytes(-(len(raw) + 1) % 4), TcpQueryError)
    assert value == TcpQueryError(1, 602, text)
    assert decode(encode(value)) == value


@pytest.mark.parametrize(("text", "what"), [("a\0b", "NUL"), ("\ud800", "UnicodeEncodeError")])
def test_a_string_that_readers_would_change_is_not_sent(text: str, what: str) -> None:
    assert encode(TcpQueryError(1, 2, "a b"))
    with pytest.raises(EncodeError, match=what) as caught:
        encode(TcpQueryError(1, 2, text + "prompt"))
    assert "prompt" not in str(caught.value)
    assert caught.value.__cause__ is None


# Bool, flags, boxed fields


def test_a_bool_is_one_of_two_ids() -> None:
    head = struct.pack("<I", WorkerProxyHandshakeComplete.TL_ID)
    assert decode(head + bytes.fromhex("379779bc")) == WorkerProxyHandshakeComplete(is_disabled=False)
    assert decode(head + bytes.fromhex("b5757299")) == WorkerProxyHandshakeComplete(is_disabled=True)
    with pytest.raises(CodecError, match="is_disabled"):
        decode(head + bytes.fromhex("01000000"))


RUN = ProxyRunQueryEx(b"q", ProxySignedPaymentEmpty(), 1000, 1.0, REQUEST, 0)


def test_flags_are_not_negative_and_unknown_bits_are_kept() -> None:
    data = encode(RUN)
    assert decode(data[:-4] + struct.pack("<i", 0x7FFFFFFE)) == ProxyRunQueryEx(
        b"q", ProxySignedPaymentEmpty(), 1000, 1.0, REQUEST, 0x7FFFFFFE
    )
    with pytest.raises(CodecError, match="no negative number"):
        decode(data[:-4] + struct.pack("<i", -2))


@pytest.mark.parametrize(
    "value",
    [
        ProxyRunQueryEx(b"q", ProxySignedPaymentEmpty(), 1000, 1.0, REQUEST, 1),
        ProxyRunQueryEx(b"q", ProxySignedPaymentEmpty(), 1000, 1.0, REQUEST, 0, enable_debug=False),
        WorkerConnectToProxy(WorkerParams(3, "a", "b", 0, is_test=True, proxy_cnt=1, max_active_requests=None)),
        WorkerConnectToProxy(WorkerParams(0, "a", "b", 0, min_proto_version=1)),
    ],
)
def test_optional_fields_and_flags_have_to_agree(value: TLObject) -> None:
    assert encode(RUN)
    with pytest.raises(EncodeError, match=r"bit \d of flags"):
        encode(value)


def test_a_boxed_field_has_to_be_of_its_type() -> None:
    paid = ProxyRunQueryEx(b"q", ProxySignedPayment(b"p"), 1, 1.0, REQUEST, 0)
    assert decode(encode(paid)) == paid
    wrong = encode(RUN).replace(struct.pack("<I", ProxySignedPaymentEmpty.TL_ID), struct.pack("<I", TcpPing.TL_ID))
    with pytest.raises(CodecError, match=r"proxy\.runQueryEx\.signed_payment"):
        decode(wrong)
    with pytest.raises(EncodeError, match="holds a TcpPing"):
        encode(ProxyRunQueryEx(b"q", TcpPing(1), 1, 1.0, REQUEST, 0))  # type: ignore[arg-type]


def test_explicit_ids_of_bare_types_are_not_on_the_wire() -> None:
    data = encode(WorkerConnectToProxy(WorkerParams(0, "a", "b", 0)))
    assert struct.pack("<I", WorkerParams.TL_ID) not in data
    assert struct.pack("<I", HttpHeader.TL_ID) not in encode(HttpResponse("1", 200, "", (HttpHeader("a", "b"),), b""))


# Vectors


def response(count: int, body: bytes) -> bytes:
    return (
        struct.pack("<I", HttpResponse.TL_ID)
        + bytes(4)
        + struct.pack("<i", 200)
        + bytes(4)
        + struct.pack("<I", count)
        + body
    )


def test_a_vector_cannot_announce_more_than_the_bytes_hold() -> None:
    header = b"\x01a\0\0\x01b\0\0"
    assert decode(response(2, header * 2 + bytes(4)), HttpResponse).headers == (HttpHeader("a", "b"),) * 2
    for count in (3, 1 << 16, 1 << 31, (1 << 32) - 1):
        tracemalloc.start()
        with pytest.raises(CodecError, match="announces"):
            decode(response(count, header * 2 + bytes(4)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100_000


def test_a_frame_full_of_the_smallest_elements_costs_no_memory() -> None:
    count = (1 << 21) - 8
    data = response(count, bytes(8 * count) + bytes(4))
    assert MAX_ELEMENTS < count < len(data) // 8
    tracemalloc.start()
    with pytest.raises(CodecError, match="announces"):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    most = response(MAX_ELEMENTS, bytes(8 * MAX_ELEMENTS) + bytes(4))
    assert len(decode(most, HttpResponse).headers) == MAX_ELEMENTS


def test_the_elements_of_one_object_are_bounded_together() -> None:
    element = ClientWorkerInstanceV2(0, 1, 2, 3)
    half = ClientWorkerTypeV2("m", (element,) * (MAX_ELEMENTS // 2))
    rest = ClientWorkerTypeV2("m", (element,) * (MAX_ELEMENTS // 2 - 2))
    most = ClientWorkerTypesV2((half, rest))
    data = encode(most)
    assert decode(data) == most
    over = ClientWorkerTypeV2("m", (element,) * (MAX_ELEMENTS // 2 - 1))
    with pytest.raises(EncodeError, match="over the 65536"):
        encode(ClientWorkerTypesV2((half, over)))
    # The same, as only another implementation would write it: one element more in the second type.
    at = len(data) - 16 * (MAX_ELEMENTS // 2 - 2) - 4
    count = struct.pack("<I", MAX_ELEMENTS // 2 - 1)
    with pytest.raises(CodecError, match="announces"):
        decode(data[:at] + count + data[at + 4 :] + bytes(16))


def test_vectors_of_strings_and_bytes() -> None:
    for value in (ChrysalisHello(("a", "", "grüße")), ChrysalisWorkerEvidence((b"", b"x" * 300)), ChrysalisHello(())):
        assert decode(encode(value)) == value


# What an owner may get wrong


@pytest.mark.parametrize(
    "value",
    [
        TcpPing(1 << 63),
        TcpPing("1"),  # type: ignore[arg-type]
        TcpPing(None),  # type: ignore[arg-type]
        TcpPacket("text"),  # type: ignore[arg-type]
        TcpPacket(None),  # type: ignore[arg-type]
        WorkerProxyHandshakeComplete(1),  # type: ignore[arg-type]
        ProxyQueryAnswerPartEx(b"short", b"", 0),
        ProxyQueryAnswerPartEx(REQUEST, b"", -1),
        HttpResponse("1", 200, "", None, b""),  # type: ignore[arg-type]
        HttpResponse("1", 200, "", ("x",), b""),  # type: ignore[arg-type]
        "no object",
    ],
)
def test_what_cannot_be_written_is_refused(value: Any) -> None:
    with pytest.raises(EncodeError):
        encode(value)


def test_what_can_be_written_is_not() -> None:
    assert decode(encode(TcpPing((1 << 63) - 1))) == TcpPing((1 << 63) - 1)
    assert decode(encode(TcpPing(-(1 << 63)))) == TcpPing(-(1 << 63))
