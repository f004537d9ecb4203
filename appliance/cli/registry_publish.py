"""``chrysalis registry publish`` and ``withdraw``: a signed release onto the root contract's lists, and off them again.

Without the owner's key, or with ``--dry-run``, the messages that the owner has to sign are printed and nothing is
touched. With the key they are sent, in batches that are proven one after the other; a run that was stopped is gone on
with by running the same command again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.chain import publish as planning
from appliance.chain.addresses import Address
from appliance.chain.owner_wallet import OwnerWallet
from appliance.chain.publishing import carry_out, require_owner
from appliance.chain.registry import Registry
from appliance.cli.network import NetworkOption, open_network
from appliance.cli.options import JsonOption
from appliance.cli.output import Output
from appliance.cli.releases import Known, PublishedRelease, known_releases, measured_configurations, read_release
from appliance.errors import ConfigError
from appliance.image.release import read_keys
from appliance.keys import read_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from appliance.chain.layouts import RootState
    from appliance.chain.publish import Change, Listing

ManifestArgument = Annotated[
    Path, typer.Argument(help="The release's manifest.json, signed beside it, or its directory.")
]
SignedByOption = Annotated[
    list[str], typer.Option("--signed-by", help="A release key that has to have signed it: base64, hex or a .pub file.")
]
ThresholdOption = Annotated[int, typer.Option(help="How many of the release keys have to have signed it.", min=1)]
MeasuredOption = Annotated[
    list[Path] | None,
    typer.Option("--measured", help="A measured configuration that its machines run: measured.toml, or a program's."),
]
UnboundOption = Annotated[
    bool, typer.Option("--unbound", help="List machines launched without a configuration, too (no MRCONFIGID).")
]
GatewayOption = Annotated[bool, typer.Option("--gateway", help="Gateways' images, not workers'.")]
KeyOption = Annotated[
    Path | None, typer.Option("--key", "-k", help="The root owner's key file; without it the messages are printed.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the messages an owner would sign; send nothing.")]
RootOption = Annotated[str | None, typer.Option("--root", help="Root contract, if not the file's own.")]


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for, besides the release.

    Attributes:
        network: A file that names the chain.
        root: Another root contract than the file's.
        key: The owner's key file.
        dry_run: Only print.
    """

    network: Path
    root: str | None
    key: Path | None
    dry_run: bool


def publish(
    manifest: ManifestArgument,
    network: NetworkOption,
    signed_by: SignedByOption,
    threshold: ThresholdOption = 1,
    measured: MeasuredOption = None,
    unbound: UnboundOption = False,
    gateway: GatewayOption = False,
    old: Annotated[
        Path | None, typer.Option("--retire", help="The release that goes: what only it has is removed.")
    ] = None,
    old_measured: Annotated[
        list[Path] | None, typer.Option("--retire-measured", help="Its configurations, if not those of --measured.")
    ] = None,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Retire in the go that lists the new one; locks old machines out.")
    ] = False,
    previous: Annotated[
        list[Path] | None, typer.Option("--previous", help="A manifest that was published before.")
    ] = None,
    memory: Annotated[Path | None, typer.Option(help="Where the highest releases are remembered.")] = None,
    key: KeyOption = None,
    root: RootOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """List a signed release beside the present ones; with --retire, take an old one away."""
    output = Output(as_json=as_json)
    keys = read_keys(signed_by)
    configurations = measured_configurations(measured or [], unbound=unbound)
    new = read_release(manifest, keys, threshold, configurations, gateways=gateway)
    new.require_publishable(time.time())
    retired = None
    if old is not None:
        theirs = measured_configurations(old_measured, unbound=unbound) if old_measured else configurations
        retired = read_release(old, keys, threshold, theirs, gateways=gateway)
        new.manifest.require_newer_than(retired.manifest)
    elif old_measured or at_once:
        raise ConfigError("--retire-measured and --at-once belong to --retire", hint="name the old release's manifest")

    def plan(state: RootState) -> tuple[Change, ...]:
        if retired is None:
            return planning.publish(state, new.listing)
        return planning.retire(state, new.listing, retired.listing, at_once=at_once)

    listings = [new.listing] if retired is None else [new.listing, retired.listing]
    order = Order(network, root, key, dry_run)
    asyncio.run(_run(new, listings, plan, order, Known(memory, tuple(previous or ())), output))


