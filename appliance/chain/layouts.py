"""Storage of the contracts: root, proxy, worker, client and node wallet.

In: data cells of accounts. Out: frozen values, and back, byte for byte. Layouts: protocol specification, 6.1 (root),
6.3 (wallet), 6.4 (the rest); the root's data is in the order of the FunC contract, which is what the runners read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

from appliance.chain.cells import Reader, Writer, empty_cell
from appliance.chain.errors import LayoutError
from appliance.chain.structs import (
    Account,
    Bits256,
    Coins,
    NestedCodec,
    Reference,
    Struct,
    Uint2,
    Uint32,
    Uint64,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytoniq_core.boc.cell import Cell

    from appliance.chain.addresses import Address

NEWEST_STRUCT_VERSION = 3
DEFAULT_MULTIPLIER = 10_000
"""A price multiplier of 1, in ten-thousandths (6.1)."""
DEFAULT_STAKE = 1_000_000_000
"""Smallest stake where the parameters name none: 1 TON in nanotons (6.1)."""


class ContractStatus(IntEnum):
    """``state`` of the proxy, worker and client contracts (6.7)."""

    OPEN = 0
    CLOSING = 1
    CLOSED = 2


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of a network (6.1). Amounts in nanotons a token, multipliers in ten-thousandths, delays in seconds.

    Fields that an older ``struct_version`` does not carry have the values the protocol gives them. The codes are None
    where the cell leaves them out (6.4).
    """

    params_version: int
    unique_id: int
    is_test: bool
    price_per_token: int
    worker_fee_per_token: int
    proxy_delay_before_close: int
    client_delay_before_close: int
    struct_version: int = NEWEST_STRUCT_VERSION
    prompt_tokens_price_multiplier: int = DEFAULT_MULTIPLIER
    cached_tokens_price_multiplier: int = DEFAULT_MULTIPLIER
    completion_tokens_price_multiplier: int = DEFAULT_MULTIPLIER
    reasoning_tokens_price_multiplier: int = DEFAULT_MULTIPLIER
    min_proxy_stake: int = DEFAULT_STAKE
    min_client_stake: int = DEFAULT_STAKE
    proxy_code: Cell | None = field(default=None, repr=False)
    worker_code: Cell | None = field(default=None, repr=False)
    client_code: Cell | None = field(default=None, repr=False)

    def for_proxy(self) -> Params:
        """The parameters as a proxy contract carries them: worker and client code, no proxy code (P6 of 6.4)."""
        return replace(self, proxy_code=None)

    def for_peer(self) -> Params:
        """The parameters as worker and client contracts carry them: no code (P0 of 6.4)."""
        return replace(self, proxy_code=None, worker_code=None, client_code=None)

    def to_cell(self) -> Cell:
        """The cell; raises ``LayoutError`` for an unknown version or a value the version has no field for."""
        version = _known_version(self.struct_version)
        writer = Writer("Params").uint(version, 8).uint(self.params_version, 32).uint(self.unique_id, 32)
        writer.flag(self.is_test).coins(self.price_per_token).coins(self.worker_fee_per_token)
        for since, name, default in _MULTIPLIERS:
            self._write_since(writer, since, name, default)
        writer.uint(self.proxy_delay_before_close, 32).uint(self.client_delay_before_close, 32)
        for name in ("min_proxy_stake", "min_client_stake"):
            self._write_since(writer, 1, name, DEFAULT_STAKE)
        return writer.maybe_ref(self.proxy_code).maybe_ref(self.worker_code).maybe_ref(self.client_code).end()

    def _write_since(self, writer: Writer, since: int, name: str, default: int) -> None:
        value: int = getattr(self, name)
        if self.struct_version < since:
            if value != default:
                raise LayoutError(f"Params: version {self.struct_version} has no {name}, expected {default}: {value}")
        elif name.startswith("min_"):
            writer.coins(value)
        else:
            writer.uint(value, 32)

    @classmethod
    def from_cell(cls, cell: Cell) -> Params:
        """Read a cell of any version from 0 to 3; raises ``LayoutError``."""
        reader = Reader(cell, "Params")
        version = _known_version(reader.uint(8))
        values: dict[str, Any] = {"struct_version": version}
        values |= {"params_version": reader.uint(32), "unique_id": reader.uint(32), "is_test": reader.flag()}
        values |= {"price_per_token": reader.coins(), "worker_fee_per_token": reader.coins()}
        for since, name, default in _MULTIPLIERS:
            values[name] = reader.uint(32) if version >= since else default
        values |= {"proxy_delay_before_close": reader.uint(32), "client_delay_before_close": reader.uint(32)}
        if version >= 1:
            values |= {"min_proxy_stake": reader.coins(), "min_client_stake": reader.coins()}
        values |= {name: reader.maybe_ref() for name in ("proxy_code", "worker_code", "client_code")}
        reader.end()
        return cls(**values)


_MULTIPLIERS = (
    (3, "prompt_tokens_price_multiplier", DEFAULT_MULTIPLIER),
    (2, "cached_tokens_price_multiplier", DEFAULT_MULTIPLIER),
    (3, "completion_tokens_price_multiplier", DEFAULT_MULTIPLIER),
    (2, "reasoning_tokens_price_multiplier", DEFAULT_MULTIPLIER),
)
"""First version, field and value before it, in wire order."""


def _known_version(version: int) -> int:
    if version > NEWEST_STRUCT_VERSION:
        raise LayoutError(
            f"Params: struct_version {version}, expected at most {NEWEST_STRUCT_VERSION}",
            hint="the network's contracts are newer than this program: update it",
        )
    return version


