"""``chrysalis collateral``: fetch what evidence is judged by, look at what is kept, bundle it for no network."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography.x509 import ocsp

from appliance.cli.collateral_wanted import Selection, fetch_selection
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.config.home import home
from appliance.errors import ConfigError
from attestation.collateral.disk import DiskCache
from attestation.collateral.offline import OfflineBundle, OfflineCollateral
from attestation.collateral.settings import CollateralSettings
from attestation.collateral.vendors import AMD_KDS, INTEL_PCS, NVIDIA_OCSP, NVIDIA_RIM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from appliance.cli.collateral_wanted import Outcome
    from attestation.collateral.entry import Entry
    from attestation.collateral.keeper import Wanted

NOBODY = "none"
_COLUMNS = ("kind", "identity", "issued", "expires", "age", "source", "state")
_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
_EVENTS = {"asked": "asking {host} for {what}", "stale": "{what}: the service failed, an older one is used"}

Evidence = Annotated[
    list[Path] | None, typer.Argument(help="Bundles, certificates, quotes or reports to fetch collateral for.")
]
Fmspc = Annotated[list[str] | None, typer.Option("--fmspc", help="A TDX platform's FMSPC, 12 hex digits.")]
Authority = Annotated[str, typer.Option("--ca", help="Who certified its keys: platform or processor.")]
Report = Annotated[list[Path] | None, typer.Option("--snp-report", help="An SEV-SNP report, 1184 bytes or hex.")]
Product = Annotated[
    str | None, typer.Option("--product", help="Milan, Genoa or Turin, where a report does not say which.")
]
Rim = Annotated[list[str] | None, typer.Option("--rim", help="A GPU's reference manifest by name.")]
Pcs = Annotated[str, typer.Option("--pcs", help="Intel's service or a cache of it; none asks nobody.")]
Kds = Annotated[str, typer.Option("--kds", help="AMD's service or a cache of it; none asks nobody.")]
RimService = Annotated[str, typer.Option("--rim-service", help="NVIDIA's manifests, or a cache; none asks nobody.")]
Ocsp = Annotated[str, typer.Option("--ocsp", help="NVIDIA's revocation status, or a cache; none asks nobody.")]
RootCrl = Annotated[str | None, typer.Option("--root-crl", help="The revocation list of Intel's root.")]
ProxyOption = Annotated[
    str, typer.Option("--proxy", help="environment (HTTPS_PROXY, NO_PROXY), off, or http://host:port.")
]
Cache = Annotated[Path | None, typer.Option("--cache", help="Where it is kept; $CHRYSALIS_HOME/collateral otherwise.")]
Again = Annotated[bool, typer.Option("--again", help="Ask the services although what is kept still holds.")]

app = typer.Typer(help="What evidence is judged by: fetch, show, export.", no_args_is_help=True)


@app.command()
def fetch(
    evidence: Evidence = None,
    fmspc: Fmspc = None,
    ca: Authority = "platform",
    snp_report: Report = None,
    product: Product = None,
    rim: Rim = None,
    pcs: Pcs = INTEL_PCS,
    kds: Kds = AMD_KDS,
    rim_service: RimService = NVIDIA_RIM,
    ocsp: Ocsp = NVIDIA_OCSP,
    root_crl: RootCrl = None,
    proxy: ProxyOption = "environment",
    cache: Cache = None,
    again: Again = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch collateral into the cache; exit 0 only when all of it was found."""
    output = Output(as_json=as_json)
    selection = Selection.read(evidence or (), fmspc or (), ca, snp_report or (), product, rim or ())
    if not selection:
        raise ConfigError("nothing to fetch is named", hint="name evidence, or --fmspc, --snp-report or --rim")
    settings = _settings(pcs, kds, rim_service, ocsp, root_crl, proxy)
    outcome = _fetch(selection, settings, DiskCache(_directory(cache)), output, again=again)
    _tell(output, outcome.entries, "found")
    output.result({"ok": not outcome.missing, **_described(outcome.entries), "missing": _missing(output, outcome)})
    raise typer.Exit(1 if outcome.missing else 0)


