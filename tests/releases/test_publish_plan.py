"""What a root's owner has to send: the plan leads exactly where it should, in an order that locks nobody out."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from publish_support import ROOT, image, listing, model, state

from appliance.chain import messages
from appliance.chain.admin import model_hash
from appliance.chain.errors import PublishError
from appliance.chain.layouts import RootState, build_root, parse_root
from appliance.chain.publish import MAX_LISTED, Change, Listing, applied, publish, retire, withdraw

numbers = st.frozensets(st.integers(0, 7), max_size=6)
some = st.frozensets(st.integers(0, 7), min_size=1, max_size=6)


class Case(NamedTuple):
    """What is listed (of workers or of gateways), and what two releases have."""

    gateways: bool
    listed: frozenset[int]
    models: frozenset[int]
    new: frozenset[int]
    new_models: frozenset[int]
    old: frozenset[int]
    old_models: frozenset[int]

    def state(self, images: frozenset[int], models: frozenset[int]) -> RootState:
        others = frozenset({9})
        return state(others if self.gateways else images, images if self.gateways else others, models)

    @property
    def before(self) -> RootState:
        return self.state(self.listed, self.models)

    @property
    def newer(self) -> Listing:
        return listing(self.new, self.new_models, gateways=self.gateways)

    @property
    def older(self) -> Listing:
        return listing(self.old, self.old_models, gateways=self.gateways)


cases = st.builds(Case, st.booleans(), numbers, numbers, some, numbers, some, numbers)


@given(cases)
def test_publishing_leads_to_the_union(case: Case) -> None:
    changes = publish(case.before, case.newer)
    after = applied(case.before, changes)
    assert replace(after, version=5) == case.state(case.listed | case.new, case.models | case.new_models)
    assert after.version == 5 + len(changes)
    assert publish(after, case.newer) == (), "nothing is left to do"
    assert all(change.done(after) and not change.done(case.before) for change in changes)


@given(cases)
def test_retiring_leaves_what_the_new_release_and_others_have(case: Case) -> None:
    if not case.new <= case.listed:
        with pytest.raises(PublishError, match="would be locked out"):
            retire(case.before, case.newer, case.older)
    changes = retire(case.before, case.newer, case.older, at_once=True)
    after = applied(case.before, changes)
    left = (case.listed | case.new) - (case.old - case.new)
    models = (case.models | case.new_models) - (case.old_models - case.new_models)
    assert replace(after, version=5) == case.state(left, models)
    assert retire(after, case.newer, case.older) == ()
    # Whoever stops it in between: the new release is there before anything of the old one goes, and it is gone on with.
    for count in range(len(changes) + 1):
        reached = applied(case.before, changes[:count])
        gone = frozenset(map(image, case.old & case.listed)) - getattr(reached, case.newer.list)
        assert not gone or case.newer.images <= getattr(reached, case.newer.list)
        assert applied(reached, retire(reached, case.newer, case.older, at_once=True)) == after


def test_models_come_before_images_and_go_after_them() -> None:
    changes = retire(state({1, 2}, models={1}), listing({2}, {2}), listing({1}, {1}))
    assert [(change.list, change.added) for change in changes] == [
        ("model_hashes", True),
        ("worker_hashes", False),
        ("model_hashes", False),
    ]


def test_a_release_is_not_retired_before_its_successor_is_listed() -> None:
    with pytest.raises(PublishError, match="1 images of the new release are not listed"):
        retire(state({1}), listing({2}), listing({1}))
    # Controls: listed first; or asked for in so many words.
    assert retire(state({1, 2}), listing({2}), listing({1})) == (Change("worker_hashes", image(1), False),)
    assert [change.added for change in retire(state({1}), listing({2}), listing({1}), at_once=True)] == [True, False]


def test_the_only_release_is_withdrawn_only_in_so_many_words() -> None:
    with pytest.raises(PublishError, match="nobody would be admitted any more"):
        withdraw(state({1, 2}), listing({1, 2, 3}))
    assert len(withdraw(state({1, 2}), listing({1, 2, 3}), last=True)) == 2
    # Controls: another one stays; nothing is listed anyway; the other role's list does not count.
    assert withdraw(state({1, 2}), listing({1})) == (Change("worker_hashes", image(1), False),)
    assert withdraw(state({2}), listing({1})) == ()
    with pytest.raises(PublishError):
        withdraw(state({1}, gateways={2}), listing({1}))


def test_a_list_that_programs_could_not_read_is_refused() -> None:
    full = state(range(MAX_LISTED - 1))
    assert len(publish(full, listing({MAX_LISTED}))) == 1
    with pytest.raises(PublishError, match=f"at most {MAX_LISTED}"):
        publish(full, listing({MAX_LISTED, MAX_LISTED + 1}))


def test_a_full_list_is_still_read() -> None:
    """The bound is the reader's own: one entry more, and every program of a network would lose its root contract."""
    full = state(range(MAX_LISTED))
    assert parse_root(build_root(full)) == full


def test_a_release_without_images_is_refused() -> None:
    with pytest.raises(PublishError, match="no image hash to list"):
        publish(state(), listing((), {1}))


def test_a_gateways_release_and_a_workers_are_two_things() -> None:
    with pytest.raises(PublishError, match="do not replace each other"):
        retire(state({1, 2}), listing({2}), listing({1}, gateways=True))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (Change("worker_hashes", image(1), True), messages.RootAddWorkerHash),
        (Change("worker_hashes", image(1), False), messages.RootDeleteWorkerHash),
        (Change("proxy_hashes", image(1), True), messages.RootAddProxyHash),
        (Change("proxy_hashes", image(1), False), messages.RootDeleteProxyHash),
        (Change("model_hashes", model_hash(model(1)), True, model(1)), messages.RootAddModelHash),
        (Change("model_hashes", model_hash(model(1)), False, model(1)), messages.RootDeleteModelHash),
    ],
)
def test_each_change_is_its_message(change: Change, kind: type[messages.RootAddWorkerHash]) -> None:
    order = change.order(ROOT)
    assert isinstance(order.body, kind)
    assert order.root == ROOT
    read = kind.from_cell(order.body.to_cell())
    assert change.entry in {getattr(read, name) for name in read.__slots__ if isinstance(getattr(read, name), bytes)}