@dataclass(frozen=True, slots=True)
class RegisteredProxy:
    """A registered proxy: ``text`` as stored (at most 127 bytes) and the ``host:port`` for each kind of peer."""

    seqno: int
    text: str
    worker_address: str
    client_address: str

    @classmethod
    def of(cls, seqno: int, text: str) -> RegisteredProxy:
        """Split ``ip:port`` or ``ip:port ip:port``; raises ``LayoutError`` when it is neither."""
        parts = [_stripped(part) for part in text.split(" ")]
        if len(parts) not in {1, 2}:
            raise LayoutError(f"proxy {seqno} is registered with {len(parts)} addresses, expected one or two")
        return cls(seqno, text, parts[0], parts[-1])


def _stripped(address: str) -> str:
    """``ip:port`` with a bracketed address stripped and the port checked (6.1)."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise LayoutError(f"a proxy is registered with an address that is not ip:port: {address!r}")
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class RootState:
    """What a root contract stores. Hash sets hold 32-byte values; proxies are sorted by sequence number."""

    owner: Address
    version: int
    proxy_hashes: frozenset[bytes]
    registered_proxies: tuple[RegisteredProxy, ...]
    last_proxy_seqno: int
    worker_hashes: frozenset[bytes]
    model_hashes: frozenset[bytes]
    params: Params


def parse_root(cell: Cell) -> RootState:
    """Read the data of a root contract.

    Registered proxies of an unknown type or with a text that names no address are left out, as the runners do.

    Raises:
        LayoutError: Anything else does not fit.
    """
    root = Reader(cell, "root")
    owner, version = root.address(), root.uint(32)
    data, params = Reader(root.ref(), "RootData"), Params.from_cell(root.ref())
    root.end()
    proxy_hashes = _read_hashes(data)
    proxies = data.dictionary(32, _read_proxy_text)
    last_seqno = data.uint(32)
    worker_hashes, model_hashes = _read_hashes(data), _read_hashes(data)
    data.end()
    registered = tuple(_registered(proxies))
    return RootState(owner, version, proxy_hashes, registered, last_seqno, worker_hashes, model_hashes, params)


def build_root(state: RootState) -> Cell:
    """The data cell of a root contract; raises ``LayoutError`` when a value does not fit."""
    data = Writer("RootData")
    _write_hashes(data, state.proxy_hashes)
    data.dictionary({proxy.seqno: proxy_entry(proxy.text) for proxy in state.registered_proxies}, 32)
    data.uint(state.last_proxy_seqno, 32)
    _write_hashes(data, state.worker_hashes)
    _write_hashes(data, state.model_hashes)
    root = Writer("root").address(state.owner).uint(state.version, 32)
    return root.ref(data.end()).ref(state.params.to_cell()).end()


def proxy_entry(text: str) -> Cell:
    """``Proxy`` of 6.1: type 0 and at most 127 bytes of text."""
    try:
        raw = text.encode("ascii")
    except UnicodeEncodeError as error:
        raise LayoutError(f"a proxy's text is not ASCII: {text!r}") from error
    return Writer("Proxy").uint(0, 1).uint(len(raw), 7).raw(raw, len(raw)).end()


def _read_proxy_text(reader: Reader) -> str | None:
    if reader.uint(1):
        reader.rest()  # an entry of a type that does not exist yet
        return None
    raw = reader.raw(reader.uint(7))
    return raw.decode() if raw.isascii() else None


def _registered(proxies: dict[int, str | None]) -> Iterable[RegisteredProxy]:
    for seqno, text in sorted(proxies.items()):
        if text is not None:
            try:
                yield RegisteredProxy.of(seqno, text)
            except LayoutError:
                continue


def _read_hashes(reader: Reader) -> frozenset[bytes]:
    entries = reader.dictionary(256, lambda _: None)
    return frozenset(key.to_bytes(32, "big") for key in entries)


def _write_hashes(writer: Writer, hashes: Iterable[bytes]) -> None:
    writer.dictionary({int.from_bytes(value, "big"): empty_cell() for value in hashes}, 256)


@dataclass(frozen=True, slots=True)
class ProxyData(Struct):
    """A proxy contract (6.4). ``balance`` can be withdrawn, ``stake`` not; ``unlock_ts`` in Unix seconds."""

    owner: Account
    public_key: Bits256
    root: Account
    state: Uint2
    balance: Coins
    stake: Coins
    unlock_ts: Uint32
    params: Reference


@dataclass(frozen=True, slots=True)
class WorkerData(Struct):
    """A worker contract (6.4). ``tokens``: paid so far."""

    owner: Account
    proxy: Account
    proxy_public_key: Bits256
    state: Uint2
    tokens: Uint64
    params: Reference


@dataclass(frozen=True, slots=True)
class ClientConstants(Struct):
    """The part of a client contract that never changes (6.4)."""

    owner: Account
    proxy: Account
    proxy_public_key: Bits256


@dataclass(frozen=True, slots=True)
class ClientData(Struct):
    """A client contract (6.4). ``balance`` includes ``stake``; the money itself lies on the proxy contract."""

    state: Uint2
    balance: Coins
    stake: Coins
    tokens_used: Uint64
    unlock_ts: Uint32
    secret_hash: Bits256
    constants: Annotated[ClientConstants, NestedCodec(ClientConstants, in_reference=True)]
    params: Reference


class WalletStatus(IntEnum):
    """``status`` of a node wallet (6.3): whether external messages are refused."""

    OPEN = 0
    BLOCKED = 1


@dataclass(frozen=True, slots=True)
class WalletData(Struct):
    """A node wallet (6.3)."""

    seqno: Uint32
    subwallet: Uint32
    public_key: Bits256
    status: Uint32
    owner: Account
