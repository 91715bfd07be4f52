"""Plays policies on a log of `outlay collect`: the service's own pipeline, over answers that were recorded and a clock that they move.

What is asked of a backend is the next recorded answer of it, what a verifier says is what it said, and a chain (a revision, a search) is
its recorded trace, taken only as far as the policy wants it. So a decision here is a decision there, and a policy can be judged on
thousands of prompts in seconds. Where a log holds too few answers for a plan, the plan ends with what there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.errors import BackendRefused
from adapters.types import Backend, Call, ChatRequest, Choice, Delta, Features, Verdict, Verifier
from difficulty.conversation import conversation_text
from difficulty.errors import ProbeUnavailable
from difficulty.probe import Estimate
from policies.facts import Market
from policies.plans import Revise, TreeSearch
from policies.policy import Policy
from router.candidates import Candidate, best
from router.fit import samples
from router.parts import Parts
from router.pipeline import Router
from router.pipeline_types import Ask
from router.run import CallRecord, Run, Scored
from router.strategies import STRATEGIES
from router.strategies.answers import candidate

Row = Mapping[str, Any]
NAME = "played"


@dataclass(frozen=True, slots=True)
class Played:
    """How one prompt went."""

    prompt: str
    group: str
    right: float
    """1 if the answer that went out is right, as the log's marks say."""
    chance: float
    """What the belief says of that."""
    cost_usd: float
    latency_s: float
    actions: tuple[str, ...]
    """Keys of the plans that were run, in order."""
    answers: int
    """Answers that were bought."""
    decision: Mapping[str, Any]


def play(
    parts: Parts,
    policy: Policy,
    rows: Sequence[Row],
    estimates: Mapping[str, Estimate],
    progress: Callable[[int], object] = lambda done: None,
) -> list[Played]:
    """The rows under one policy, in their order. `estimates` are the probe's, by prompt; a prompt without one gets none."""
    player = Player(parts, policy, estimates)

    async def all_rows() -> list[Played]:
        found = []
        for done, row in enumerate(rows, 1):
            found.append(await player.answer(row))
            progress(done)
        return found

    return asyncio.run(all_rows())


def estimates_of(probe: Any, rows: Sequence[Row], batch: int = 64) -> dict[str, Estimate]:
    """The probe's estimates of the rows' prompts; `probe` is a `difficulty.probe.Probe`."""
    prompts = [str(row["prompt"]) for row in rows]
    found: dict[str, Estimate] = {}
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        texts = [conversation_text([{"role": "user", "content": prompt}]) for prompt in part]
        found |= zip(part, probe.estimate(texts), strict=True)
    return found


