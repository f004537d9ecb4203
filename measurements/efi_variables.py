"""The settings of secure boot as they are measured: variables in, the contents of their events out. Nothing is hashed.

They are measured with their names, also where they are not set (``EV_EFI_VARIABLE_DRIVER_CONFIG``). ``SecureBoot``
exists only where the firmware knows secure boot: there it is one byte, elsewhere it is measured as empty. Where it is
enforced, the entry of ``db`` that an image was accepted by is measured when that image is loaded.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (which variables, in which order); EDK II
``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`` (MeasureAllSecureVariables), ``SecurityPkg/Library/AuthVariableLib``
(``SecureBoot``), ``SecurityPkg/Library/DxeImageVerificationLib`` (the entry).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.errors import ArtefactError
from measurements.secure_boot import VARIABLES, _embedded, _vouches
from measurements.variable_store import GLOBAL, IMAGE_SECURITY, X509, signatures, variable_data

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
    values = [(GLOBAL, "SecureBoot", state), *((vendor, name, store.data(vendor, name)) for vendor, name in VARIABLES)]
    if timestamps := store.data(IMAGE_SECURITY, TIMESTAMPS):
        values.append((IMAGE_SECURITY, TIMESTAMPS, timestamps))
    return tuple((name, variable_data(vendor, name, value)) for vendor, name, value in values)


def authority(store: VariableStore, image: bytes) -> bytes:
    """Contents of the event for a signed image.

    Args:
        store: Firmware's variables as the machine starts with them.
        image: The image that firmware loads.

    Raises:
        ArtefactError: The image is not signed, or by nobody whom ``db`` vouches for: firmware does not start it.
    """
    chain = _embedded(image)
    for entry in signatures(store.data(IMAGE_SECURITY, "db")):
        if entry.kind == X509 and _vouches(entry, chain):
            return variable_data(IMAGE_SECURITY, "db", entry.data)
    raise ArtefactError("image that no certificate in db vouches for", hint="firmware with these variables refuses it")
