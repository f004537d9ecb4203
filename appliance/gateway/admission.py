"""Who may come in: the checks of the first message of a worker and of a client, in the protocol's order. Pure.

In: the peer's parameters, its attested image, the terms in force. Out: an :class:`AdmittedWorker` or
:class:`AdmittedClient`, or an :class:`AdmissionError` with the code of the protocol (specification, 2.2 and 4.3).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from appliance.chain.addresses import Address
from appliance.chain.admin import add_image, add_model
from appliance.chain.errors import AddressError
from appliance.errors import ErrorCode
from appliance.gateway.errors import AdmissionError

if TYPE_CHECKING:
    from appliance.gateway.terms import Terms
    from appliance.wire.messages import ClientParams, WorkerParams

WORKER_VERSIONS = (0, 2)
"""Protocol versions understood from workers: first and last (2.2)."""
CLIENT_VERSIONS = (1, 2)
"""Protocol versions understood from clients: first and last (4.3)."""
COEFFICIENT_LIMIT = 10**9
_HAS_TEST = 1
_HAS_VERSIONS = 2
_REQUESTS_LIMIT = 1_000_000
_NAME_LIMIT = 512


@dataclass(frozen=True, slots=True)
class AdmittedWorker:
    """A worker whose first message holds. ``limit``: requests this connection may run at a time."""

    owner: Address
    model: str
    base_model: str
    coefficient: int
    limit: int
    version: int
    image_hash: bytes


@dataclass(frozen=True, slots=True)
class AdmittedClient:
    """A client whose first message holds. ``owner`` is its node wallet."""

    owner: Address
    version: int


@dataclass(frozen=True, slots=True)
class Checks:
    """Which lists of the root contract are enforced."""

    images: bool
    models: bool


def check_image(image_hash: bytes, terms: Terms) -> None:
    """The attested image must be listed; raises :class:`AdmissionError`."""
    if not terms.image_listed(image_hash):
        root = terms.identity.root_contract
        raise AdmissionError(
            f"image hash {image_hash.hex()} is not listed in root contract {terms.identity.text(root)} "
            f"(version {terms.version}, {len(terms.state.worker_hashes)} worker images)",
            code=ErrorCode.PROTOCOL_VIOLATION,
            hint=_image_hint(image_hash, terms),
        )


def _image_hint(image_hash: bytes, terms: Terms) -> str:
    if not any(image_hash):
        return "the peer showed no attestation: its router or RA-TLS listener must present a quote"
    return add_image(terms.identity.root_contract, image_hash).explain(terms.state.owner)


def check_model(model: str, terms: Terms) -> None:
    """The model's full name must be listed; raises :class:`AdmissionError`."""
    if not terms.model_listed(model):
        digest = hashlib.sha256(model.encode()).hexdigest()
        root = terms.identity.text(terms.identity.root_contract)
        raise AdmissionError(
            f"model {model} (SHA-256 {digest}) is not listed in root contract {root} (version {terms.version}, "
            f"{len(terms.state.model_hashes)} models)",
            code=ErrorCode.PROTOCOL_VIOLATION,
            hint=add_model(terms.identity.root_contract, model).explain(terms.state.owner),
        )


