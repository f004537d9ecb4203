"""Where the samples are, and how they become quotes, logs and collateral of their date."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tdx_support import NOW, firmware_log

from attestation.rules import Subject
from attestation.tdx import TD10_FIELDS, TdReport, without_padding
from attestation.tdx_log import RuntimeEvent, TdxLog
from attestation.tdx_log_files import LogFiles, gather

if TYPE_CHECKING:
    from pathlib import Path

SampleTable: TypeAlias = Callable[[str, str, str, str], None]
QVL = "Phala-Network__dcap-qvl/sample/"
GUEST = "google__go-tdx-guest/testing/testdata/"
LOGS = "google__go-eventlog/testdata/eventlogs/ccel/"
DSTACK = "Dstack-TEE__dstack/dstack/"
AUTOMATA = "automata-network__dcap-rs/data/"


def source(path: str) -> str:
    return path.split("/", maxsplit=1)[0].replace("__", "/", 1)


def quote_of(samples: Path, path: str) -> bytes:
    """A sample's quote: bytes, hex, or in dstack's JSON."""
    data = (samples / path).read_bytes()
    if path.endswith(".hex"):
        return bytes.fromhex(data.decode().strip().removeprefix("0x"))
    if path.endswith("attestation.json"):
        wrapped = bytes.fromhex(json.loads(data)["attestation"])
        start = wrapped.index(b"\x04\x00\x02\x00\x81")
        return wrapped[start : start + 5006]
    return bytes.fromhex(json.loads(data)["quote"]) if path.endswith(".json") else data


def collateral_of(samples: Path, name: str, quote: bytes) -> bytes:
    if name == "automata":
        return automata_collateral(samples / AUTOMATA, quote)
    if name == "guest":
        return guest_collateral(samples, quote)
    return (samples / name).read_bytes()


def guest_collateral(samples: Path, quote: bytes) -> bytes:
    """Collateral of June 2023; the certificate that signs TCB info is the same as in automata's files."""
    folder = samples / GUEST
    return pcs_collateral(
        without_padding(quote)[:4935],
        tcb_info=folder / "sample_tcbInfo_response",
        identity=folder / "sample_qeIdentity_response",
        root_crl=folder / "rootcrl.der",
        pck_crl=folder / "pckcrl",
        signer=samples / AUTOMATA / "tcb_signing_cert.pem",
    )


def date_of(collateral: bytes) -> float:
    """An hour after the youngest part was issued."""
    loaded = json.loads(collateral)
    issued = [json.loads(loaded[name])["issueDate"] for name in ("tcb_info", "qe_identity")]
    lists = [x509.load_der_x509_crl(bytes.fromhex(loaded[name])) for name in ("root_ca_crl", "pck_crl")]
    moments = [datetime.fromisoformat(stamp).timestamp() for stamp in issued]
    return max(*moments, *(item.last_update_utc.timestamp() for item in lists)) + 3600


def dstack_digest(event: dict[str, Any]) -> bytes:
    """Digest of one of dstack's RTMR3 events (attestation specification, section 2)."""
    name, payload = event["event"].encode(), bytes.fromhex(event["event_payload"])
    return hashlib.sha384(event["event_type"].to_bytes(4, "little") + b":" + name + b":" + payload).digest()


def dstack_log(events: list[dict[str, Any]]) -> TdxLog:
    """A dstack log as ours: their digests of RTMR0 to 2, and RTMR3 in their form of digest."""
    firmware = [(item["imr"], bytes.fromhex(item["digest"])) for item in events if item["imr"] < 3]
    runtime = [RuntimeEvent(dstack_digest(item), item["event"]) for item in events if item["imr"] == 3]
    return TdxLog(firmware_log(*firmware), tuple(runtime))


def automata_collateral(folder: Path, quote: bytes) -> bytes:
    """Automata's collateral of February 2025."""
    return pcs_collateral(
        quote,
        tcb_info=folder / "tcbinfov3_00806f050000.json",
        identity=folder / "qeidentityv2_apiv4.json",
        root_crl=folder / "intel_root_ca_crl.der",
        pck_crl=folder / "pck_platform_crl.der",
        signer=folder / "tcb_signing_cert.pem",
    )


def pcs_collateral(
    quote: bytes, *, tcb_info: Path, identity: Path, root_crl: Path, pck_crl: Path, signer: Path
) -> bytes:
    """Collateral from files as the vendor's service answers them; the authority's certificate is in the quote."""
    chain = x509.load_pem_x509_certificates(dcap_qvl.parse_quote(quote).cert_chain_pem_bytes().rstrip(b"\0"))
    issuers = b"".join(item.public_bytes(Encoding.PEM) for item in chain[1:]).decode()
    tcb_text, tcb_signature = _signed(tcb_info, "tcbInfo")
    identity_text, identity_signature = _signed(identity, "enclaveIdentity")
    return json.dumps(
        {
            "pck_crl_issuer_chain": issuers,
            "root_ca_crl": root_crl.read_bytes().hex(),
            "pck_crl": pck_crl.read_bytes().hex(),
            "tcb_info_issuer_chain": signer.read_text(),
            "tcb_info": tcb_text,
            "tcb_info_signature": tcb_signature,
            "qe_identity_issuer_chain": signer.read_text(),
            "qe_identity": identity_text,
            "qe_identity_signature": identity_signature,
        }
    ).encode()


def _signed(path: Path, name: str) -> tuple[str, str]:
    """The signed object, byte for byte, and its signature."""
    text = path.read_text()
    start = text.index("{", text.index(f'"{name}"'))
    _, length = json.JSONDecoder().raw_decode(text[start:])
    return text[start : start + length], json.loads(text)["signature"]


def judged(log: TdxLog, report: TdReport) -> Subject:
    return Subject(report, None, bytes(32), bytes(64), NOW, log=log)


def own_registers(log: TdxLog) -> Subject:
    """A log without a quote, beside the registers that it leads to."""
    fields = {name: bytes(size) for name, size in TD10_FIELDS}
    return judged(log, TdReport(**fields | {f"rtmr{i}": value for i, value in enumerate(log.replay())}))


def read_ccel(path: Path, tmp_path: Path, table: Path) -> TdxLog:
    """Read as in a guest: table and filled-up area."""
    files = LogFiles(table=table, area=path, copy=tmp_path / "copy", own=tmp_path / "own")
    log = gather(files)
    assert log is not None
    return log