def withdraw(
    manifest: ManifestArgument,
    network: NetworkOption,
    signed_by: SignedByOption,
    threshold: ThresholdOption = 1,
    measured: MeasuredOption = None,
    unbound: UnboundOption = False,
    gateway: GatewayOption = False,
    last: Annotated[
        bool, typer.Option("--last", help="Even if nothing else is listed: nobody is admitted any more.")
    ] = False,
    key: KeyOption = None,
    root: RootOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a release's images away at once: it has a hole. Its models stay listed."""
    configurations = measured_configurations(measured or [], unbound=unbound)
    release = read_release(manifest, read_keys(signed_by), threshold, configurations, gateways=gateway)
    going = planning.Listing(release.listing.images, gateways=gateway)

    def plan(state: RootState) -> tuple[Change, ...]:
        return planning.withdraw(state, going, last=last)

    asyncio.run(_run(release, [going], plan, Order(network, root, key, dry_run), None, Output(as_json=as_json)))


async def _run(
    release: PublishedRelease,
    listings: Sequence[Listing],
    plan: Callable[[RootState], Sequence[Change]],
    order: Order,
    known: Known | None,
    output: Output,
) -> None:
    async with open_network(order.network) as (chain, network):
        registry = Registry(chain, Address.parse(order.root or network.root_contract))
        state = await registry.refresh()
        changes = plan(state)
        memory = None if known is None else known_releases(known, registry.root_address, release.manifest)
        told = _tell(release, listings, registry, changes, output)
        if order.key is None or order.dry_run:
            _print(registry, changes, output)
            output.result({**told, "sent": False})
            return
        wallet = OwnerWallet(chain, read_key(order.key))
        require_owner(state, wallet)
        if memory is not None:
            memory.remember([release.manifest])
        state = await carry_out(
            registry, wallet, plan, lambda done, total: output.progress(f"{done} of {total} changes proven")
        )
    output.say(f"the root contract shows all of it: version {state.version}, block {registry.head.block.seqno}")
    output.result({**told, "sent": True, "version": state.version})


def _tell(
    release: PublishedRelease,
    listings: Sequence[Listing],
    registry: Registry,
    changes: Sequence[Change],
    output: Output,
) -> dict[str, Any]:
    """What the release is, and what of it is on chain already."""
    state, role = registry.state, listings[0].list
    ours = frozenset[bytes]().union(*(listing.images for listing in listings))
    foreign = sorted(entry.hex() for entry in getattr(state, role) - ours)
    output.say(f"{release.name}: {len(release.images.hashes)} image hashes, root version {state.version}")
    coming = {change.entry for change in changes if change.added}
    going = {change.entry for change in changes if not change.added}
    rows = []
    for entry, places in sorted(release.images.hashes.items()):
        status = "to be added" if entry in coming else "to be removed" if entry in going else ""
        rows.append((entry.hex(), status or ("listed" if entry in getattr(state, role) else "not listed"), places[0]))
        rows += [("", "", place) for place in places[1:]]
    output.table("images", ("hash", "state", "for"), rows)
    for place, reason in release.images.left_out.items():
        output.say(f"not listable: {place}: {reason}")
    if foreign:
        output.say(f"{len(foreign)} other images are listed, and stay: {', '.join(foreign)}")
    return {
        "ok": True,
        "root": registry.root_address.raw(),
        "version": state.version,
        "release": release.manifest.release,
        "profile": release.manifest.profile,
        "images": {entry.hex(): list(places) for entry, places in sorted(release.images.hashes.items())},
        "not_listable": dict(release.images.left_out),
        "others": foreign,
        "orders": [
            {
                "summary": order.summary,
                "to": order.root.raw(),
                "nanotons": order.value,
                "body": order.body_base64(),
            }
            for order in (change.order(registry.root_address) for change in changes)
        ],
    }


def _print(registry: Registry, changes: Sequence[Change], output: Output) -> None:
    if not changes:
        output.say("nothing to send: the root contract shows all of it")
    for number, change in enumerate(changes, start=1):
        text = change.order(registry.root_address).explain(registry.state.owner)
        output.say(f"{number}. {text}")
