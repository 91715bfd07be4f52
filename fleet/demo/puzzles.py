"""What is asked: puzzles whose numbers no model has seen in training, the same number of each size, in every phrasing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, generate, prompt

SIZES = (3, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and how many numbers its puzzle has."""

    prompt: str
    size: int


def questions(n: int, seed: int) -> list[Question]:
    """n different held-out questions, the sizes taking turns, so that every beginning of the list is a fair sample too."""
    rng = random.Random(seed)
    found: dict[Puzzle, Question] = {}
    while len(found) < n:
        size = SIZES[len(found) % len(SIZES)]
        puzzle = generate(rng, size, "test")
        found.setdefault(puzzle, Question(prompt(puzzle, rng.randrange(len(PHRASINGS))), size))
    return list(found.values())


def rounds(asked: Sequence[Question], size: int) -> list[Sequence[Question]]:
    """The questions in portions."""
    return [asked[start : start + size] for start in range(0, len(asked), size)]
