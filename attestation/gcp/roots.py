"""Which authorities may certify a Google vTPM's attestation key, pinned by their keys."""

from __future__ import annotations

GOOGLE_ROOT_KEY_IDS: tuple[bytes, ...] = (
    bytes.fromhex("13049d8f8816caa7948217e9342e413aed87e74b83835bdfd0697cbe48032a4ef6081fb3114c72c645f1f4633d420ffb"),
)
"""SHA-384 of the public key of ``CN=EK/AK CA Root, OU=Google Cloud, O=Google LLC`` (RSA 4096, valid 2022 to 2122), as
:func:`attestation.tpm.chain.root_key_id` makes it. The certificate itself comes with the evidence."""
