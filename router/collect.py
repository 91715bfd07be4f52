"""`outlay collect`: runs labelled prompts through the plans of a configuration and logs all that was seen, for `outlay fit` to learn from.

A row of the log is one prompt with nested traces: `samples` independent, scored draws of every backend (so that every best-of-n up to
that is in it), and each revision chain and tree search of the policies, run to its end without stopping early. The log is
appended to row by row, so an interruption loses only what was under way, and the same command goes on where it ended.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from adapters.answers import normalise
from adapters.errors import BackendError
from adapters.types import Call, ChatRequest, Choice, Price, Verifier
from policies.plans import BestOfN, Plan, Revise, Single, TreeSearch
from router.candidates import Candidate
from router.errors import ConfigError
from router.parts import Parts
from router.run import Run, Scored
from router.strategies import STRATEGIES

VERSION = 1


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt whose answers can be marked: by its gold answer, or by a verifier that is never wrong."""

    prompt: str
    gold: str | None = None
    group: str | None = None
    """Near-duplicates share one, so that they fall on the same side of a split; unset: each prompt is its own."""


@dataclass(frozen=True)
class Plans:
    """What is run for each prompt."""

    samples: Mapping[str, int]
    """By backend."""
    chains: Sequence[Plan] = ()
    """Revisions and searches."""
    verifiers: Sequence[str] = ()
    """Each sample is scored by all of these."""