class Player:
    """A router whose outside world is one row of a log at a time."""

    def __init__(self, parts: Parts, policy: Policy, estimates: Mapping[str, Estimate]) -> None:
        self.tape = Tape(parts.market)
        world = replace(
            parts,
            backends={name: TapeBackend(name, backend, self.tape) for name, backend in parts.backends.items()},
            verifiers={name: TapeVerifier(name, verifier, self.tape) for name, verifier in parts.verifiers.items()},
            policies={NAME: policy},
            default_policy=NAME,
            probe=TapeProbe(estimates, self.tape),
            cache=None,
        )
        chains = {Revise.model_fields["kind"].default: self._chain, TreeSearch.model_fields["kind"].default: self._chain}
        self.router = Router(world, strategies=STRATEGIES | chains, clock=lambda: self.tape.now_s)

    async def answer(self, row: Row) -> Played:
        """One prompt."""
        self.tape.load(row, list(self.router.parts.backends))
        outcome = await self.router.answer(Ask(ChatRequest(({"role": "user", "content": row["prompt"]},)), f"outlay/{NAME}"))
        chosen, block = outcome.candidates[0], outcome.decision
        return Played(
            row["prompt"],
            row["group"],
            self.tape.marks[chosen.text],
            block["chance"],
            outcome.cost_usd,
            outcome.latency_s,
            tuple(action["plan"] for action in block["actions"]),
            sum(action["answers"] for action in block["actions"]),
            block,
        )

    async def _chain(self, spec: Revise | TreeSearch, request: ChatRequest, run: Run) -> Candidate:
        """A recorded chain: a revision attempt by attempt while the policy wants more, a search as a whole."""
        trace = self.tape.chains.get(spec.key)
        if trace is None or not trace["answers"]:
            raise BackendRefused(spec.backend, f"the log holds no {spec.key}")
        answers = [self._candidate(spec, answer, run) for answer in trace["answers"]]
        if isinstance(spec, TreeSearch):
            self._charge(trace["calls"], run)
            run.offer(*answers)
            return answers[trace["chosen"] or 0]
        for answer, calls in zip(answers, _by_attempt(trace["calls"]), strict=False):
            self._charge(calls, run)
            run.offer(answer)
            if answer.score is None or not run.next_draws(run.pool):
                break
        chosen = best([answer for answer in answers if answer in run.pool])
        assert chosen is not None, "the first answer was offered"
        return chosen

    def _candidate(self, spec: Revise | TreeSearch, answer: Row, run: Run) -> Candidate:
        raw = answer.get("score")
        score = None if raw is None else run.calibrate.get(spec.verifier, float)(raw)
        return candidate(spec, Choice(answer["text"]), Scored(score, raw), run)

    def _charge(self, calls: Sequence[Sequence[Any]], run: Run) -> None:
        for kind, target, n, tokens_in, tokens_out, seconds, *more in calls:
            cached = self.tape.cached(target, sum(more))  # old logs have no such element
            cost, started = self.tape.market.cost_usd(target, tokens_in, tokens_out, cached), run.elapsed_s
            self.tape.now_s += seconds
            run.calls.append(CallRecord(kind, target, n, tokens_in, tokens_out, cost, started, seconds, "ok", cached_tokens=cached))


def _by_attempt(calls: Sequence[Sequence[Any]]) -> list[list[Sequence[Any]]]:
    """The calls of a revision, one list an attempt: an answer and what scored it."""
    attempts: list[list[Sequence[Any]]] = []
    for call in calls:
        if call[0] == "generate":
            attempts.append([])
        attempts[-1].append(call)
    return attempts


# --- the outside world, as recorded -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded sample."""

    text: str
    tokens: float
    """Its share of its call's output tokens, by length."""
    scores: Mapping[str, float | None]
    clusters: Mapping[str, str]
    """By verifier, where it could tell."""


@dataclass
class Tape:
    """One row of a log, and how far it was played."""

    market: Market
    now_s: float = 0.0
    prompt: str = ""
    input_tokens: int = 0
    left: dict[str, list[Answer]] = field(default_factory=dict)
    """Samples not yet given, by backend, the next one last."""
    chains: dict[str, Row] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)
    """1 for right, 0 for wrong, by an answer's text."""
    said: dict[str, Answer] = field(default_factory=dict)
    """By text of a sample."""
    read: set[str] = field(default_factory=set)
    """Backends and verifiers that have seen the prompt."""

    def load(self, row: Row, backends: Sequence[str]) -> None:
        """Start on a row."""
        drawn = {name: trace for name, trace in samples(row).items() if name in backends}
        self.prompt, self.input_tokens = row["prompt"], next(call[3] for trace in drawn.values() for call in trace["calls"])
        self.left = {name: answers(trace)[::-1] for name, trace in drawn.items()}
        self.chains = {trace["plan"]: trace for trace in row["traces"]}
        self.marks = {a["text"]: a["correct"] for trace in row["traces"] for a in trace["answers"]}
        self.said = {answer.text: answer for left in self.left.values() for answer in left}
        self.read = set()

    def cached(self, name: str, tokens: int) -> int:
        """Of so many tokens that a cache held when they were recorded: those that it would hold by now, the prompt once it was read."""
        known = name in self.read
        self.read.add(name)
        prompt = self.input_tokens if name in self.market.caches else 0
        return max(tokens, prompt) if known else max(0, tokens - self.input_tokens)

    def prompts(self, name: str, times: int) -> int:
        """Input tokens from the cache of who reads the prompt so many times now."""
        return self.cached(name, times * self.input_tokens) if name in self.market.caches else 0

    async def wait(self, seconds: float) -> None:
        """Let so much time pass; calls made at once wait at once."""
        until = self.now_s + seconds
        await asyncio.sleep(0)
        self.now_s = max(self.now_s, until)


