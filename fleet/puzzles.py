"""What the fleet is asked, and the exact check of an answer. Pure Python: no torch, no network, no `eval`.

    PuzzleError                 what a prompt or a puzzle lacks, and what would have been readable

A prompt is read leniently (any wording with a marked target, 3–6 numbers of 1–13), an answer strictly: every given number used
exactly once, exact fractions, the target reached. Answers may be steps ("13-9=4 ; 4 4 10", or Tree of Thoughts' "13 - 9 = 4 (left:
4 4 10)"), an "Answer: …" line, or one expression. Phrasings live in `phrasing.py`, the split in `split.py`.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from fleet.expressions import ExpressionError, leaves, parse_expression, value
from fleet.phrasing import PHRASINGS, render
from fleet.split import LARGEST, SMALLEST, Split, split

__all__ = ["Puzzle", "PuzzleError", "Verdict", "check", "check_result", "generate", "parse", "prompt", "solve", "split"]

LARGEST_RESULT = 200
LARGEST_TARGET = 100
LONGEST_ANSWER = 2000
LONGEST_PROMPT = 2000


class PuzzleError(ValueError):
    """A prompt is no puzzle, or a puzzle is out of range; the message says what would have been readable."""


@dataclass(frozen=True)
class Puzzle:
    """3 to 6 numbers of 1–13 and a target of 1–100."""

    numbers: tuple[int, ...]
    target: int

    def __post_init__(self) -> None:
        if not 3 <= len(self.numbers) <= 6:
            raise PuzzleError(f"found {len(self.numbers)} numbers {list(self.numbers)}; a puzzle has 3 to 6{_HOW}")
        wrong = [number for number in self.numbers if not SMALLEST <= number <= LARGEST]
        if wrong:
            raise PuzzleError(f"numbers {wrong} are out of range; each is {SMALLEST}-{LARGEST}{_HOW}")
        if not 1 <= self.target <= LARGEST_TARGET:
            raise PuzzleError(f"target {self.target} is out of range; it is 1-{LARGEST_TARGET}{_HOW}")


_HOW = '; for example "Use 4 9 10 13 to make 24."'
_TARGET = re.compile(r"(?:make|target|get|reach|goal|equals?|obtain)\s*(?:is|of|to|:|=)?\s*(\d+)", re.IGNORECASE)


def parse(text: str) -> Puzzle:
    """The puzzle that a prompt asks for; raises PuzzleError."""
    if len(text) > LONGEST_PROMPT:
        raise PuzzleError(f"the prompt has {len(text)} characters; a puzzle is one sentence{_HOW}")
    target = _TARGET.search(text)
    if target is None:
        raise PuzzleError(f'no target found: nothing like "make 24" or "Target: 24"{_HOW}')
    rest = text[: target.start()] + " " + text[target.end() :]
    numbers = [_bounded(digits) for digits in re.findall(r"\d+", rest)]
    return Puzzle(tuple(numbers), _bounded(target[1]))


def _bounded(digits: str) -> int:
    return int(digits[:6])


def prompt(puzzle: Puzzle, phrasing: int = 0) -> str:
    """The puzzle as text, under one of the known phrasings."""
    return render(puzzle.numbers, puzzle.target, PHRASINGS[phrasing])


def generate(rng: random.Random, k: int, side: Split | None = None) -> Puzzle:
    """A random solvable puzzle of k numbers, from one side of the split if asked."""
    while True:
        numbers = tuple(rng.randint(SMALLEST, LARGEST) for _ in range(k))
        target = _random_result(rng, list(numbers))
        if target is not None and target <= LARGEST_TARGET and side in (None, split(numbers)):
            return Puzzle(numbers, target)


def _random_result(rng: random.Random, state: list[int]) -> int | None:
    """Join random pairs by random valid operators until one number is left."""
    while len(state) > 1:
        first, second = sorted(rng.sample(range(len(state)), 2), reverse=True)
        large, small = sorted((state.pop(first), state.pop(second)), reverse=True)
        results = [large + small, large - small, large * small] + ([large // small] if large % small == 0 else [])
        valid = [result for result in results if 1 <= result <= LARGEST_RESULT]
        if not valid:
            return None
        state.append(rng.choice(valid))
    return state[0]


def solve(puzzle: Puzzle) -> str | None:
    """One expression that reaches the target, by brute force over exact fractions; None if there is none."""
    start = tuple((Fraction(number), str(number)) for number in puzzle.numbers)
    return _search(start, Fraction(puzzle.target), set())


Term = tuple[Fraction, str]


def _search(state: tuple[Term, ...], target: Fraction, seen: set[tuple[Fraction, ...]]) -> str | None:
    if len(state) == 1:
        return state[0][1] if state[0][0] == target else None
    key = tuple(sorted(number for number, _ in state))
    if key in seen:
        return None
    seen.add(key)
    for i, j in combinations(range(len(state)), 2):
        rest = tuple(term for index, term in enumerate(state) if index not in (i, j))
        for joined in _joins(state[i], state[j]):
            found = _search((*rest, joined), target, seen)
            if found is not None:
                return found
    return None


def _joins(one: Term, two: Term) -> Iterator[Term]:
    (a, left), (b, right) = one, two
    yield a + b, f"({left}+{right})"
    yield a * b, f"({left}*{right})"
    yield a - b, f"({left}-{right})"
    yield b - a, f"({right}-{left})"
    if b:
        yield a / b, f"({left}/{right})"
    if a:
        yield b / a, f"({right}/{left})"


@dataclass(frozen=True)
class Verdict:
    """Whether an answer is right, and if not, why."""

    correct: bool
    reason: str


def check(prompt: str, answer: str) -> float:
    """1.0 for a right answer to the prompt, else 0.0; never raises on a bad answer. Raises PuzzleError on a prompt that is no puzzle."""
    return 1.0 if check_result(prompt, answer).correct else 0.0


def check_result(prompt: str, answer: str) -> Verdict:
    """The same with the reason of a refusal. A final "Answer: …" line decides alone; else the steps, else one expression."""
    puzzle = parse(prompt)
    if len(answer) > LONGEST_ANSWER:
        return Verdict(False, f"the answer is longer than {LONGEST_ANSWER} characters")
    lines = [line for line in (raw.strip() for raw in _plain(answer).splitlines()) if line]
    if not lines:
        return Verdict(False, "the answer is empty")
    try:
        return _check_lines(puzzle, lines)
    except ExpressionError as error:
        return Verdict(False, str(error))


def _plain(answer: str) -> str:
    return answer.translate(str.maketrans("×÷−–·", "*/--*"))


_ANSWER = re.compile(r"^(?:final\s+)?answer\s*:\s*(.*)$", re.IGNORECASE)
_STEP = re.compile(r"^(?:steps?\s*\d*\s*:\s*)?(\d+(?:/\d+)?)\s*([-+*/])\s*(\d+(?:/\d+)?)\s*=\s*(\d+(?:/\d+)?)\s*(.*)$", re.IGNORECASE)


def _check_lines(puzzle: Puzzle, lines: list[str]) -> Verdict:
    final = _ANSWER.match(lines[-1])
    if final:
        return _check_expression(puzzle, final[1])
    steps = [_STEP.match(line) for line in lines]
    if len(lines) == 1 and not (len(puzzle.numbers) == 2 and steps[0]):
        return _check_expression(puzzle, lines[0])
    if None in steps:
        return Verdict(False, f"line {steps.index(None) + 1} is no step such as 13-9=4")
    return _check_steps(puzzle, [step for step in steps if step])


def _check_expression(puzzle: Puzzle, text: str) -> Verdict:
    left, equals, right = text.partition("=")
    tree = parse_expression(left)
    if Counter(leaves(tree)) != Counter(puzzle.numbers):
        return Verdict(False, f"uses {sorted(leaves(tree))} where {sorted(puzzle.numbers)} are given")
    if equals and value(parse_expression(right)) != puzzle.target:
        return Verdict(False, f"claims another result than {puzzle.target}")
    result = value(tree)
    return Verdict(result == puzzle.target, f"makes {result} of {puzzle.target}")


def _check_steps(puzzle: Puzzle, steps: list[re.Match[str]]) -> Verdict:
    state = Counter(Fraction(number) for number in puzzle.numbers)
    for index, step in enumerate(steps, start=1):
        problem = _take_step(state, step)
        if problem:
            return Verdict(False, f"step {index}: {problem}")
    left = sorted(state.elements())
    if left != [Fraction(puzzle.target)]:
        return Verdict(False, f"ends with {' '.join(map(str, left))}, not {puzzle.target}")
    return Verdict(True, f"makes {puzzle.target}")


def _take_step(state: Counter[Fraction], step: re.Match[str]) -> str | None:
    """Apply one step to the numbers left, in place; what is wrong with it, or None. Steps may list what is left; a wrong list is wrong."""
    a, b, claimed = (_fraction(step[group]) for group in (1, 3, 4))
    for used in (a, b):
        if state[used] == 0:
            return f"{used} is not there"
        state[used] -= 1
    if step[2] == "/" and b == 0:
        return "division by zero"
    result = {"+": a + b, "-": a - b, "*": a * b}[step[2]] if step[2] != "/" else a / b
    if result != claimed:
        return f"{step[0].strip()} is wrong arithmetic"
    state[result] += 1
    listed = [_fraction(number) for number in re.findall(r"\d+(?:/\d+)?", step[5])]
    if listed and Counter(listed) != +state:
        return "the numbers left are listed wrongly"
    return None


def _fraction(text: str) -> Fraction:
    above, _, below = text.partition("/")
    if below and not int(below[:12]):
        raise ExpressionError("division by zero")
    return Fraction(int(above[:12]), int(below[:12]) if below else 1)
