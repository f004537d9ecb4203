"""``chrysalis attest``: collect evidence, look at it, judge it, anchor it on chain; check policies."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.collecting import collect as collect_evidence
from appliance.cli.judging import read_evidence
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.verify import verify
from appliance.errors import ConfigError
from attestation.contents import contents, lines
from attestation.evidence import bundle_digest, parse_bundle
from attestation.policies.builtin import BUILTIN
from attestation.policies.explain import explain
from attestation.policy_file import load_policy, read_policy

if TYPE_CHECKING:
    from appliance.chain.types import Transaction

app = typer.Typer(help="Evidence: collect, show, verify, anchor; policies.", no_args_is_help=True)
policy_app = typer.Typer(help="What a verifier demands, as files.", no_args_is_help=True)
app.command("verify")(verify)
app.add_typer(policy_app, name="policy")

BundleArgument = Annotated[Path, typer.Argument(help="A bundle's file.", dir_okay=False)]
NetworkOption = Annotated[
    Path, typer.Option("--network", "-n", help="A program's TOML file, or a lab chain's network.json.", dir_okay=False)
]
KeyOption = Annotated[Path, typer.Option("--key", "-k", help="The wallet's key file (mode 0600).", dir_okay=False)]


@app.command()
def collect(
    target: Annotated[
        str | None, typer.Argument(help="host:port or https://host:port; this machine without it.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the bundle.", dir_okay=False)] = Path(
        "evidence.cbor"
    ),
    nonce: Annotated[str | None, typer.Option(help="64 hex digits; fresh ones without it.")] = None,
    platform: Annotated[
        str | None, typer.Option(help="tdx, snp, azure, gcp, tpm or simulated; found without it.")
    ] = None,
    quote_source: Annotated[str | None, typer.Option(help="Another directory or socket of the platform.")] = None,
    gpus: Annotated[bool, typer.Option("--gpus", help="Ask this machine's GPUs, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Get fresh evidence of this machine, or of one that answers at an address."""
    output = Output(as_json=as_json)
    asked = None if nonce is None else _nonce(nonce)
    found = asyncio.run(collect_evidence(target, asked, platform=platform, quote_source=quote_source, gpus=gpus))
    _write(out, found.bundle)
    for line in found.about:
        output.say(line)
    digest = bundle_digest(found.bundle).hex()
    output.say(f"wrote {out}: {len(found.bundle)} bytes, sha256 {digest}")
    output.say(f"judge it: chrysalis attest verify {out} --nonce {found.nonce.hex()}")
    key = found.public_key.hex() if found.public_key else None
    output.result({"ok": True, "file": str(out), "sha256": digest, "nonce": found.nonce.hex(), "public_key": key})


@app.command()
def show(file: BundleArgument, as_json: JsonOption = False) -> None:
    """Show what is in a bundle; nothing is verified."""
    output = Output(as_json=as_json)
    found = contents(read_evidence(file))
    for line in lines(found):
        output.say(line)
    output.result({"ok": True, "verified": False, **found})


@app.command()
def anchor(
    file: BundleArgument,
    key: KeyOption,
    network: NetworkOption,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put the bundle's SHA-256 on chain: from then on nobody can have made it later."""
    from appliance.chain.anchors import anchor_message, anchor_text  # noqa: PLC0415 - only this needs a chain library
    from appliance.chain.boc import encode_boc  # noqa: PLC0415 - as above
    from appliance.chain.owner_wallet import owner_wallet_state  # noqa: PLC0415 - as above
    from appliance.keys import read_key  # noqa: PLC0415 - as above

    output = Output(as_json=as_json)
    data = read_evidence(file)
    parse_bundle(data)
    digest = bundle_digest(data)
    address = owner_wallet_state(read_key(key).public_key().public_bytes_raw()).address()
    message = anchor_message(address, digest)
    told: dict[str, Any] = {
        "ok": True,
        "sha256": digest.hex(),
        "address": address.friendly(),
        "comment": anchor_text(digest),
        "message": encode_boc(message.to_cell()).hex(),
        "nanotons": message.value,
    }
    output.say(f"{address.friendly()} sends itself {message.value} nanoton with: {told['comment']}")
    if dry_run:
        output.say("nothing was sent")
        output.result({**told, "sent": False})
        return
    done = asyncio.run(_send(message, key, network))
    output.say(f"anchored at Unix time {done.utime}, transaction {done.hash.hex()}")
    output.say(f"look it up: chrysalis attest verify {file} --anchor {address.friendly()} --network {network}")
    output.result({**told, "sent": True, "transaction": done.hash.hex(), "lt": done.lt, "anchored_at": done.utime})


@policy_app.command("check")
def policy_check(
    policy: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A TOML or JSON file, or a built-in name.")],
    as_json: JsonOption = False,
) -> None:
    """Check a policy with every file that it names, and explain it."""
    output = Output(as_json=as_json)
    source: str | Path = policy if policy in BUILTIN else Path(policy)
    document = read_policy(source)
    loaded = load_policy(source)
    for line in explain(document):
        output.say(line)
    output.result({"ok": True, "name": loaded.name, "assurance": loaded.assurance, "explained": explain(document)})


@policy_app.command("show")
def policy_show(name: Annotated[str, typer.Argument(help="A built-in policy.")]) -> None:
    """Print a built-in policy as JSON, to start one's own from."""
    if name not in BUILTIN:
        raise ConfigError(f"no built-in policy is called {name!r}", hint=f"there are {', '.join(sorted(BUILTIN))}")
    typer.echo(json.dumps(BUILTIN[name], indent=2, ensure_ascii=False))


async def _send(message: Any, key: Path, network: Path) -> Transaction:
    from appliance.chain.owner_wallet import OwnerWallet  # noqa: PLC0415 - as above
    from appliance.cli.network import open_network  # noqa: PLC0415 - as above
    from appliance.keys import read_key  # noqa: PLC0415 - as above

    async with open_network(network) as (chain, _):
        return await OwnerWallet(chain, read_key(key)).transfer([message])


def _nonce(text: str) -> bytes:
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise ConfigError("--nonce is not 64 hex digits", hint="openssl rand -hex 32 makes one")
    return value


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", hint="name a file that can be written") from None
