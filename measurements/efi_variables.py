"""The settings of secure boot as they are measured: a variable store in, the contents of their events out.

They are measured with their names, also where they are not set (``EV_EFI_VARIABLE_DRIVER_CONFIG``). ``SecureBoot``
exists only where the firmware knows secure boot: there it is one byte, elsewhere it is measured as empty. Nothing is
hashed here.

Sources: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4.8 (which variables, in which order); EDK II
``OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`` (``mVariableType``) and ``SecurityPkg/Library/AuthVariableLib`` (``SecureBoot``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from measurements.variable_store import GLOBAL, IMAGE_SECURITY, variable_data

if TYPE_CHECKING:
    from measurements.variable_store import VariableStore

DATABASES = ((GLOBAL, "PK"), (GLOBAL, "KEK"), (IMAGE_SECURITY, "db"), (IMAGE_SECURITY, "dbx"))
"""Stored settings in the order of measuring; ``SecureBoot`` comes before them."""


def secure_boot_events(store: VariableStore, *, known: bool) -> tuple[tuple[str, bytes], ...]:
    """Name and contents of the event of each setting, in order.

    Args:
        store: Firmware's variables as the machine starts with them.
        known: Whether the firmware knows secure boot.
    """
    state = bytes([store.secure_boot]) if known else b""
    values = [(GLOBAL, "SecureBoot", state), *((vendor, name, store.data(vendor, name)) for vendor, name in DATABASES)]
    return tuple((name, variable_data(vendor, name, value)) for vendor, name, value in values)
