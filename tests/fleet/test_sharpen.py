"""Rejection sampling keeps right answers only."""

from __future__ import annotations

import numpy as np

from fleet.data import SIZES
from fleet.puzzles import check
from fleet.rollouts import Group, new_groups
from fleet.sharpen import accepted, sharpening_batches
from fleet.tokens import build_tokenizer


def test_only_distinct_right_answers_are_kept() -> None:
    """Wrong answers go, doubles go, and puzzles without a right answer go."""
    mixed = Group((3, 4, 5), 17, "", ("a", "b", "a"), (True, False, True))
    hopeless = Group((3, 4, 5), 18, "", ("a",), (False,))
    assert [group.answers for group in accepted([mixed, hopeless])] == [("a",)]


def test_every_scored_row_is_a_right_answer_to_its_prompt() -> None:
    """Fresh phrasings and number orders change nothing about the answer, and padding is never scored."""
    solved = [Group(g.numbers, g.target, g.solution, (g.solution,), (True,)) for g in new_groups(0, 6, "train")]
    tokenizer, batches = build_tokenizer(), sharpening_batches(solved, own=8, ordinary=8)
    for rows in batches(np.random.default_rng(0))[: len(SIZES)]:
        for ids, scored in zip(rows.ids, rows.scored, strict=True):
            asked = tokenizer.decode(ids[: scored.argmax()], skip_special_tokens=True)
            assert check(asked, tokenizer.decode(ids[scored], skip_special_tokens=True)) == 1.0