def answers(trace: Row) -> list[Answer]:
    """The samples of a trace with their tokens; a call's output is shared out by length."""
    found: list[Answer] = []
    rows = trace["answers"]
    for _, _, n, _, tokens_out, *_ in (call for call in trace["calls"] if call[0] == "generate"):
        part = rows[len(found) : len(found) + n]
        whole = sum(len(row["text"]) + 1 for row in part)
        found += [_answer(row, tokens_out * (len(row["text"]) + 1) / whole) for row in part]
    return found


def _answer(row: Row, tokens: float) -> Answer:
    return Answer(row["text"], tokens, row.get("scores", {}), row.get("clusters", {}))


class TapeBackend:
    """Gives the recorded samples of a backend, one after the other."""

    def __init__(self, name: str, backend: Backend, tape: Tape) -> None:
        self.name, self.price, self.features = name, backend.price, Features(native_n=backend.features.native_n)
        self._tape = tape

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """The next `request.n`, or as many as are left. Raises BackendRefused where none is."""
        left = self._tape.left.get(self.name, [])
        if not left:
            raise BackendRefused(self.name, "the log holds no more answers of it")
        drawn = [left.pop() for _ in range(min(request.n, len(left)))]
        call.input_tokens += self._tape.input_tokens
        call.cached_tokens += self._tape.prompts(self.name, 1)
        call.output_tokens += round(sum(answer.tokens for answer in drawn))
        call.choices += [Choice(answer.text) for answer in drawn]
        await self._tape.wait(self._tape.market.curves.latency_of(self.name).mean(max(answer.tokens for answer in drawn)))

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, in one piece."""
        await self.complete(request, call)
        for index, choice in enumerate(call.choices):
            yield Delta(choice.text, index, choice.finish_reason)

    def count_tokens(self, request: ChatRequest) -> int:
        """As the log counted them."""
        return self._tape.input_tokens

    async def aclose(self) -> None:
        """Nothing to release."""


class TapeVerifier:
    """Says of a recorded answer what was said of it."""

    def __init__(self, name: str, verifier: Verifier, tape: Tape) -> None:
        self.name, self.price, self.scores_prefixes = name, verifier.price, verifier.scores_prefixes
        self._tape = tape

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """The recorded verdicts; of an answer read once, equal ones are free."""
        tape = self._tape
        distinct = {choice.text for choice in choices}
        for text in distinct:
            call.input_tokens += tape.input_tokens + round(tape.said[text].tokens)
        call.cached_tokens += tape.prompts(self.name, len(distinct))
        await tape.wait(tape.market.curves.latency_of(self.name).mean(0))
        said = [tape.said[choice.text] for choice in choices]
        return [Verdict(answer.scores.get(self.name), cluster=answer.clusters.get(self.name, "")) for answer in said]

    async def aclose(self) -> None:
        """Nothing to release."""


class TapeProbe:
    """The estimates that were made of the log's prompts."""

    def __init__(self, estimates: Mapping[str, Estimate], tape: Tape) -> None:
        self._estimates, self._tape = estimates, tape

    async def estimate(self, text: str) -> Estimate:
        """Of the row that is being played. Raises ProbeUnavailable where there is none."""
        if (found := self._estimates.get(self._tape.prompt)) is None:
            raise ProbeUnavailable("unreadable", "no estimate of this prompt")
        return found

    async def aclose(self) -> None:
        """Nothing to release."""
