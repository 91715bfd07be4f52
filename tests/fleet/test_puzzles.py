"""The checker, the parser and the split."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, PuzzleError, check, check_result, generate, parse, prompt, solve
from fleet.split import HELD_OUT_GAME24, split

ASKED = "Use 4 9 10 13 to make 24."
puzzles = st.builds(lambda seed, k: generate(random.Random(seed), k), st.integers(0, 10**6), st.integers(3, 4))


@settings(max_examples=40, deadline=None)
@given(puzzles)
def test_generated_puzzles_are_solvable_and_their_solution_passes(puzzle: Puzzle) -> None:
    """Whatever the generator gives, brute force solves, and the checker accepts that solution under every phrasing."""
    solution = solve(puzzle)
    assert solution is not None
    for index in range(len(PHRASINGS)):
        text = prompt(puzzle, index)
        assert parse(text) == puzzle
        assert check(text, solution) == 1.0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 13), min_size=3, max_size=4), st.integers(1, 100))
def test_nothing_passes_where_brute_force_finds_nothing(numbers: list[int], target: int) -> None:
    """The expression of another target is refused for this one, and accepted for its own value."""
    puzzle = Puzzle(tuple(numbers), target)
    product = "*".join(map(str, numbers))
    value = Fraction(1)
    for number in numbers:
        value *= number
    assert check(prompt(puzzle), product) == float(value == target)
    if value == target:
        assert solve(puzzle) is not None


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300) | st.text(alphabet="0123456789+-*/()= \n;.²½", max_size=200))
def test_garbage_is_wrong_and_never_raises(answer: str) -> None:
    """Any text at all gets a score."""
    assert check(ASKED, answer) in (0.0, 1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "13-9=4 ; 4 4 10\n10-4=6 ; 4 6\n6*4=24",
        "13 - 9 = 4 (left: 4 4 10)\n10 - 4 = 6 (left: 4 6)\n6 * 4 = 24 (left: 24)\nAnswer: (10 - 4) * (13 - 9) = 24",
        "(10-4)*(13-9) = 24",
        "(10−4)×(13−9)",
        "Answer: (10 - 4) * (13 - 9)",
    ],
)
def test_every_honest_form_of_an_answer_is_accepted(answer: str) -> None:
    """Steps, Tree of Thoughts' lines, an answer line, one expression with or without its result."""
    assert check_result(ASKED, answer).correct


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "empty"),
        ("13-9=4\n10-4=6\n6*4=25", "wrong arithmetic"),
        ("13-9=4 ; 4 4 11\n10-4=6\n6*4=24", "listed wrongly"),
        ("6*4=24", "are given"),
        ("10-4=6 ; 6 9 13\n13-9=4 ; 4 6", "ends with 4 6"),
        ("13-13=0\n10-4=6\n6*4=24", "13 is not there"),
        ("(10-4)*(13-9) = 25", "claims"),
        ("(4-4)/(9-9)", "are given"),
        ("(" * 5000, "longer"),
        ("(" * 300, "nest deeper"),
        ("__import__('os')", "cannot read"),
        ("9**9**9**9", "found '*'"),
    ],
)
def test_a_refusal_says_why(answer: str, reason: str) -> None:
    """The reason names what is wrong, and hostile text is only text."""
    verdict = check_result(ASKED, answer)
    assert not verdict.correct
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Tell me a joke.", "no target found"),
        ("Use 4 9 to make 24.", "3 to 6"),
        ("Use 4 9 10 99 to make 24.", "out of range"),
        ("Use 4 9 10 13 to make 2400.", "target 2400"),
    ],
)
def test_an_unreadable_prompt_is_told_what_would_be_readable(text: str, says: str) -> None:
    """The error names the fault and shows a puzzle."""
    with pytest.raises(PuzzleError, match="Use 4 9 10 13 to make 24") as caught:
        parse(text)
    assert says in str(caught.value)


def test_the_split_is_stable_disjoint_and_keeps_the_public_puzzles_out() -> None:
    """A number set lies on one side whatever its order; the sides have the sizes promised; the 100 public puzzles are test."""
    assert len(set(HELD_OUT_GAME24)) == 100
    assert all(split(map(int, line.split())) == "test" for line in HELD_OUT_GAME24)
    assert split((4, 9, 10, 13)) == split((13, 10, 9, 4))
    rng = random.Random(0)
    sets = [tuple(rng.randint(1, 13) for _ in range(5)) for _ in range(4000)]
    sides = [split(numbers) for numbers in sets]
    assert 0.77 < sides.count("train") / 4000 < 0.83
    assert 0.03 < sides.count("validation") / 4000 < 0.07
    assert [split(numbers) for numbers in ((1, 2, 3), (2, 3, 4), (5, 6, 7))] == ["train", "test", "train"]
