"""Revision: small learns to answer again after its own wrong attempts and a verdict that names the doubtful step.

A training conversation is wrong attempt, verdict, …, right answer; the loss counts the right answer alone. The right answer continues
the last attempt from before the doubted step, because that is the only use a verdict has: it keeps what the reward model believes in and
changes what it doubts. Where no sampled continuation is right, the puzzle's own solution stands in.

The verdict's wording is what Outlay's `revise` strategy sends to any model; the rule that picks the step is its twin, kept here for
training data only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from fleet.data import SIZES, Ints, Rows, training_rows
from fleet.fitting import BatchSource
from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, check, prompt
from fleet.reward import Calibration, Floats, step_logits
from fleet.rollouts import Group, chat_ids
from fleet.sampling import sample
from fleet.tokens import END, PAD, build_tokenizer

FIRST_STEP_FLOOR = 0.1
MOST_ATTEMPTS = 3


def doubted_step(probabilities: Sequence[float]) -> int:
    """The 1-based step to name: the first whose chance is below half of the step's before (the first step: below 0.1), else the lowest."""
    floors = [FIRST_STEP_FLOOR, *(0.5 * chance for chance in probabilities[:-1])]
    for index, (chance, floor) in enumerate(zip(probabilities, floors, strict=True), start=1):
        if chance < floor:
            return index
    return int(np.argmin(probabilities)) + 1


def verdict(step: int | None) -> str:
    """The user turn that asks for another attempt."""
    return "That looks wrong. Try again." if step is None else f"Step {step} looks wrong. Try again."


@dataclass(frozen=True)
class Chain:
    """Wrong attempts at one puzzle with the verdict on each, and a right answer once there is one."""

    numbers: tuple[int, ...]
    target: int
    phrasing: int
    solution: str
    attempts: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ()
    right: str | None = None

    def ids(self, tokenizer: PreTrainedTokenizerFast) -> list[int]:
        """Tokens of the conversation up to where the next answer starts."""
        turns = [{"role": "user", "content": prompt(Puzzle(self.numbers, self.target), self.phrasing)}]
        for attempt, said in zip(self.attempts, self.verdicts, strict=True):
            turns += [{"role": "assistant", "content": attempt}, {"role": "user", "content": said}]
        ids: list[int] = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        return ids

    @property
    def first_prompt(self) -> str:
        """The puzzle's own prompt, without attempts."""
        return prompt(Puzzle(self.numbers, self.target), self.phrasing)


def open_chains(groups: Sequence[Group], rng: np.random.Generator) -> list[tuple[Chain, str]]:
    """A chain for every group with a wrong answer, and that answer as its first attempt."""
    opened = []
    for group in groups:
        wrong = [answer for answer, right in zip(group.answers, group.correct, strict=True) if not right]
        if wrong:
            chain = Chain(group.numbers, group.target, int(rng.integers(len(PHRASINGS))), group.solution)
            opened.append((chain, wrong[int(rng.integers(len(wrong)))]))
    return opened


def judge(chains: Sequence[Chain], attempts: Sequence[str], reward: Any, calibration: Calibration) -> list[int]:
    """The doubted step of each attempt."""
    tokenizer = build_tokenizer()
    prompts = [chat_ids(tokenizer, chain.first_prompt) for chain in chains]
    scores: list[Floats] = [calibration(logits) for logits in step_logits(reward, prompts, attempts)]
    return [doubted_step(list(chances)) for chances in scores]


def collect(
    model: Any,
    reward: Any,
    calibration: Calibration,
    groups: Sequence[Group],
    seed: int,
    n: int = 4,
    plain_share: float = 0.1,
) -> list[Chain]:
    """Finished chains of one to three wrong attempts. Each round continues from before the doubted step, n times; a right continuation
    finishes a chain, a wrong one is the next round's attempt. A small share of verdicts names no step."""
    rng = np.random.default_rng(seed)
    finished: list[Chain] = []
    current = open_chains(groups, rng)
    for round_ in range(MOST_ATTEMPTS):
        if not current:
            break
        chains, attempts = [chain for chain, _ in current], [attempt for _, attempt in current]
        steps = judge(chains, attempts, reward, calibration)
        said = [verdict(None if rng.random() < plain_share else step) for step in steps]
        judged = [_extend(*triple) for triple in zip(chains, attempts, said, strict=True)]
        kept = [_before(attempt, step) for attempt, step in zip(attempts, steps, strict=True)]
        tried = _continue(model, judged, kept, n, seed + round_)
        finished += [_finish(chain, answers, rng) for chain, answers in zip(judged, tried, strict=True)]
        current = _still_wrong(judged, tried, rng)
    return finished