@dataclass
class Collector:
    """Runs prompts and writes rows."""

    parts: Parts
    plans: Plans
    truth: Verifier | None = None
    concurrency: int = 4
    max_cost_usd: float = float("inf")
    spent_usd: float = field(default=0.0, init=False)

    async def rows(self, prompts: Iterable[Labelled]) -> AsyncGenerator[dict[str, Any], None]:
        """One row a prompt, in the order in which they are finished. Ends early once `max_cost_usd` is spent."""
        waiting, running = iter(prompts), set[asyncio.Task[dict[str, Any]]]()
        try:
            while True:
                for labelled in self._next(waiting, self.concurrency - len(running)):
                    running.add(asyncio.create_task(self.row(labelled)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _next(self, waiting: Iterator[Labelled], n: int) -> Iterator[Labelled]:
        for _ in range(n):
            if self.spent_usd >= self.max_cost_usd or (labelled := next(waiting, None)) is None:
                return
            yield labelled

    async def row(self, labelled: Labelled) -> dict[str, Any]:
        """Everything of one prompt. A plan that fails is noted and left out."""
        runs = [self._fixed(labelled, name, n) for name, n in self.plans.samples.items()]
        runs += [self._chain(labelled, plan) for plan in self.plans.chains]
        traces = [await run for run in runs]
        self.spent_usd += sum(trace["cost_usd"] for trace in traces)
        row = {"version": VERSION, "prompt": labelled.prompt, "group": labelled.group or labelled.prompt, "traces": traces}
        return row | ({"gold": labelled.gold} if labelled.gold is not None else {})

    # --- one trace ----------------------------------------------------------------------------------------------------

    async def _fixed(self, labelled: Labelled, backend: str, n: int) -> dict[str, Any]:
        """`n` independent samples: the first drawn as a single answer (whose latency counts), the rest in one batch."""
        run, request = self._run(), _request(labelled)
        await self._carry_out(Single(backend=backend), request, run)
        if n > 1:
            await self._carry_out(BestOfN(backend=backend, n=n - 1, batch=n - 1, select="majority"), request, run)
        return await self._trace(labelled, f"sample({backend})", run, run.pool)

    async def _chain(self, labelled: Labelled, plan: Plan) -> dict[str, Any]:
        run = self._run()
        chosen = await self._carry_out(plan, _request(labelled), run)
        return await self._trace(labelled, plan.key, run, run.pool, chosen)

    async def _carry_out(self, plan: Plan, request: ChatRequest, run: Run) -> Candidate | None:
        try:
            return await STRATEGIES[plan.kind](plan, request, run)
        except BackendError as error:
            run.degraded.add(f"{plan.key}: {error}")
            return None

    def _run(self) -> Run:
        return Run(self.parts.backends, self.parts.verifiers)

    async def _trace(
        self, labelled: Labelled, name: str, run: Run, answers: Sequence[Candidate], chosen: Candidate | None = None
    ) -> dict[str, Any]:
        cost, latency = run.spent_usd, run.elapsed_s
        calls = [[c.kind, c.target, c.n, c.input_tokens, c.output_tokens, round(c.latency_s, 5), c.cached_tokens] for c in run.calls]
        marks = await self._mark(labelled, [answer.text for answer in answers])
        scores = {} if chosen is not None else await self._scores(labelled, answers, run)
        rows = [
            {"text": answer.text, "correct": mark}
            | ({"score": answer.raw_score} if answer.raw_score is not None else {})
            | ({"scores": {name: said[i].raw for name, said in scores.items()}} if scores else {})
            | ({"clusters": alike} if (alike := {name: said[i].cluster for name, said in scores.items() if said[i].cluster}) else {})
            for i, (answer, mark) in enumerate(zip(answers, marks, strict=True))
        ]
        trace = {"plan": name, "answers": rows, "calls": calls, "cost_usd": cost, "latency_s": round(latency, 5)}
        if chosen is not None:
            trace["chosen"] = next((i for i, answer in enumerate(answers) if answer.choice is chosen.choice), None)
        return trace | ({"failed": sorted(run.degraded)} if run.degraded else {})

    async def _mark(self, labelled: Labelled, texts: Sequence[str]) -> list[float]:
        """1 for a right answer, 0 for a wrong one."""
        if self.truth is not None:
            verdicts = await self.truth.score(_request(labelled), [Choice(text) for text in texts], Call(Price()))
            return [float(verdict.score or 0.0) for verdict in verdicts]
        assert labelled.gold is not None
        gold = normalise(labelled.gold)
        return [float(normalise(text) == gold) for text in texts]

    async def _scores(self, labelled: Labelled, answers: Sequence[Candidate], run: Run) -> dict[str, list[Scored]]:
        choices = [answer.choice for answer in answers]
        return {name: await run.score(name, _request(labelled), choices) for name in self.plans.verifiers}


def plans_of(parts: Parts, samples: int, samples_dear: int, verifiers: Sequence[str]) -> Plans:
    """What the policies can run: `samples` draws of the backend that most plans use, `samples_dear` of the others; all chains."""
    plans = [plan for policy in parts.policies.values() for plan in policy.all_plans]
    used = [name for plan in plans for name in plan.backends]
    most = max(used, key=used.count)
    counts = {name: samples if name == most else samples_dear for name in dict.fromkeys(used)}
    chains = {plan.key: plan for plan in plans if isinstance(plan, Revise | TreeSearch)}
    return Plans(counts, tuple(chains.values()), tuple(verifiers))


def read_prompts(path: Path, need_gold: bool) -> list[Labelled]:
    """JSON lines with `prompt`, and `gold` and `group` where there are. Raises ConfigError with the line that is wrong."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            found.append(Labelled(str(row["prompt"]), row.get("gold"), row.get("group")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(f'{path}:{number}: expected a JSON object such as {{"prompt": "...", "gold": "42"}}') from None
        if need_gold and found[-1].gold is None:
            raise ConfigError(f"{path}:{number}: no `gold`; give one, or name a verifier that knows right from wrong with --truth")
    return found


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log, gzipped or not; a last line cut off by an interruption is left out."""
    rows: list[dict[str, Any]] = []
    with suppress(FileNotFoundError, EOFError), open_log(path, "rt") as lines:
        for line in lines:
            with suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def open_log(path: Path, mode: Literal["rt", "at"]) -> IO[str]:
    """A log as text; it is gzipped where its name ends in .gz."""
    return gzip.open(path, mode, encoding="utf-8") if path.suffix == ".gz" else path.open(mode, encoding="utf-8")


async def collect(collector: Collector, prompts: Sequence[Labelled], out: Path, progress: Callable[[int, float], None]) -> int:
    """Append a row to `out` for each prompt that it does not hold yet; the number of rows written."""
    have = {row["prompt"] for row in read_log(out)}
    todo, written = [labelled for labelled in prompts if labelled.prompt not in have], 0
    with open_log(out, "at") as log:
        if have:
            log.write("\n")  # the last line may have been cut off; an empty one does no harm
        async with aclosing(collector.rows(todo)) as rows:
            async for row in rows:
                log.write(json.dumps(row) + "\n")
                log.flush()
                written += 1
                progress(len(prompts) - len(todo) + written, collector.spent_usd)
    return written


def _request(labelled: Labelled) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": labelled.prompt},))
