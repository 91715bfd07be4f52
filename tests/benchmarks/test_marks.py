"""Marks that were wrong for the notation alone are put right, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.general_probe import SOURCES, described, labels
from benchmarks.marks import number, regraded

GSM8K = SOURCES[0]


def row(gold: str, weak: tuple[str, int], strong: tuple[str, int]) -> dict[str, Any]:
    marks = zip((*GSM8K.weak, *GSM8K.strong, "bystander"), (weak, strong, ("0.00", 1)), strict=True)
    return {"prompt": f"How much is {gold}?", "gold": gold, "outcomes": {m: {"answer": a, "correct": mark} for m, (a, mark) in marks}}


@pytest.mark.parametrize(
    ("text", "value"),
    [("720.00", 720), ("$1,200", 1200), ("-$1,200.50", -1200.5), (" 7 ", 7), (51.0, 51), ("1234,567", None), ("1,2", None), ("7$20", None)]
    + [(text, None) for text in ("-1 1", "7 cups", "25%", "1e3", "1_000", "nan", "inf", "1/2", "", None)],
)
def test_only_what_is_one_number_and_no_more_is_read_as_a_number(text: object, value: float | None) -> None:
    """Two numbers, a unit, a formula or a comma at another place may mean something else, and are left alone."""
    assert number(text) == value


def test_a_right_answer_in_another_notation_is_marked_right_and_counted() -> None:
    """A wrong one stays wrong, a right one right, and where no gold is recorded nothing changes."""
    rows = [row("720", ("720.00", 0), ("720", 1)), row("1200", ("$1,200", 0), ("12", 0)), row("7", ("seven", 0), ("0.7", 1))]
    rows.append({key: value for key, value in row("5", ("5.00", 0), ("5.00", 0)).items() if key != "gold"})
    found, changed = regraded(rows)
    weak, strong = ([r["outcomes"][model]["correct"] for r in found] for (model,) in (GSM8K.weak, GSM8K.strong))
    assert (weak, strong) == ([1, 1, 0, 0], [1, 0, 1, 0])
    assert changed == {GSM8K.weak[0]: 2, GSM8K.strong[0]: 0, "bystander": 0}
    assert rows[0]["outcomes"][GSM8K.weak[0]]["correct"] == 0


def test_the_general_probe_learns_from_marks_put_right_and_its_card_counts_them() -> None:
    """Other models of a recording are not counted: nothing was learned from them."""
    rows = [row("720", ("720.00", 0), ("720.0", 0)), row("31", ("30", 0), ("31", 1))]
    found, _ = labels({GSM8K.file: rows})
    assert {(label.backend, label.successes) for label in found if "720" in label.prompt} == {("weak", 1), ("strong", 1)}
    assert {(label.backend, label.successes) for label in found if "31" in label.prompt} == {("weak", 0), ("strong", 1)}
    assert described(GSM8K, rows) == "lm-sys/RouteLLM, GSM8K (Apache-2.0), 2 marks put right that were wrong for the notation"
    assert described(GSM8K, rows[1:]) == "lm-sys/RouteLLM, GSM8K (Apache-2.0)"
