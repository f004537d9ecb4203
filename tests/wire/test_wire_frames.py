"""Frames: bounds, sequence numbers, pieces of any size, and the work that big frames take."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.wire.errors import FrameTooLargeError, ProtocolError
from appliance.wire.frames import FrameReader, FrameWriter
from appliance.wire.limits import LinkLimits

LIMITS = LinkLimits()
FULL = 1 << 24


def frame(payload: bytes, sequence: int) -> bytes:
    return struct.pack("<Ii", len(payload), sequence) + payload


def written(payloads: list[bytes]) -> bytes:
    writer = FrameWriter(LIMITS)
    return b"".join(writer.header(len(payload)) + payload for payload in payloads)


def test_layout() -> None:
    assert (
        written([b"abcd", b"efgh"])
        == bytes.fromhex("0400000000000000") + b"abcd" + bytes.fromhex("0400000001000000") + b"efgh"
    )


@given(
    st.lists(st.binary(min_size=4, max_size=60), max_size=8),
    st.lists(st.integers(1, 40), max_size=40),
    st.sampled_from([bytes, bytearray, memoryview]),
)
@settings(deadline=None)
def test_pieces_of_any_size_give_the_same_payloads(payloads: list[bytes], sizes: list[int], kind: type) -> None:
    stream = written(payloads)
    reader, seen, at = FrameReader(LIMITS), [], 0
    for size in [*sizes, len(stream)]:
        seen += list(reader.feed(kind(stream[at : at + size])))
        at = min(at + size, len(stream))
    assert seen == payloads
    assert all(type(payload) is bytes for payload in seen)
    assert reader.buffered == 0


@pytest.mark.parametrize("length", [0, 3, FULL + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_out_of_bounds_is_refused_from_the_header_alone(length: int) -> None:
    reader = FrameReader(LIMITS)
    with pytest.raises(ProtocolError, match=f"a frame of {length} bytes"):
        list(reader.feed(struct.pack("<II", length, 0)))


@pytest.mark.parametrize("length", [4, FULL])
def test_a_length_at_the_bounds_is_not(length: int) -> None:
    assert list(FrameReader(LIMITS).feed(frame(bytes(length), 0))) == [bytes(length)]


@pytest.mark.parametrize("sequences", [[1], [0, 0], [0, 2], [-1], [0, 1, 1]])
def test_a_wrong_sequence_number_is_refused_after_the_right_ones(sequences: list[int]) -> None:
    seen: list[bytes] = []
    with pytest.raises(ProtocolError, match="sequence number"):
        seen.extend(FrameReader(LIMITS).feed(b"".join(frame(b"abcd", n) for n in sequences)))
    assert len(seen) == len(sequences) - 1
    right = b"".join(frame(b"abcd", n) for n in range(len(sequences)))
    assert len(list(FrameReader(LIMITS).feed(right))) == len(sequences)


def test_sequence_numbers_wrap() -> None:
    reader, writer = FrameReader(LIMITS), FrameWriter(LIMITS)
    reader._sequence = writer._sequence = (1 << 32) - 1
    for _ in range(2):
        assert list(reader.feed(writer.header(4) + b"abcd")) == [b"abcd"]


def test_a_payload_over_the_limit_is_refused_and_takes_no_number() -> None:
    writer = FrameWriter(LIMITS)
    with pytest.raises(FrameTooLargeError, match="16777217 bytes") as caught:
        writer.header(FULL + 1)
    assert (caught.value.size, caught.value.limit) == (FULL + 1, FULL)
    assert writer.header(FULL) == struct.pack("<Ii", FULL, 0)


def test_a_big_frame_in_small_pieces_is_held_once() -> None:
    stream = memoryview(written([bytes(FULL)]))
    reader = FrameReader(LIMITS)
    tracemalloc.start()
    count = 0
    for at in range(0, len(stream), 65536):
        count += len(list(reader.feed(stream[at : at + 65536])))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 1
    assert peak < 2.5 * FULL  # the buffer, the payload cut from it, and the buffer's own growth


def test_the_work_of_a_big_frame_grows_with_its_size_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: each header is looked at once for each piece, and no piece is looked at again."""
    checks = 0

    class Counting(FrameReader):
        def _check(self, length: int, sequence: int) -> None:
            nonlocal checks
            checks += 1
            super()._check(length, sequence)

    stream = memoryview(written([bytes(1 << 20)] * 3))
    reader = Counting(LIMITS)
    pieces = range(0, len(stream), 1000)
    assert sum(len(list(reader.feed(stream[at : at + 1000]))) for at in pieces) == 3
    assert checks <= len(pieces) + 3
