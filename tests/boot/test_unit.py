"""What a guest's programs say when they end: our own errors in full, the text of any other never."""

from __future__ import annotations

from typing import TYPE_CHECKING

from appliance.boot.unit import run_unit
from appliance.errors import StageError

if TYPE_CHECKING:
    import pytest


def test_a_program_that_ends_well_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_unit("the worker", lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_our_own_error_is_told_with_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise StageError("no configuration", hint="see the status port")

    assert run_unit("the worker", work) == 1
    said = capsys.readouterr().err
    assert said.startswith("StageError: no configuration")
    assert "see the status port" in said


def test_the_text_of_an_unforeseen_error_is_withheld(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise ValueError("what a client asked")

    assert run_unit("the worker", work) == 1
    assert capsys.readouterr() == ("", "the worker ended with ValueError\n")
