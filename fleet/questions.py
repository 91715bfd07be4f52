"""Questions to ask: puzzles of one side of the split, as many of each size, in every phrasing; a command writes them as JSON lines.

python -m fleet.questions --side validation -n 2400 > puzzles.jsonl      what `outlay collect` reads
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass

from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, generate, prompt
from fleet.split import Split

SIZES = (3, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt, and the puzzle in it."""

    prompt: str
    puzzle: Puzzle

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return len(self.puzzle.numbers)

    @property
    def group(self) -> str:
        """The multiset of numbers: puzzles that share it are near-duplicates."""
        return " ".join(map(str, sorted(self.puzzle.numbers)))


def questions(n: int, seed: int, side: Split = "test") -> list[Question]:
    """n different questions, the sizes taking turns, so that every beginning of the list is a fair sample too."""
    rng = random.Random(seed)
    found: dict[Puzzle, Question] = {}
    while len(found) < n:
        puzzle = generate(rng, SIZES[len(found) % len(SIZES)], side)
        found.setdefault(puzzle, Question(prompt(puzzle, rng.randrange(len(PHRASINGS))), puzzle))
    return list(found.values())


def main() -> None:
    """Write the questions to standard output."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m fleet.questions", description=__doc__, formatter_class=form)
    parser.add_argument("-n", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("train", "validation", "test"), default="validation")
    options = parser.parse_args()
    for question in questions(options.n, options.seed, options.side):
        print(json.dumps({"prompt": question.prompt, "group": question.group}))


if __name__ == "__main__":
    main()