def collect_again(
    model: Any, reward: Any, calibration: Calibration, groups: Sequence[Group], seed: int, n: int = 2, temperature: float = 0.7
) -> list[Chain]:
    """Finished chains played by the revising model itself, so that it learns from the conversations it will really have.

    Measured after the first pass: going on from before the doubted step is right for 9 % of failed answers, a fresh sample for 36 %.
    So the right answer here is whatever worked: a right revision, else a right sample of the same puzzle, else its solution. Revisions
    are drawn cooler than they are served, which sharpens what is learned (rejection sampling).
    """
    rng, tokenizer = np.random.default_rng(seed), build_tokenizer()
    samples = {(group.numbers, group.target): _right_answers(group) for group in groups}
    finished: list[Chain] = []
    current = open_chains(groups, rng)
    for round_ in range(MOST_ATTEMPTS):
        if not current:
            break
        judged = _told([Trial(chain, (*chain.attempts, attempt), False) for chain, attempt in current], reward, calibration)
        sampled = sample(model, [chain.ids(tokenizer) for chain in judged], n, seed + round_, temperature, label=f"revisions {round_ + 1}")
        tried = [tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in sampled]
        finished += [
            _finish(chain, answers, rng, samples[chain.numbers, chain.target]) for chain, answers in zip(judged, tried, strict=True)
        ]
        current = _still_wrong(judged, tried, rng)
    return finished


def _right_answers(group: Group) -> tuple[str, ...]:
    return tuple(answer for answer, right in zip(group.answers, group.correct, strict=True) if right)


def _extend(chain: Chain, attempt: str, said: str) -> Chain:
    return replace(chain, attempts=(*chain.attempts, attempt), verdicts=(*chain.verdicts, said))


def _before(attempt: str, step: int) -> str:
    """The text of the steps before a 1-based step, with the line end that the next step starts after."""
    return "".join(line + "\n" for line in attempt.split("\n")[: step - 1])


def _continue(model: Any, chains: Sequence[Chain], kept: Sequence[str], n: int, seed: int) -> list[list[str]]:
    """n answers to each chain's puzzle that begin with what was kept; earlier attempts are not shown."""
    tokenizer = build_tokenizer()
    starts = [[*chat_ids(tokenizer, chain.first_prompt), *tokenizer(text)["input_ids"]] for chain, text in zip(chains, kept, strict=True)]
    sampled = sample(model, starts, n, seed, label="continuations")
    return [
        [text + more for more in tokenizer.batch_decode(rows, skip_special_tokens=True)] for text, rows in zip(kept, sampled, strict=True)
    ]


def _finish(chain: Chain, answers: Sequence[str], rng: np.random.Generator, others: Sequence[str] = ()) -> Chain:
    """The chain with a right answer: of these, else of the others, else the puzzle's solution."""
    right = [answer for answer in answers if check(chain.first_prompt, answer) == 1.0] or list(others)
    return replace(chain, right=right[int(rng.integers(len(right)))] if right else chain.solution)


def _still_wrong(chains: Sequence[Chain], answers: Sequence[list[str]], rng: np.random.Generator) -> list[tuple[Chain, str]]:
    going = []
    for chain, tried in zip(chains, answers, strict=True):
        wrong = [answer for answer in tried if check(chain.first_prompt, answer) == 0.0]
        if wrong:
            going.append((chain, wrong[int(rng.integers(len(wrong)))]))
    return going


def revision_batches(chains: Sequence[Chain], per_size: int = 32, base_per_size: int = 64) -> BatchSource:
    """Conversations of one size and length together, and about as many scored tokens of ordinary puzzles, so that a first answer
    does not get worse."""
    tokenizer = build_tokenizer()
    encoded: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = {}
    for chain in chains:
        assert chain.right is not None, "collect() finishes every chain"
        answer = [*tokenizer(chain.right)["input_ids"], END]
        encoded.setdefault((len(chain.numbers), len(chain.attempts)), []).append((chain.ids(tokenizer), answer))

    def batches(rng: np.random.Generator) -> list[Rows]:
        attempts = rng.integers(1, MOST_ATTEMPTS + 1, len(SIZES))
        talks = [_talk_rows(rng, encoded[k, int(m)], per_size) for k, m in zip(SIZES, attempts, strict=True)]
        return talks + [training_rows(rng, k, base_per_size) for k in SIZES]

    return batches


