"""`outlay collect`: runs labelled prompts through the plans of a configuration and logs all that was seen, for `outlay fit` to learn from.

A row of the log is one prompt with nested traces: `samples` independent, scored draws of every backend (so that every best-of-n up to
that is in it), and each revision chain and tree search of the policies, run to its end without stopping early. The log is
appended to row by row, so an interruption loses only what was under way, and the same command goes on where it ended. What failed is
asked again then, in a new row of its prompt that takes over all that did not: of a prompt the last row holds.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from adapters.answers import normalise
from adapters.errors import AdapterError, BackendError
from adapters.types import Call, ChatRequest, Choice, Verifier
from policies.plans import BestOfN, Plan, Revise, Single, TreeSearch
from router.candidates import Candidate
from router.errors import ConfigError
from router.fit import SAMPLE, samples
from router.parts import Parts
from router.run import Run, Scored
from router.strategies import STRATEGIES

Row = Mapping[str, Any]
VERSION = 1
GZIP = b"\x1f\x8b\x08"
CHUNK = 1 << 16


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


@dataclass(frozen=True, slots=True)
class Collected:
    """How it went."""

    written: int
    """Rows."""
    failed: int
    """Of these, rows that are to be asked again."""
    left: int
    """Prompts that were not begun, for the ceiling or for a truth that failed."""
    trouble: str
    """What failed first."""


@dataclass
class Collector:
    """Runs prompts and writes rows."""

    parts: Parts
    plans: Plans
    truth: Verifier | None = None
    concurrency: int = 4
    max_cost_usd: float = float("inf")
    """Of the whole log."""
    spent_usd: float = field(default=0.0, init=False)
    dearest_usd: float | None = field(default=None, init=False)
    """What the dearest row cost."""
    unmarked: str = field(default="", init=False)
    """Why answers could not be marked."""

    async def rows(self, prompts: Iterable[Labelled], before: Mapping[str, Row] | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """One row a prompt, in the order in which they are finished; `before` are the rows so far, by prompt.

        No prompt is begun that may not fit under `max_cost_usd`, should it cost as much as the dearest so far; none, once the truth failed.
        """
        waiting, running, had = iter(prompts), set[asyncio.Task[dict[str, Any]]](), before or {}
        try:
            while True:
                while self._may_begin(len(running)) and (labelled := next(waiting, None)) is not None:
                    running.add(asyncio.create_task(self.row(labelled, had.get(labelled.prompt))))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def paid(self, row: Row) -> None:
        """Count what a row cost."""
        usd = sum(trace.get("spent_usd", trace["cost_usd"]) for trace in row["traces"])
        self.spent_usd, self.dearest_usd = self.spent_usd + usd, max(usd, self.dearest_usd or 0.0)

    def _may_begin(self, running: int) -> bool:
        if self.unmarked or running >= self.concurrency:
            return False
        if self.max_cost_usd == float("inf"):
            return True
        if self.dearest_usd is None:
            return running == 0 and self.max_cost_usd > 0
        return self.spent_usd < self.max_cost_usd and self.spent_usd + (running + 1) * self.dearest_usd <= self.max_cost_usd

    async def row(self, labelled: Labelled, before: Row | None = None) -> dict[str, Any]:
        """Everything of one prompt; what did not fail in the row `before` is taken over. A plan that fails is noted and left out."""
        runs = {f"{SAMPLE}{name})": partial(self._fixed, labelled, name, n) for name, n in self.plans.samples.items()}
        runs |= {plan.key: partial(self._chain, labelled, plan) for plan in self.plans.chains}
        had = {trace["plan"]: trace for trace in (before or {"traces": ()})["traces"] if not trace.get("failed")}
        traces = [await (self._taken_over(labelled, had[name]) if name in had else run()) for name, run in runs.items()]
        traces += [await self._taken_over(labelled, trace) for name, trace in had.items() if name not in runs]
        row = {"version": VERSION, "prompt": labelled.prompt, "group": labelled.group or labelled.prompt, "traces": traces}
        self.paid(row)
        return row | ({"gold": labelled.gold} if labelled.gold is not None else {})

    # --- one trace ----------------------------------------------------------------------------------------------------

    async def _fixed(self, labelled: Labelled, backend: str, n: int) -> dict[str, Any]:
        """`n` independent samples: the first drawn as a single answer (whose latency counts), the rest in one batch."""
        name = f"{SAMPLE}{backend})"
        run, request = self._run(name), _request(labelled)
        await self._carry_out(Single(backend=backend), request, run)
        if n > 1:
            await self._carry_out(BestOfN(backend=backend, n=n - 1, batch=n - 1, select="majority"), request, run)
        return await self._trace(labelled, name, run, run.pool)

    async def _chain(self, labelled: Labelled, plan: Plan) -> dict[str, Any]:
        run = self._run(plan.key)
        chosen = await self._carry_out(plan, _request(labelled), run)
        return await self._trace(labelled, plan.key, run, run.pool, chosen)

    async def _carry_out(self, plan: Plan, request: ChatRequest, run: Run) -> Candidate | None:
        try:
            return await STRATEGIES[plan.kind](plan, request, run)
        except BackendError as error:
            run.degraded.add(f"{plan.key}: {error}")
            return None

    def _run(self, trace: str) -> Run:
        """For one trace, which finds nothing in a cache that another has read: it would look cheaper than it is in service."""
        return Run(self.parts.backends, self.parts.verifiers, scope=trace)

    async def _trace(
        self, labelled: Labelled, name: str, run: Run, answers: Sequence[Candidate], chosen: Candidate | None = None
    ) -> dict[str, Any]:
        cost, latency = run.spent_usd, run.elapsed_s
        calls = [[c.kind, c.target, c.n, c.input_tokens, c.output_tokens, round(c.latency_s, 5), c.cached_tokens] for c in run.calls]
        marks, marking = await self._mark(labelled, [answer.text for answer in answers])
        scores = {} if chosen is not None else await self._scores(labelled, answers, run)
        rows = [
            {"text": answer.text, "correct": mark}
            | ({"score": answer.raw_score} if answer.raw_score is not None else {})
            | ({"scores": {name: said[i].raw for name, said in scores.items()}} if scores else {})
            | ({"clusters": alike} if (alike := {name: said[i].cluster for name, said in scores.items() if said[i].cluster}) else {})
            for i, (answer, mark) in enumerate(zip(answers, marks, strict=True))
        ]
        trace = {"plan": name, "answers": rows, "calls": calls, "cost_usd": cost, "latency_s": round(latency, 5)}
        trace |= {"spent_usd": run.spent_usd + marking.pop("spent_usd")} | marking
        if chosen is not None:
            trace["chosen"] = next((i for i, answer in enumerate(answers) if answer.choice is chosen.choice), None)
        return trace | ({"failed": sorted(run.degraded)} if run.degraded else {})

    async def _taken_over(self, labelled: Labelled, trace: Row) -> dict[str, Any]:
        """A trace of an earlier row, for which nothing is paid again; its answers are marked, where they could not be then."""
        if "unmarked" not in trace:
            return {**trace, "spent_usd": 0.0}
        marks, marking = await self._mark(labelled, [answer["text"] for answer in trace["answers"]])
        answers = [{**answer, "correct": mark} for answer, mark in zip(trace["answers"], marks, strict=True)]
        return {name: value for name, value in trace.items() if name != "unmarked"} | {"answers": answers} | marking

    async def _mark(self, labelled: Labelled, texts: Sequence[str]) -> tuple[Sequence[float | None], dict[str, Any]]:
        """1 for a right answer, 0 for a wrong one, None for all where the truth failed; and what that cost, and why it failed."""
        if self.truth is None:
            assert labelled.gold is not None
            gold = normalise(labelled.gold)
            return [float(normalise(text) == gold) for text in texts], {"spent_usd": 0.0}
        call = Call(self.truth.price)
        try:
            verdicts = await self.truth.score(_request(labelled), [Choice(text) for text in texts], call) if texts else []
            trouble = next((verdict.reason or "no verdict" for verdict in verdicts if verdict.score is None), "")
        except AdapterError as error:
            verdicts, trouble = [], str(error)
        if not trouble:
            return [verdict.score for verdict in verdicts], {"spent_usd": call.cost_usd}
        self.unmarked = self.unmarked or f"{trouble}, of the prompt {labelled.prompt[:80]!r}"
        return [None] * len(texts), {"spent_usd": call.cost_usd, "unmarked": trouble}

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
    """The rows of a log, gzipped or not, the last of each prompt; what an interruption cut off is left out."""
    return list(_last(_read(path)[0]).values())


def _last(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By prompt, the last row."""
    return {row["prompt"]: row for row in rows}


