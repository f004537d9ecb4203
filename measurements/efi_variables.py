"""The settings of secure boot as they are measured: variables in, the contents of their events out, for any bank.

They are measured with their names, also where they are not set (``EV_EFI_VARIABLE_DRIVER_CONFIG``). ``SecureBoot``
exists only where the firmware knows secure boot: there it is one byte, elsewhere it is measured as empty. Where it is
enforced, the entry of ``db`` that an image was accepted by is measured when that image is loaded.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (which variables, in which order); EDK II
``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`` (MeasureAllSecureVariables), ``SecurityPkg/Library/AuthVariableLib``
(``SecureBoot``), ``SecurityPkg/Library/DxeImageVerificationLib`` (the entry).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from measurements import secure_boot
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, signatures, variable_data

if TYPE_CHECKING:
    from measurements.variable_store import VariableStore

TIMESTAMPS = "dbt"
"""Measured after the others, where it is set."""


def policy(store: VariableStore, *, known: bool) -> tuple[tuple[str, bytes], ...]:
    """Name and contents of the event of each setting, in order.

    Args:
        store: Firmware's variables as the machine starts with them.
        known: Whether the firmware knows secure boot.
    """
    state = bytes([store.secure_boot]) if known else b""
    values = [
        (GLOBAL, "SecureBoot", state),
        *((vendor, name, store.data(vendor, name)) for vendor, name in secure_boot.VARIABLES),
    ]
    if timestamps := store.data(IMAGE_SECURITY, TIMESTAMPS):
        values.append((IMAGE_SECURITY, TIMESTAMPS, timestamps))
    return tuple((name, variable_data(vendor, name, value)) for vendor, name, value in values)


def authority(store: VariableStore, image: bytes) -> bytes:
    """Contents of the event for an image that firmware accepts.

    Args:
        store: Firmware's variables as the machine starts with them.
        image: The image that firmware loads.

    Raises:
        ArtefactError: No entry of ``db`` vouches for the image: firmware does not start it.
    """
    accepted = secure_boot.authority(store, image).digest  # of the entry that a TPM's register 7 is extended with
    contents = (
        variable_data(IMAGE_SECURITY, "db", entry.data) for entry in signatures(store.data(IMAGE_SECURITY, "db"))
    )
    return next(content for content in contents if hashlib.sha256(content).digest() == accepted)
