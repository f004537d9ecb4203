"""What the vendor of a synthetic world states: TCB info and identity of the quoting enclave, as in Intel's API 4."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.lab.tee_faults import Faults

COMPONENT_SVNS = (3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0)
PCE_SVN = 11
QE_ISV_SVN = 6
MODULE_SVN = 3
_LEVEL_AGE = dt.timedelta(days=390)


def tcb_info(faults: Faults, fmspc: bytes, issued: dt.datetime, following: dt.datetime, now: float) -> str:
    """TCB info for a platform: the machine's level and, if a fault says so, a newer one above it."""
    components = [{"svn": svn} for svn in COMPONENT_SVNS]
    tdx = [{"svn": svn} for svn in (5, 0, 2) + (0,) * 13]
    level_date = utc(now) - _LEVEL_AGE
    levels = []
    if faults.newer_level_age_s is not None:
        newer = [{"svn": COMPONENT_SVNS[0] + 1}, *components[1:]]
        date = utc(now - faults.newer_level_age_s)
        levels.append(_level({"sgxtcbcomponents": newer, "pcesvn": PCE_SVN, "tdxtcbcomponents": tdx}, date))
    own = {"sgxtcbcomponents": components, "pcesvn": PCE_SVN, "tdxtcbcomponents": tdx}
    levels.append(_level(own, level_date, faults.tcb_status, faults.advisories))
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    module_levels = [_level({"isvsvn": MODULE_SVN}, level_date, faults.module_status)]
    return json.dumps(
        {
            "id": "TDX",
            "version": 3,
            "issueDate": _stamp(issued),
            "nextUpdate": _stamp(following),
            "fmspc": fmspc.hex().upper(),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": 17,
            "tdxModule": module,
            "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": module_levels}],
            "tcbLevels": levels,
        }
    )


def qe_identity(faults: Faults, signer: bytes, issued: dt.datetime, following: dt.datetime, now: float) -> str:
    """The quoting enclave's identity; ``signer`` is its MRSIGNER, 32 bytes."""
    return json.dumps(
        {
            "id": "TD_QE",
            "version": 2,
            "issueDate": _stamp(issued),
            "nextUpdate": _stamp(following),
            "tcbEvaluationDataNumber": 17,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": signer.hex().upper(),
            "isvprodid": 2,
            "tcbLevels": [_level({"isvsvn": 4}, utc(now) - _LEVEL_AGE, faults.qe_status)],
        }
    )


def utc(unix: float) -> dt.datetime:
    """Unix time as a moment."""
    return dt.datetime.fromtimestamp(unix, dt.UTC)


def _level(
    tcb: dict[str, object], date: dt.datetime, status: str = "UpToDate", advisories: tuple[str, ...] = ()
) -> dict[str, object]:
    level: dict[str, object] = {"tcb": tcb, "tcbDate": _stamp(date), "tcbStatus": status}
    if advisories:
        level["advisoryIDs"] = list(advisories)
    return level


def _stamp(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
