"""Revision data and its comparison with resampling."""

from __future__ import annotations

import numpy as np
import pytest

from fleet.revise import Chain, Trial, as_groups, collect, compare, open_chains
from fleet.rollouts import Group
from fleet.tokens import build_tokenizer


def group(*correct: bool) -> Group:
    return Group((3, 4, 5), 17, "5*3=15 ; 4 15\n15+2=17", tuple(f"answer {index}" for index in range(len(correct))), correct)


def trial(*answers: str, solved: bool) -> Trial:
    return Trial(Chain((3, 4, 5), 17, 0, ""), answers, solved)


def test_rounds_count_only_what_was_still_unsolved() -> None:
    """Of four chains one is solved at once and two of three at the second answer; resampling is the exact chance over subsets."""
    trials = [trial("a", solved=True), trial("a", "b", solved=True), trial("a", "b", solved=True), trial("a", "b", solved=False)]
    first, second = compare(trials, [group(True, False, False, False)], rounds=2)
    assert (first.revised, first.unsolved) == (0.25, 4)
    assert (second.revised, second.unsolved) == (pytest.approx(2 / 3), 3)
    assert first.resampled == pytest.approx(1 / 4)
    assert second.resampled == pytest.approx(1 / 3)


def test_only_revised_answers_teach_the_reward_model_again() -> None:
    """First answers are left out; only the last of a solved chain is right."""
    kept = as_groups([trial("a", solved=True), trial("a", "b", "c", solved=True), trial("a", "b", solved=False)])
    assert [group.answers for group in kept] == [("b", "c"), ("b",)]
    assert [group.correct for group in kept] == [(False, True), (False,)]


def test_a_chain_opens_with_a_wrong_answer_and_nothing_else() -> None:
    """Groups that are all right open none."""
    opened = open_chains([group(True, True), group(True, False)], np.random.default_rng(0))
    assert [attempt for _, attempt in opened] == ["answer 1"]


def test_a_conversation_ends_where_the_next_answer_starts() -> None:
    """Puzzle, attempt, verdict, and the assistant's turn opened."""
    chain = Chain((3, 4, 5), 17, 0, "", ("5+4=9 ; 3 9\n9*3=27",), ("Step 2 looks wrong. Try again.",))
    text = build_tokenizer().decode(chain.ids(build_tokenizer()))
    assert text.endswith("<|user|> step 2 looks wrong. try again. <|assistant|>")


def test_no_wrong_answers_give_no_chains() -> None:
    """Nothing is asked of the models then."""
    assert collect(None, None, lambda x: x, [group(True)], seed=0) == []  # type: ignore[arg-type]
