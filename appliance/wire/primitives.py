"""The pieces of TL that no single ``struct`` call covers: string lengths, padding, and what a reader complains about.

Layout: specification, section 1.7. One encoding per value: a length has to be in its shortest form and the padding has
to be zero, as every known writer does it; anything else is refused, so that what was read can be written again byte for
byte. The generated readers (``appliance.wire.readers``) do the short form in line and come here for the rest.
"""

from __future__ import annotations

from typing import Final, Never

from appliance.wire.errors import CodecError, EncodeError

SHORT_LIMIT: Final = 254  # lengths below it take one byte
MEDIUM_LIMIT: Final = 1 << 24  # lengths below it take 0xFE and three bytes; the rest 0xFF and seven

# The zero bytes that may follow a string, by their number.
PADDING: Final = (b"", b"\0", b"\0\0", b"\0\0\0")

# The length byte of every short string.
SHORT_LENGTHS: Final = tuple(bytes([n]) for n in range(SHORT_LIMIT))

MAX_ELEMENTS: Final = 1 << 16
"""The most elements that all vectors of one object may have together.

It bounds memory: an element of two empty strings takes 8 bytes on the wire and some 150 as Python objects, so a frame
full of them would cost twenty times its size; 65536 cost about 10 MiB. No real message has a hundredth of that.
"""


def long_span(buffer: bytes, position: int) -> tuple[int, int, int]:
    """Read a length that is not in the one-byte form.

    Args:
        buffer: The whole object.
        position: Where the length starts.

    Returns:
        Where the data start and end, and where the next field starts. The end may be past the buffer; the caller
        finds that at the latest when it compares its last position with the buffer's length.

    Raises:
        CodecError: The length would fit a shorter form.
    """
    if buffer[position] == 0xFE:
        start, least = position + 4, SHORT_LIMIT
    else:
        start, least = position + 8, MEDIUM_LIMIT
    length = int.from_bytes(buffer[position + 1 : start], "little")
    if length < least:
        raise CodecError(f"a string of {length} bytes has its length in {start - position} bytes instead of fewer")
    return start, start + length, start + ((length + 3) & -4)


def long_length(length: int) -> bytes:
    """Write a length of 254 or more; its size is a multiple of four, so it never changes the padding."""
    if length < MEDIUM_LIMIT:
        return b"\xfe" + length.to_bytes(3, "little")
    return b"\xff" + length.to_bytes(7, "little")


def holds_nul(where: str) -> Never:
    """Raise for a string to be sent with a NUL in it, which the reference's reader would silently change."""
    raise EncodeError(f"{where} holds a NUL character, which readers of the protocol replace")


def bad_padding(buffer: bytes, position: int, where: str) -> Never:
    """Raise for a string's padding, which is cut off or not zero."""
    if position > len(buffer):
        raise CodecError(f"the bytes end inside {where}: {len(buffer)} seen, at least {position} expected")
    raise CodecError(f"the padding of {where} is not zero")


def bad_bool(value: int, where: str) -> Never:
    """Raise for a Bool that is neither of the two ids."""
    raise CodecError(f"{where} is 0x{value:08x}, expected one of the two ids of Bool")


def bad_flags(value: int, where: str) -> Never:
    """Raise for negative flags."""
    raise CodecError(f"{where} is {value}, expected no negative number")


def bad_count(count: int, left: int, where: str) -> Never:
    """Raise for a vector's count that the bytes, or the bound on elements, do not allow."""
    raise CodecError(f"{where} announces {count} elements, with {left} bytes left and {MAX_ELEMENTS} allowed in all")


def bad_box(constructor: int, where: str) -> Never:
    """Raise for a boxed field whose id is of another type."""
    raise CodecError(f"{where} has constructor 0x{constructor:08x}, which is not one of its type")


def bad_size(seen: int, expected: int, where: str) -> Never:
    """Raise for raw bytes of a fixed size that are of another size."""
    raise EncodeError(f"{where} has {seen} bytes, expected {expected}")


def bad_optional(where: str, bit: int) -> Never:
    """Raise for optional fields that do not agree with their flag."""
    raise EncodeError(f"{where}: bit {bit} of flags and the fields it announces have to be set together")


def bad_variant(value: object, where: str) -> Never:
    """Raise for a boxed field that holds an object of another type."""
    raise EncodeError(f"{where} holds a {type(value).__name__}, which is not one of its type")


def negative_flags(value: int, where: str) -> Never:
    """Raise for flags to be sent that a reader would refuse."""
    raise EncodeError(f"{where} is {value}, expected no negative number")


def not_a_bool(value: object, where: str) -> Never:
    """Raise for a Bool to be sent that is something else."""
    raise EncodeError(f"{where} is a {type(value).__name__}, expected a bool")


def too_many(where: str) -> Never:
    """Raise for a vector to be sent that its reader would refuse."""
    raise EncodeError(f"{where} brings the elements of the object over the {MAX_ELEMENTS} that are allowed")
