"""Samples the embedded fleet once into a log that the fleet's benchmarks replay: many scored answers of small, some of large, a revision
and a search for each puzzle, in the form that `outlay collect` writes.

    python -m benchmarks.fleet_log                    2,000 held-out puzzles with 256 answers of small each, about an hour of one core
    python -m benchmarks.fleet_log --puzzles 200 --samples 64

Independent answers are drawn in large batches straight from the models (the gateway would draw the same, one prompt at a time); chains
run through the strategies of the service. Written puzzle by puzzle: Ctrl-C loses nothing, and the same command goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.types import Call, ChatRequest, Choice, Price
from benchmarks.harness import ROOT
from fleet.puzzles import check
from fleet.questions import Question, questions
from policies.plans import Plan, Revise, TreeSearch
from router.assembly import parts
from router.collect import VERSION, Collector, Labelled, Plans, open_log, read_log
from router.config import load as load_config
from router.learning import without_probe
from router.parts import Parts

DEFAULT = ROOT / ".outlay" / "fleet-log.jsonl.gz"
CONFIG = ROOT / "configs" / "fleet.yaml"
SEED = 3026
Row = Mapping[str, Any]
read = read_log


def main() -> None:
    """Sample what the log does not hold yet."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet_log", description=__doc__, formatter_class=form)
    parser.add_argument("--puzzles", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=256, help="of small")
    parser.add_argument("--samples-large", type=int, default=16)
    parser.add_argument("--side", choices=("validation", "test"), default="test")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--out", type=Path, default=DEFAULT)
    parser.add_argument("--config", type=Path, default=CONFIG, help="whose policies' revisions and searches are run")
    parser.add_argument("--block", type=int, default=64, help="puzzles sampled together")
    options = parser.parse_args()
    have = {row["prompt"] for row in read(options.out)}
    todo = [q for q in questions(options.puzzles, options.seed, options.side) if q.prompt not in have]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sampler = Sampler(options.config, {"small": options.samples, "large": options.samples_large}, options.seed)
    sampler.write(todo, options.out, options.block)


class Sampler:
    """The models, the strategies, and how many answers are wanted of each."""

    def __init__(self, config: Path, draws: Mapping[str, int], seed: int) -> None:
        self.draws, self.seed = draws, seed
        self.parts: Parts = parts(without_probe(load_config(config)))
        plans = [plan for policy in self.parts.policies.values() for plan in policy.all_plans]
        self.chains: list[Plan] = list({plan.key: plan for plan in plans if isinstance(plan, Revise | TreeSearch)}.values())

    def write(self, todo: Sequence[Question], out: Path, block: int) -> None:
        """Append a row for each question."""
        from tqdm import tqdm

        with tqdm(total=len(todo), unit="puzzle", desc="sampling") as bar, asyncio.Runner() as runner:
            for start in range(0, len(todo), block):
                part = todo[start : start + block]
                rows = list(self._rows(part, runner))
                with open_log(out, "at") as log:
                    log.writelines(json.dumps(row) + "\n" for row in rows)
                bar.update(len(part))

    def _rows(self, part: Sequence[Question], runner: asyncio.Runner) -> Iterator[dict[str, Any]]:
        samples = {name: self._samples(name, n, part, runner) for name, n in self.draws.items()}
        collector = Collector(self.parts, Plans({}, self.chains), self.parts.verifiers["exact"])
        for i, question in enumerate(part):
            row = runner.run(collector.row(Labelled(question.prompt, None, question.group)))
            yield {**row, "version": VERSION, "traces": [*(rows[i] for rows in samples.values()), *row["traces"]]}

    def _samples(self, name: str, n: int, part: Sequence[Question], runner: asyncio.Runner) -> list[dict[str, Any]]:
        """n scored and marked answers of a model to each question, as a trace."""
        from transformers import LlamaForCausalLM

        from fleet.files import ROOT as FLEET
        from fleet.files import TEMPERATURES, load
        from fleet.rollouts import chat_ids
        from fleet.sampling import sample
        from fleet.tokens import build_tokenizer

        tokenizer = build_tokenizer()
        prompts = [chat_ids(tokenizer, question.prompt) for question in part]
        seed = self.seed + int(hashlib.sha256(part[0].prompt.encode()).hexdigest()[:6], 16)
        drawn = sample(load(FLEET / name, LlamaForCausalLM), prompts, n, seed, TEMPERATURES[name], label=name)
        return [
            self._trace(name, question, len(prompt), rows, tokenizer.batch_decode(rows, skip_special_tokens=True), runner)
            for question, prompt, rows in zip(part, prompts, drawn, strict=True)
        ]

    def _trace(
        self, name: str, question: Question, read: int, rows: Sequence[Sequence[int]], texts: Sequence[str], runner: asyncio.Runner
    ) -> dict[str, Any]:
        request, choices = ChatRequest(({"role": "user", "content": question.prompt},)), [Choice(text) for text in texts]
        said = runner.run(self.parts.verifiers["reward"].score(request, choices, Call(Price())))
        answers = [
            {"text": text, "correct": check(question.prompt, text), "scores": {"reward": verdict.score}}
            for text, verdict in zip(texts, said, strict=True)
        ]
        drawn = (rows[:1], rows[1:])  # as `outlay collect` draws them: one answer, then the others
        calls = [["generate", name, len(part), read, sum(map(len, part)), 0.0] for part in drawn if part]
        return {"plan": f"sample({name})", "answers": answers, "calls": calls, "cost_usd": 0.0, "latency_s": 0.0}


if __name__ == "__main__":
    main()