def finished(row: Row) -> bool:
    """Whether nothing of the row is to be asked again."""
    return not any(trace.get("failed") or "unmarked" in trace for trace in row["traces"])


def usable(row: Row) -> bool:
    """Whether a row can be learned from and played: every backend answered, and all is marked. A chain may have failed."""
    return all(trace["answers"] for trace in samples(row).values()) and not any("unmarked" in trace for trace in row["traces"])


def open_log(path: Path, mode: Literal["wt", "at"]) -> IO[str]:
    """A log as text, to write; it is gzipped where its name ends in .gz."""
    return gzip.open(path, mode, encoding="utf-8") if path.suffix == ".gz" else path.open(mode, encoding="utf-8")


async def collect(collector: Collector, prompts: Sequence[Labelled], out: Path, progress: Callable[[int, float], None]) -> Collected:
    """Append a row to `out` for each prompt of which it does not hold a finished one yet."""
    had = _mended(out)
    for row in had:
        collector.paid(row)
    before = _last(had)
    distinct = {labelled.prompt: labelled for labelled in prompts}
    todo = [labelled for prompt, labelled in distinct.items() if prompt not in before or not finished(before[prompt])]
    written, failed, trouble = 0, 0, ""
    with open_log(out, "at") as log:
        async with aclosing(collector.rows(todo, before)) as rows:
            async for row in rows:
                log.write(json.dumps(row) + "\n")
                log.flush()
                written, failed, trouble = written + 1, failed + (not finished(row)), trouble or _trouble(row)
                progress(len(prompts) - len(todo) + written, collector.spent_usd)
    return Collected(written, failed, len(todo) - written, collector.unmarked or trouble)


