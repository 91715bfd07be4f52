"""Normal forms of answers: what counts as the same answer in a vote."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.answers import is_finished, last_number, normalise
from adapters.types import Choice

SAME = {
    "1000": ["1,000.0", "It costs $1,000.", "#### 1000", r"so \boxed{1,000}", "The answer is 1000 apples.", "**Answer:** 1000", "= 01000"],
    "-4": ["-4", "−4", "x = -4", "the answer is -4.0"],
    "6": ["10-4=6", "(13-9)+2 = 6", "6.", "The answer is 6. I am sure."],
    "0.5": ["0.50", "the answer is ... 0.5"],
    "b": ["(B)", "The answer is (B).", "b)", "answer: **B**"],
    "05/12/2020": ["So the answer is 05/12/2020."],
    "paris": ["Paris", " paris. ", "**Paris**", "The answer is Paris."],
    r"\frac{1}{2}": [r"\boxed{\frac{1}{2}}", r"$\boxed{\dfrac{1}{2}}$"],
    '{"a":1,"b":[2]}': ['{"b": [2.0], "a": 1}', '```json\n{"a":1,"b":[2]}\n```'],
}


@pytest.mark.parametrize(("form", "text"), [(form, text) for form, texts in SAME.items() for text in texts])
def test_the_same_answer_written_differently_has_one_normal_form(form: str, text: str) -> None:
    """The same answer, written in different ways, has one normal form."""
    assert normalise(text) == form


DIFFERENT = [("5", "-5"), ("1.5", "15"), ("Yes", "No"), (r"\boxed{(1, 2]}", r"\boxed{[1, 2)}"), ('{"a":1}', '{"a":2}'), ("5x", "x")]


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_different_answers_stay_different(a: str, b: str) -> None:
    """Different answers keep different normal forms."""
    assert normalise(a) != normalise(b)


def test_a_pattern_overrides_the_built_in_rules() -> None:
    """With a pattern, its last match's last group is the answer, whatever else the text holds."""
    text = "guess: 3\nguess: 4\nThe answer is 9."
    assert normalise(text) == "9"
    assert normalise(text, r"guess: (\d+)") == "4"
    assert normalise(text, r"guess: \d+") == "guess: 4"


def test_texts_that_a_pattern_does_not_find_do_not_vote_together() -> None:
    """Texts without a match keep their own words, so refusals and garbage do not form a majority."""
    assert normalise("I cannot.", "x=(1)") != normalise("No idea.", "x=(1)")


def test_code_is_compared_as_code() -> None:
    """Two programs that end in the same number are not the same answer."""
    assert normalise("```python\na = 1\n```") != normalise("```python\nb = 1\n```")


def test_long_integers_are_compared_exactly() -> None:
    """Integers beyond a float's precision are not rounded together."""
    assert normalise("10000000000000000000000000000000001") != normalise("10000000000000000000000000000000002")


@given(st.integers(-(10**12), 10**12), st.integers(0, 3))
def test_a_number_is_its_own_normal_form_in_any_notation(value: int, zeros: int) -> None:
    """Thousands separators and trailing zeros never change a number."""
    written = f"{value:,}" + ("." + "0" * zeros if zeros else "")
    assert normalise(written) == str(value)
    assert last_number(written) == value


@given(st.text(max_size=200))
def test_any_text_has_a_normal_form_which_is_stable(text: str) -> None:
    """No text breaks it, and a plain answer's normal form is its own normal form."""
    assert isinstance(normalise(text), str)
    assert normalise(str(len(text))) == str(len(text))


def test_hostile_nesting_is_compared_as_text() -> None:
    """JSON nested too deeply to parse is an ordinary text, not a crash."""
    assert normalise("[" * 100_000).startswith("[[[")


JSON = st.recursive(
    st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(JSON)
def test_json_is_compared_by_value(value: object) -> None:
    """Spacing of JSON does not matter."""
    wrapped = {"value": value}
    assert normalise(json.dumps(wrapped, indent=2)) == normalise(json.dumps(wrapped))


def test_the_last_number_prefers_the_marked_answer() -> None:
    """A number after the marked answer is not the answer; a text without one has none."""
    assert last_number("The answer is 7. (Checked 2 times)") == 7
    assert last_number("first 3, then 4") == 4
    assert last_number("none") is None


def test_a_truncated_answer_is_not_finished() -> None:
    """Only what came to its own end is a finished answer."""
    finished = [is_finished(Choice("x", reason)) for reason in ("stop", "tool_calls", "length", "cancelled")]
    assert finished == [True, True, False, False]