def admit_worker(
    params: WorkerParams, image_hash: bytes, terms: Terms, checks: Checks, *, closed: str | None
) -> AdmittedWorker:
    """Judge ``worker.connectToProxy`` in the order of section 2.2.

    Args:
        params: What the worker says.
        image_hash: Its attested image, 32 bytes; zeros without attestation.
        terms: The root state in force.
        checks: Which lists are enforced.
        closed: Why the gateway takes nobody now; None when it does.

    Raises:
        AdmissionError: The first check that fails.
    """
    if checks.images:
        check_image(image_hash, terms)
    if not params.flags & _HAS_TEST or params.is_test is None:
        raise _wrong("worker.params carry no is_test (flags bit 0): too old worker", ErrorCode.ERROR)
    _same_network(params.is_test, terms)
    if not params.model or len(params.model) > _NAME_LIMIT:
        raise _wrong(f"the model's name has {len(params.model)} characters, expected 1 to {_NAME_LIMIT}")
    check_coefficient(params.coefficient)
    active, proxies = params.max_active_requests or 0, params.proxy_cnt or 0
    if not 1 <= active <= _REQUESTS_LIMIT:
        raise _wrong(f"max_active_requests is {active}, expected 1 to {_REQUESTS_LIMIT}")
    if proxies < 1:
        raise _wrong(f"proxy_cnt is {proxies}, expected at least 1")
    if checks.models:
        check_model(params.model, terms)
    version = _version(params.flags, params.min_proto_version, params.max_proto_version, WORKER_VERSIONS)
    owner = _owner(params.worker_owner_address)
    if closed is not None:
        raise AdmissionError(closed, code=ErrorCode.NOT_READY)
    return AdmittedWorker(
        owner=owner,
        model=params.model,
        base_model=params.model.partition("@")[0],
        coefficient=params.coefficient,
        limit=-(-active // proxies),
        version=version,
        image_hash=image_hash,
    )


def admit_client(params: ClientParams, min_config_version: int, terms: Terms, *, closed: str | None) -> AdmittedClient:
    """Judge ``client.connectToProxy`` in the order of section 4.3; raises :class:`AdmissionError`."""
    if not params.flags & _HAS_TEST or params.is_test is None:
        raise _wrong("client.params carry no is_test (flags bit 0): too old client", ErrorCode.ERROR)
    _same_network(params.is_test, terms)
    owner = _owner(params.client_owner_address)
    if not 0 <= min_config_version <= terms.version:
        raise AdmissionError(
            f"the client asks for root contract version {min_config_version}, this gateway has {terms.version}",
            code=ErrorCode.ERROR,
            hint="the gateway reads the chain again now; try again in a few seconds",
        )
    version = _version(params.flags, params.min_proto_version, params.max_proto_version, CLIENT_VERSIONS)
    if closed is not None:
        raise AdmissionError(closed, code=ErrorCode.NOT_READY)
    return AdmittedClient(owner, version)


def check_coefficient(coefficient: int) -> None:
    """A price in thousandths must be in ``[0, 10^9)``; raises :class:`AdmissionError`."""
    if not 0 <= coefficient < COEFFICIENT_LIMIT:
        raise _wrong(f"coefficient is {coefficient}, expected 0 to {COEFFICIENT_LIMIT - 1}")


def _wrong(message: str, code: ErrorCode = ErrorCode.PROTOCOL_VIOLATION) -> AdmissionError:
    return AdmissionError(message, code=code)


def _same_network(is_test: bool, terms: Terms) -> None:
    if is_test != terms.identity.is_test:
        raise AdmissionError(
            f"the peer has is_test = {is_test}, this gateway {terms.identity.is_test}",
            code=ErrorCode.ERROR,
            hint="peer and gateway belong to different networks: compare their root contracts",
        )


def _version(flags: int, lowest: int | None, highest: int | None, ours: tuple[int, int]) -> int:
    theirs = (lowest or 0, highest or 0) if flags & _HAS_VERSIONS else (0, 0)
    chosen = min(theirs[1], ours[1])
    if theirs[0] > theirs[1] or chosen < max(theirs[0], ours[0]):
        spoken = f"{theirs[0]} to {theirs[1]}"
        raise _wrong(f"the peer speaks protocol versions {spoken}, expected some of {ours[0]} to {ours[1]}")
    return chosen


def _owner(text: str) -> Address:
    try:
        return Address.parse(text)
    except AddressError as error:
        message = f"the owner address cannot be read: {error.message}"
        raise AdmissionError(message, code=ErrorCode.ERROR, hint=error.hint) from error