@app.command()
def show(
    bundle: Annotated[Path | None, typer.Option("--bundle", help="An exported bundle instead of the cache.")] = None,
    cache: Cache = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is kept: of what, from whom, and until when it holds."""
    output = Output(as_json=as_json)
    if bundle is not None:
        entries: Sequence[Entry] = OfflineCollateral(bundle).bundle.entries
    else:
        entries = _sorted(DiskCache(_directory(cache)).entries())
    _tell(output, entries, str(bundle or _directory(cache)))
    output.result({"ok": True, **_described(entries)})


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    evidence: Evidence = None,
    fmspc: Fmspc = None,
    ca: Authority = "platform",
    snp_report: Report = None,
    product: Product = None,
    rim: Rim = None,
    pcs: Pcs = INTEL_PCS,
    kds: Kds = AMD_KDS,
    rim_service: RimService = NVIDIA_RIM,
    ocsp: Ocsp = NVIDIA_OCSP,
    root_crl: RootCrl = None,
    proxy: ProxyOption = "environment",
    cache: Cache = None,
    again: Again = False,
    as_json: JsonOption = False,
) -> None:
    """Write one file for verifiers without a network: what is named, or all that is kept and still holds."""
    output = Output(as_json=as_json)
    disk = DiskCache(_directory(cache))
    selection = Selection.read(evidence or (), fmspc or (), ca, snp_report or (), product, rim or ())
    if selection:
        settings = _settings(pcs, kds, rim_service, ocsp, root_crl, proxy)
        outcome = _fetch(selection, settings, disk, output, again=again)
        entries, missing = list(outcome.entries), _missing(output, outcome)
    else:
        now = time.time()
        entries, missing = _sorted(entry for entry in disk.entries() if entry.expires > now), []
    if not entries:
        raise ConfigError("there is nothing to export", hint="fetch it first, or name what to fetch")
    made = OfflineBundle.of(entries)
    _write(file, made.encode())
    _tell(output, made.entries, str(file))
    output.say(f"{file}: {len(made.entries)} pieces, complete until {_moment(made.expires)}")
    output.result({
        "ok": not missing,
        "file": str(file),
        "expires": _moment(made.expires),
        **_described(made.entries),
        "missing": missing,
    })  # fmt: skip
    raise typer.Exit(1 if missing else 0)


def _settings(pcs: str, kds: str, rim_service: str, ocsp: str, root_crl: str | None, proxy: str) -> CollateralSettings:
    return CollateralSettings(
        tdx=_service(pcs),
        kds=_service(kds),
        rim=_service(rim_service),
        ocsp=_service(ocsp),
        root_crl=root_crl,
        proxy=proxy,
    )


def _service(text: str) -> str | None:
    return None if text == NOBODY else text


def _fetch(
    selection: Selection, settings: CollateralSettings, disk: DiskCache, output: Output, *, again: bool
) -> Outcome:
    def observe(wanted: Wanted, event: str) -> None:
        if event in _EVENTS:
            what = f"{wanted.kind} {wanted.identity:.60}"
            output.progress(_EVENTS[event].format(host=wanted.source or "nobody", what=what))

    return asyncio.run(fetch_selection(selection, settings, disk, observe, again=again))


def _missing(output: Output, outcome: Outcome) -> list[dict[str, str]]:
    for item in outcome.missing:
        output.progress(f"missing: {item.what}: {item.reason}" + (f" ({item.hint})" if item.hint else ""))
    return [{"what": item.what, "reason": item.reason, "hint": item.hint} for item in outcome.missing]


def _tell(output: Output, entries: Sequence[Entry], title: str) -> None:
    if not entries:
        output.say(f"{title}: nothing is there")
        return
    output.table(title, _COLUMNS, (tuple(_row(entry).values()) for entry in entries))


def _described(entries: Sequence[Entry]) -> dict[str, Any]:
    return {"pieces": [{**_row(entry), "bytes": len(entry.content)} for entry in entries]}


def _row(entry: Entry) -> dict[str, str]:
    now = time.time()
    state = "ended" if entry.expires <= now else "not yet" if entry.issued > now else "holds"
    if entry.kind == "ocsp" and (said := _status(entry.content)) != "good":
        state = f"{state}: {said}"
    cells = (
        entry.kind,
        entry.identity,
        _moment(entry.issued),
        _moment(entry.expires),
        _age(now - entry.fetched),
        entry.source or "?",
        state,
    )
    return dict(zip(_COLUMNS, cells, strict=True))


def _status(response: bytes) -> str:
    """What a response says of its certificate; who signed it, a verifier looks at."""
    try:
        return ocsp.load_der_ocsp_response(response).certificate_status.name.lower()
    except ValueError:
        return "unreadable"


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.kind, entry.identity))


def _moment(unix: float) -> str:
    try:
        return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return "beyond the calendar"


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


def _directory(cache: Path | None) -> Path:
    return cache or home() / "collateral"


def _write(path: Path, content: bytes) -> None:
    """The whole file or none of it."""
    unfinished = path.with_name(f".{path.name}.new")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a file in a directory you can write") from None
    finally:
        unfinished.unlink(missing_ok=True)