def _trouble(row: Row) -> str:
    return next((str(trace["failed"][0]) for trace in row["traces"] if trace.get("failed")), "")


def _mended(path: Path) -> list[dict[str, Any]]:
    """All rows, of a log to which more can be appended: one that was cut off is written anew, for no row may begin amid another."""
    rows, whole = _read(path)
    if not whole:
        anew = path.with_name(f".{path.name}")
        with open_log(anew, "wt") as log:
            log.writelines(json.dumps(row) + "\n" for row in rows)
        anew.replace(path)
    return rows


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Every row that can be read, and whether that is all that the file holds. Raises ConfigError where it is no such log."""
    rows: list[dict[str, Any]] = []
    data, whole = path.read_bytes() if path.exists() else b"", True
    if path.suffix == ".gz":
        data, whole = _unzipped(data)
    for line in filter(bytes.strip, data.split(b"\n")):
        try:
            rows.append(json.loads(line))
        except ValueError:
            whole = False
    foreign = any(not isinstance(row, dict) or not {"prompt", "traces"} <= row.keys() for row in rows)
    if foreign or (not rows and not b'{"'.startswith(data.strip()[:2])):
        raise ConfigError(f"{path} is no log of `outlay collect`; a decision log is read by --events")
    return rows, whole and data[-1:] in (b"", b"\n")


def _unzipped(data: bytes) -> tuple[bytes, bool]:
    """What can be read, also of and past members that an interruption cut off; and whether none was."""
    found, whole, at = [], True, 0
    while at >= 0:
        text, length = _member(data[at:]) if data else (b"", 0)
        found.append(text if length is not None else text + b"\n")  # what follows is no part of a line that was cut off
        whole = whole and length is not None
        at = data.find(GZIP, at + (1 if length is None else length))
    return b"".join(found), whole


def _member(data: bytes) -> tuple[bytes, int | None]:
    """The text of the first gzip member as far as it goes, and the member's length; None where it is broken."""
    reader, found = zlib.decompressobj(wbits=31), bytearray()
    for start in range(0, len(data), CHUNK):
        before = reader.copy()
        try:
            found += reader.decompress(data[start : start + CHUNK])
        except zlib.error:
            with suppress(zlib.error):
                for byte in data[start : start + CHUNK]:
                    found += before.decompress(bytes((byte,)))
            return bytes(found), None
        if reader.eof:
            return bytes(found), min(start + CHUNK, len(data)) - len(reader.unused_data)
    return bytes(found), None


def _request(labelled: Labelled) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": labelled.prompt},))
