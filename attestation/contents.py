"""What is in a bundle, for a person: every field named and sized. Nothing is verified here, and every form says so.

In: the bytes of a bundle. Out: a tree of plain values (strings, numbers, lists, maps). What cannot be read inside is
told as words in its place, so that a bundle that no policy accepts can still be looked at.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from attestation import dcap
from attestation.errors import EvidenceError
from attestation.evidence import parse_bundle
from attestation.readers import WORDS, form_of
from attestation.report import visible
from attestation.tdx import TD15_FIELDS, attribute_names, parse_quote
from attestation.tdx_log import TdxLog
from attestation.verdict import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from attestation.evidence import Bundle

Plain: TypeAlias = Any
NOTICE: Final = "NOTHING HERE IS VERIFIED: this is what the bytes say of themselves; judge them with: attest verify"
MAX_EVENTS: Final = 64


def contents(data: bytes) -> dict[str, Plain]:
    """The tree.

    Raises:
        EvidenceError: The bytes are no bundle.
    """
    try:
        bundle = parse_bundle(data)
    except EvidenceError as error:
        raise EvidenceError(f"no evidence bundle: {error.message}", hint=error.hint) from None
    return {
        "notice": NOTICE,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "platform": bundle.platform,
        "made_at": moment(bundle.made_at),
        "block": bundle.block_hash.hex() or "none",
        "nonce": bundle.nonce.hex(),
        "answers": f"one of up to {2 ** len(bundle.path)} nonces under root {bundle.root.hex()}",
        "keys": {name: key.hex() for name, key in bundle.keys.items()},
        "statement": bundle.statement.to_dict(),
        "evidence": _told(lambda: _evidence(bundle.quote)),
        "event_log": "none" if bundle.log is None else _told(lambda: _log(bundle.log or b"")),
        "devices": [_told(lambda raw=raw: _device(raw)) for raw in bundle.devices],  # type: ignore[misc]  # a default binds the loop's value
        "stapled": _staple(bundle),
        "signature": bundle.signature.hex(),
    }


def lines(value: Mapping[str, Plain], depth: int = 0) -> Iterator[str]:
    """The tree as indented lines."""
    indent = "  " * depth
    for name, item in value.items():
        label = visible(str(name))
        if isinstance(item, dict):
            yield f"{indent}{label}:" + ("" if item else " none")
            yield from lines(item, depth + 1)
        elif isinstance(item, list):
            yield f"{indent}{label}:" + ("" if item else " none")
            for number, part in enumerate(item):
                if isinstance(part, dict):
                    yield f"{indent}  {number}:"
                    yield from lines(part, depth + 2)
                else:
                    yield f"{indent}  {number}: {visible(str(part))}"
        else:
            yield f"{indent}{label}: {visible(str(item))}"


def _told(read: Callable[[], dict[str, Plain]]) -> dict[str, Plain]:
    try:
        return read()
    except EvidenceError as error:
        return {"unreadable": error.message}


def _evidence(raw: bytes) -> dict[str, Plain]:
    form = form_of(raw)
    found: dict[str, Plain] = {"form": WORDS[form], "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    if form == "tdx":
        found |= _quote(raw)
    elif form == "snp":
        found |= _snp(raw)
    return found


def _quote(raw: bytes) -> dict[str, Plain]:
    quote = parse_quote(raw)
    fields: dict[str, Plain] = {
        name: value.hex() if any(value) else "zeros"
        for name, _ in TD15_FIELDS
        if (value := getattr(quote.report, name))
    }
    fields["td_attributes"] = ", ".join(attribute_names(quote.report.td_attributes)) or "no bit set"
    try:
        fmspc, authority = dcap.platform_of(raw)
    except EvidenceError as error:
        fmspc, authority = "unreadable", error.message
    return {"version": quote.version, "fmspc": fmspc, "authority": authority, "report": fields}


def _snp(raw: bytes) -> dict[str, Plain]:
    from attestation.snp.evidence import SnpEvidence  # noqa: PLC0415 - a bundle of another machine loads none of it
    from attestation.snp.report import parse_report  # noqa: PLC0415 - as above

    report = parse_report(SnpEvidence.parse(raw).report)
    return {
        "version": report.version,
        "measurement": report.measurement.hex(),
        "host_data": report.host_data.hex(),
        "chip_id": report.chip_id.hex() if any(report.chip_id) else "hidden by its host",
        "vmpl": report.vmpl,
        "guest_policy": f"{report.policy.raw:#x}",
    }


def _log(raw: bytes) -> dict[str, Plain]:
    log = TdxLog.parse(raw)
    found: dict[str, Plain] = {"size": len(raw)}
    for number, events in enumerate(log.registers):
        shown = [f"{event.digest.hex()[:32]}… {event.text}" for event in events[:MAX_EVENTS]]
        more = [f"and {len(events) - MAX_EVENTS} more"] if len(events) > MAX_EVENTS else []
        found[f"rtmr{number} ({len(events)} events; texts are not authenticated)"] = [*shown, *more]
    return found


def _device(raw: bytes) -> dict[str, Plain]:
    from attestation.gpu.evidence import DeviceEvidence  # noqa: PLC0415 - as above

    device = DeviceEvidence.parse(raw)
    return {
        "kind": device.kind,
        "architecture": device.architecture,
        "report": f"{len(device.report)} bytes",
        "chain": f"{len(device.chain)} bytes",
    }


def _staple(bundle: Bundle) -> dict[str, Plain]:
    staple = bundle.collateral
    return {
        "tdx": _size(staple.tdx),
        "snp": _size(staple.snp),
        "rims": {name: _size(raw) for name, raw in staple.rims.items()},
        "ocsp": {certificate.hex(): _size(raw) for certificate, raw in staple.ocsp.items()},
    }


def _size(raw: bytes | None) -> str:
    return "none" if raw is None else f"{len(raw)} bytes"
