"""What a root contract's owner has to send so that a release is listed, or so that an old one is not any more. Pure.

In: the proven state and what a release lists. Out: the changes in the order in which they are sent. Additions come
first and models before images, removals last and images before models, so that at no moment a machine is admitted
whose model is refused, or the old release is gone before the new one is there. A change that is in the state already is
left out, so what is planned again after an interruption is the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from appliance.chain import admin
from appliance.chain.cells import DEFAULT_MAX_ENTRIES
from appliance.chain.errors import PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from appliance.chain.addresses import Address
    from appliance.chain.admin import OwnerOrder
    from appliance.chain.layouts import RootState

MAX_LISTED: Final = DEFAULT_MAX_ENTRIES
"""Entries of one list that every program of this project still reads; a longer one would lock all of them out."""

List = Literal["worker_hashes", "proxy_hashes", "model_hashes"]
"""The lists of :class:`~appliance.chain.layouts.RootState`."""

_ORDERS: Final[Mapping[tuple[List, bool], Callable[[Address, bytes], OwnerOrder]]] = {
    ("worker_hashes", True): admin.add_image,
    ("worker_hashes", False): admin.remove_image,
    ("proxy_hashes", True): admin.add_proxy_image,
    ("proxy_hashes", False): admin.remove_proxy_image,
}


@dataclass(frozen=True, slots=True)
class Listing:
    """What a release lists.

    Attributes:
        images: Image hashes, 32 bytes each.
        models: Full names of models, ``name@commit:hash``.
        gateways: Whether the images are gateways' rather than workers'.
    """

    images: frozenset[bytes]
    models: frozenset[str] = frozenset()
    gateways: bool = False

    @property
    def list(self) -> List:
        """Which list the images belong to."""
        return "proxy_hashes" if self.gateways else "worker_hashes"


@dataclass(frozen=True, slots=True)
class Change:
    """One entry that comes or goes.

    Attributes:
        list: The list.
        entry: 32 bytes.
        added: Whether it comes.
        model: The model's name, where the list is that of models.
    """

    list: List
    entry: bytes
    added: bool
    model: str = ""

    def order(self, root: Address) -> OwnerOrder:
        """The message to the root contract."""
        if self.list == "model_hashes":
            return (admin.add_model if self.added else admin.remove_model)(root, self.model)
        return _ORDERS[self.list, self.added](root, self.entry)

    def done(self, state: RootState) -> bool:
        """Whether a state shows it."""
        return (self.entry in getattr(state, self.list)) is self.added


def publish(state: RootState, new: Listing) -> tuple[Change, ...]:
    """What lists a release beside all that is listed.

    Raises:
        PublishError: The release has no image, or a list would grow beyond :data:`MAX_LISTED`.
    """
    if not new.images:
        raise PublishError("the release has no image hash to list", hint="name the configurations of its machines")
    models = {admin.model_hash(name): name for name in new.models}
    changes = (
        *(Change("model_hashes", entry, True, models[entry]) for entry in sorted(models.keys() - state.model_hashes)),
        *(Change(new.list, entry, True) for entry in sorted(new.images - getattr(state, new.list))),
    )
    after = applied(state, changes)
    for name in (new.list, "model_hashes"):
        if len(getattr(after, name)) > MAX_LISTED:
            raise PublishError(
                f"{name} would have {len(getattr(after, name))} entries, programs read at most {MAX_LISTED}",
                hint="retire releases that nobody runs, or state fewer machine shapes",
            )
    return changes


def retire(state: RootState, new: Listing, old: Listing, *, at_once: bool = False) -> tuple[Change, ...]:
    """What lists a release and takes away what only an older one has.

    Args:
        state: The proven state.
        new: The release that stays; what of it is missing is added first.
        old: The one that goes; what both have stays.
        at_once: Take the old one away in the same go in which the new one is listed.

    Raises:
        PublishError: As :func:`publish`; the releases are of different roles; or the new one is not listed yet, so
            that no machine can have been rolled over.
    """
    if old.gateways != new.gateways:
        raise PublishError("a gateway's release and a worker's do not replace each other")
    additions = publish(state, new)
    if any(change.list == new.list for change in additions) and not at_once:
        missing = sum(change.list == new.list for change in additions)
        raise PublishError(
            f"{missing} images of the new release are not listed: every machine of the old one would be locked out",
            hint="publish the new release without --retire first and roll the machines over; if the old one has to go "
            "this moment, say --at-once",
        )
    return (*additions, *_removals(state, Listing(old.images - new.images, old.models - new.models, old.gateways)))


def withdraw(state: RootState, release: Listing, *, last: bool = False) -> tuple[Change, ...]:
    """What takes a release away, whatever stays: for a release with a hole that is known.

    Args:
        state: The proven state.
        release: The release.
        last: Take it away even if nothing else is listed for its role: then nobody is admitted any more.

    Raises:
        PublishError: It is the only one that is listed, and ``last`` was not said.
    """
    changes = _removals(state, release)
    listed = getattr(state, release.list)
    if changes and not last and listed and listed <= release.images:
        raise PublishError(
            f"all {len(listed)} listed images are this release's: nobody would be admitted any more",
            hint="publish its successor first; if the network has to stop this moment, say --last",
        )
    return changes


def applied(state: RootState, changes: Iterable[Change]) -> RootState:
    """The lists after these changes; the contract counts its ``version`` up by each."""
    lists: dict[str, frozenset[bytes]] = {
        name: getattr(state, name) for name in ("worker_hashes", "proxy_hashes", "model_hashes")
    }
    count = 0
    for change in changes:
        entry = frozenset({change.entry})
        lists[change.list] = lists[change.list] | entry if change.added else lists[change.list] - entry
        count += 1
    return replace(
        state,
        version=state.version + count,
        worker_hashes=lists["worker_hashes"],
        proxy_hashes=lists["proxy_hashes"],
        model_hashes=lists["model_hashes"],
    )


def _removals(state: RootState, old: Listing) -> tuple[Change, ...]:
    models = {admin.model_hash(name): name for name in old.models}
    return (
        *(Change(old.list, entry, False) for entry in sorted(old.images & getattr(state, old.list))),
        *(Change("model_hashes", entry, False, models[entry]) for entry in sorted(models.keys() & state.model_hashes)),
    )
