"""``python -m attestation.ratls``: the router as a program, with the reference's options where they mean the same."""

from __future__ import annotations

import argparse
import asyncio
import signal
from contextlib import suppress
from pathlib import Path

from attestation import policy
from attestation.collateral import open_collateral
from attestation.errors import AttestationError
from attestation.platforms import open_platform
from attestation.ratls import pow as proof
from attestation.ratls.identity import Identity
from attestation.ratls.router import Router
from attestation.verifier import Verifier


def parse_socks(text: str) -> tuple[int, str]:
    """Read ``port@policy``.

    Raises:
        AttestationError: Another form.
    """
    port, at, name = text.partition("@")
    if not at or not port.isdecimal():
        raise AttestationError(f"SOCKS5 port {text!r}, expected port@policy")
    return int(port), name


def parse_reverse(text: str) -> tuple[int, tuple[str, int], str]:
    """Read ``port:host:port@policy``.

    Raises:
        AttestationError: Another form.
    """
    ports, at, name = text.partition("@")
    parts = ports.split(":")
    if not at or len(parts) != 3 or not (parts[0].isdecimal() and parts[2].isdecimal()):
        raise AttestationError(f"reverse port {text!r}, expected port:host:port@policy")
    return int(parts[0]), (parts[1], int(parts[2])), name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m attestation.ratls", description="Attested TLS for plain programs.")
    parser.add_argument("-S", "--socks5", action="append", default=[], metavar="PORT@POLICY")
    parser.add_argument("-R", "--reverse", action="append", default=[], metavar="PORT:HOST:PORT@POLICY")
    parser.add_argument("--platform", default="any", help="tdx, simulated, fake_tdx, or any for no evidence")
    parser.add_argument("--quote-source", help="socket of the quoting service")
    parser.add_argument("--collateral", help="URL, file or directory")
    parser.add_argument("--simulated-root", action="append", type=Path, default=[], help="DER file")
    parser.add_argument("-d", "--difficulty", type=int, default=proof.DEFAULT_DIFFICULTY)
    parser.add_argument("-m", "--max-difficulty", type=int, default=proof.MAX_DIFFICULTY)
    parser.add_argument("--listen", default="127.0.0.1", help="address of reverse ports")
    return parser.parse_args()


async def run(options: argparse.Namespace) -> None:
    """Open all ports and serve until cancelled."""
    socks = [parse_socks(text) for text in options.socks5]
    reverse = [parse_reverse(text) for text in options.reverse]
    roots = tuple([await asyncio.to_thread(path.read_bytes) for path in options.simulated_root])
    sources = open_collateral(options.collateral)
    names = {name for _, name in socks} | {name for _, _, name in reverse}
    verifiers = {
        name: Verifier(policy.for_name(name, simulated_roots=roots if name == "simulated" else ()), sources)
        for name in names
    }
    identity = await Identity.create(open_platform(options.platform, options.quote_source))
    with proof.open_pool() as pool:
        router = Router(
            identity,
            verifiers,
            pow_difficulty=options.difficulty,
            pow_max_difficulty=options.max_difficulty,
            pool=pool,
        )
        try:
            for port, name in socks:
                await router.socks5(name, port=port)
            for port, target, name in reverse:
                await router.reverse(name, target, host=options.listen, port=port)
            await identity.keep_fresh()
        finally:
            await router.close()


async def until_signal(options: argparse.Namespace) -> None:
    """:func:`run` until SIGTERM or SIGINT: ports are closed and the pool of processes ends with this one."""
    running = asyncio.create_task(run(options))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with suppress(asyncio.CancelledError):
        await running


if __name__ == "__main__":
    try:
        asyncio.run(until_signal(_arguments()))
    except AttestationError as error:
        raise SystemExit(f"error: {error}") from None