def _talk_rows(rng: np.random.Generator, pairs: list[tuple[list[int], list[int]]], n: int) -> Rows:
    chosen = [pairs[index] for index in rng.integers(0, len(pairs), n)]
    length = max(len(before) + len(answer) for before, answer in chosen)
    ids: Ints = np.full((n, length), PAD)
    scored = np.zeros((n, length), dtype=bool)
    for row, (before, answer) in enumerate(chosen):
        end = len(before) + len(answer)
        ids[row, :end] = before + answer
        scored[row, len(before) : end] = True
    return Rows(ids, scored)


@dataclass(frozen=True)
class Trial:
    """A chain that was played to its end: every answer in order, and whether the last one is right."""

    chain: Chain
    answers: tuple[str, ...]
    solved: bool


def play(
    model: Any, reward: Any, calibration: Calibration, groups: Sequence[Group], seed: int, chains_per_puzzle: int = 4, rounds: int = 4
) -> list[Trial]:
    """Revision as the strategy does it, until the checker is content or the rounds are over."""
    rng, tokenizer = np.random.default_rng(seed), build_tokenizer()
    fresh = [Chain(g.numbers, g.target, int(rng.integers(len(PHRASINGS))), g.solution) for g in groups for _ in range(chains_per_puzzle)]
    done: list[Trial] = []
    going = fresh
    for attempt in range(1, rounds + 1):
        sampled = sample(model, [chain.ids(tokenizer) for chain in going], 1, seed + attempt, label=f"round {attempt}")
        answers = tokenizer.batch_decode([rows[0] for rows in sampled], skip_special_tokens=True)
        trials = [
            Trial(chain, (*chain.attempts, answer), check(chain.first_prompt, answer) == 1.0)
            for chain, answer in zip(going, answers, strict=True)
        ]
        done += [trial for trial in trials if trial.solved or attempt == rounds]
        going = _told([trial for trial in trials if not trial.solved], reward, calibration) if attempt < rounds else []
        if not going:
            break
    return done


def _told(trials: Sequence[Trial], reward: Any, calibration: Calibration) -> list[Chain]:
    """Failed trials as chains that end with the verdict on the last answer."""
    chains, attempts = [trial.chain for trial in trials], [trial.answers[-1] for trial in trials]
    steps = judge(chains, attempts, reward, calibration)
    return [_extend(chain, attempt, verdict(step)) for chain, attempt, step in zip(chains, attempts, steps, strict=True)]


def as_groups(trials: Sequence[Trial]) -> list[Group]:
    """The revised answers (not the first ones) as marked answers, for the reward model to learn from."""
    return [
        Group(t.chain.numbers, t.chain.target, t.chain.solution, t.answers[1:], (*[False] * (len(t.answers) - 2), t.solved))
        for t in trials
        if len(t.answers) > 1
    ]


@dataclass(frozen=True)
class Round:
    """One round of revision beside resampling: of the puzzles still unsolved, the share solved by this attempt."""

    attempt: int
    revised: float
    resampled: float
    unsolved: int


def compare(trials: Sequence[Trial], groups: Sequence[Group], rounds: int = 4) -> list[Round]:
    """Revision chains against independent samples of the same puzzles, with the same number of attempts. `groups` carry the independent
    samples, at least `rounds` each."""
    failing = [float(np.mean([_all_fail(group, draws) for group in groups])) for draws in range(rounds + 1)]
    results = []
    for attempt in range(1, rounds + 1):
        tried = [trial for trial in trials if len(trial.answers) >= attempt]
        solved = sum(trial.solved and len(trial.answers) == attempt for trial in tried)
        resampled = 1 - failing[attempt] / failing[attempt - 1]
        results.append(Round(attempt, solved / max(1, len(tried)), resampled, len(tried)))
    return results


def _all_fail(group: Group, draws: int) -> float:
    """The chance that `draws` of a group's answers, drawn without replacement, are all wrong."""
    n, wrong = len(group.correct), len(group.correct) - sum(group.correct)
    return float(np.prod([(wrong - i) / (n - i) for i in range(draws)]))
