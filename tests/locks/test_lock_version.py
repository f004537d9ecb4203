"""The order of versions, against dpkg's own."""

from __future__ import annotations

import shutil
import string
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.image.lock_version import is_older, newest

RISING = [
    "0~~", "0~~a", "0~", "0", "0a", "0+", "0.9", "0.10", "1.0~rc1-1",
    "1.0-1", "1.0-1+deb13u1", "1.0-1.1", "1.0-2", "1.0.1-1", "1:0.1-1", "1:0.1-1+b1", "2:0",
]  # fmt: skip


def test_versions_in_their_order() -> None:
    for index, version in enumerate(RISING):
        for later in RISING[index + 1 :]:
            assert is_older(version, later), f"{version} before {later}"
            assert not is_older(later, version)
        assert not is_older(version, version)
    assert newest(("1.0-1", "1:0", "9")) == "1:0"


@pytest.mark.parametrize(("one", "other"), [("1.0", "1.00"), ("1", "0:1"), ("1-0", "1"), ("1.0-0", "1.0")])
def test_different_texts_of_one_version(one: str, other: str) -> None:
    assert not is_older(one, other)
    assert not is_older(other, one)


rest = st.text(f"{string.ascii_letters}01239.+~-", max_size=6)
versions = st.builds("{}{}{}".format, st.sampled_from(["", "0:", "1:"]), st.integers(0, 12), rest).filter(
    lambda version: not version.endswith("-")  # no version: the revision is empty
)


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="not installed: dpkg")
@settings(max_examples=150)
@given(versions, versions)
def test_as_dpkg_orders_them(one: str, other: str) -> None:
    done = subprocess.run(["dpkg", "--compare-versions", one, "lt", other], check=False, stderr=subprocess.DEVNULL)
    assert is_older(one, other) is (done.returncode == 0)
