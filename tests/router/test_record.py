"""A decision's record: every field is explained, and its numbers, as lines of the server's log, are written quicker than the library does
it, and as it does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.logs import Text
from router.record import _rounded
from router.render import decision_block
from tests.router.test_pipeline import a_router, an_ask

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@given(st.floats(-1e3, 1e3))
def test_numbers_have_nine_digits(number: float) -> None:
    """As `round` gives them, but for what lies half-way between two."""
    assert _rounded(number) == pytest.approx(round(number, 9), abs=1.01e-9, rel=1e-15)
    assert _rounded(_rounded(number)) == _rounded(number)


def test_what_is_no_number_stays_so() -> None:
    """An infinite price or time is no reason to fail."""
    assert _rounded(float("inf")) == float("inf")


@pytest.mark.parametrize("error", [None, ValueError("gone")])
def test_a_line_is_as_its_template_says(error: Exception | None) -> None:
    """With a trace below it where there is one."""
    record = logging.LogRecord("outlay", logging.INFO, "", 0, "%s %d", ("answered", 3), error and (type(error), error, None))
    quick, formatter = Text(FORM), Text(FORM)
    assert quick.format(record) == logging.Formatter.format(formatter, record)


async def test_every_field_is_explained() -> None:
    """On the page of the decision block, by its name."""
    found = decision_block(await a_router().answer(an_ask()))
    decision, page = found["decisions"][0], (Path(__file__).parents[2] / "docs" / "decision-block.md").read_text()
    rows = (found, decision, *found["actions"], *found["calls"], decision["facts"], decision["belief"], *decision["considered"])
    named = {name for row in rows for name in row}
    assert {name for name in named if f"`{name}`" not in page} == set()
