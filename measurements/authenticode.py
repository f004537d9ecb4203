"""Authenticode digests: what firmware measures when it loads a PE image (and what secure boot signs).

Source: Microsoft, "Windows Authenticode Portable Executable Signature Format", section "Calculating the PE Image Hash",
as EDK II's DxeTpm2MeasureBootLib does it: the file is not padded to a multiple of eight.
"""

from __future__ import annotations

import hashlib

from measurements import pe as layout
from measurements.errors import ArtefactError

ALGORITHMS = ("sha1", "sha256", "sha384", "sha512")


def digest(pe: bytes, algorithm: str = "sha256") -> bytes:
    """Digest of an image without its checksum and certificates.

    Args:
        pe: The whole file.
        algorithm: One of :data:`ALGORITHMS`, as the measured bank has it.

    Raises:
        ArtefactError: Not a PE image, one whose sections overlap, or another algorithm.
    """
    if algorithm not in ALGORITHMS:
        raise ArtefactError(f"digest algorithm {algorithm!r}, expected one of {', '.join(ALGORITHMS)}")
    image = layout.parse(pe)
    view = memoryview(pe)
    state = hashlib.new(algorithm)
    state.update(view[: image.checksum])
    after = image.checksum + 4
    if image.certificate_entry is not None:
        state.update(view[after : image.certificate_entry])
        after = image.certificate_entry + 8
    state.update(view[after : image.headers_size])
    hashed = image.headers_size
    sections = [section for section in image.sections if section.raw_size]
    if hashed + sum(section.raw_size for section in sections) > len(pe) - image.certificate_size:
        raise ArtefactError("image whose sections overlap each other, its headers or its certificates")
    for section in sorted(sections, key=lambda item: item.raw_offset):
        state.update(view[section.raw_offset : section.raw_offset + section.raw_size])
        hashed += section.raw_size
    # The rest begins where the sum of what was hashed says, also if the file has gaps: so the document, so firmware.
    state.update(view[hashed : len(pe) - image.certificate_size])
    return state.digest()
