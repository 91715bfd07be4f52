"""What `outlay collect` and `outlay fit` do with files, progress and Ctrl-C; the work itself is in `collect.py` and `fit.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from adapters.shell import outlay
from difficulty.labels import TEST
from difficulty.versions import POINTER, digest_of, pointer, resolved, written
from policies.plans import Plan
from router.assembly import market, parts
from router.collect import Collected, Collector, collect, plans_of, read_prompts
from router.config import Config, load
from router.errors import ConfigError
from router.events import read_events
from router.fit import fitted_text, labels, learn_curves
from router.fit_events import logged_rows
from router.offline import usable_rows
from router.parts import Parts


@dataclass(frozen=True, slots=True)
class Collection:
    """The options of `outlay collect`."""

    config: Path
    prompts: Path
    out: Path
    samples: int
    samples_dear: int
    truth: str | None
    concurrency: int
    max_cost_usd: float
    limit: int | None


def run_collect(options: Collection) -> bool:
    """Run the prompts that the log does not hold yet; whether nothing failed. Ctrl-C keeps every finished row."""
    console, config = Console(stderr=True), without_probe(load(options.config))
    if options.truth is not None and options.truth not in config.verifiers:
        raise ConfigError(f"--truth: no verifier '{options.truth}'; have {', '.join(config.verifiers) or 'none'}")
    prompts = read_prompts(options.prompts, need_gold=options.truth is None)[: options.limit]
    built = parts(config)
    used = [plan.verifier for policy in built.policies.values() for plan in policy.all_plans if plan.verifier]
    plans = plans_of(built, options.samples, options.samples_dear, list(dict.fromkeys(used)))
    truth = built.verifiers[options.truth] if options.truth else None
    collector = Collector(built, plans, truth, options.concurrency, options.max_cost_usd)
    draws = ", ".join(f"{n} of {name}" for name, n in plans.samples.items())
    console.print(f"each prompt: {draws}; {', '.join(plan.key for plan in plans.chains) or 'no chains'} -> {options.out}", markup=False)
    try:
        found = asyncio.run(_collected(built, collector, prompts, options.out, console))
    except KeyboardInterrupt:
        console.print(f"stopped; {options.out} holds every row that was finished, and the same command goes on from there")
        return True
    for line in said(found, collector, options.out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return not found.trouble


def said(found: Collected, collector: Collector, out: Path) -> list[str]:
    """What became of a collection, and what to do about it."""
    lines = [f"{found.written} rows written; {out} has cost ${collector.spent_usd:.6f} in all"]
    if collector.unmarked:
        again = "what was bought is in the log; once that is mended, the same command marks it without buying it again"
        return [*lines, f"stopped, for the truth failed: {collector.unmarked}", again]
    if found.left:
        lines.append(f"{found.left} prompts were not begun: they might cost more than --max-cost-usd leaves of ${collector.max_cost_usd:g}")
    if found.failed:
        lines.append(f"{found.failed} of {found.written} rows failed in part or whole, and the same command asks what failed again")
        lines.append(f"the first failure: {found.trouble}")
    return lines


async def _collected(built: Parts, collector: Collector, prompts: Any, out: Path, console: Console) -> Collected:
    try:
        await built.load()
        with _bar(console) as bar:
            task = bar.add_task("collect", total=len(prompts))

            def show(done: int, usd: float) -> None:
                bar.update(task, completed=done, description=f"collect ${usd:.4f}")

            return await collect(collector, prompts, out, show)
    finally:
        await built.aclose()


def run_fit(config_path: Path, log: Path | None, events: str | None, out: Path, encoder: str | None, seed: int) -> None:
    """Probe, curves and report from logs. Raises ConfigError, EventError, or a DifficultyError that says what is missing."""
    from difficulty.after_wrong import section
    from difficulty.artifact import save_probe
    from difficulty.encoders import open_encoder
    from difficulty.fit import fit_probe
    from difficulty.report import summary, write_report

    console, config = Console(stderr=True), load(config_path)
    if log is None and events is None:
        raise ConfigError("nothing to learn from: name a log of `outlay collect` by --log, or the decision log by --events")
    rows = [*(usable_rows(log) if log else []), *(_logged(events, console) if events else [])]
    encoder = encoder or config.probe.encoder
    if encoder is None:
        raise ConfigError("no encoder: set `probe.encoder` in the configuration, or name one with --encoder")
    reader = open_encoder(encoder, threads=config.probe.threads)
    with _stages(console) as progress:
        fitted = fit_probe(labels(rows), reader, seed=seed, progress=progress)
    built = parts(without_probe(config))
    plans: list[Plan] = [plan for policy in config.policies.values() for plan in policy.all_plans]
    side = dict(zip(fitted.table.prompts, fitted.side, strict=True))
    learned_on = [row for row in rows if side[fitted_text(row["prompt"])] != TEST]
    sold = market(built.backends, built.verifiers, built.market.curves)
    curves = learn_curves(learned_on, fitted, sold, plans, source=f"{len(learned_on)} prompts")
    with written(out) as place:
        report = write_report(fitted, place)
        with (place / "report.md").open("a") as page:
            page.write(section(fitted, curves.success))
        save_probe(place, fitted.head, reader, data_digest=fitted.table.digest, seed=seed, figures=summary(fitted, report))
        curves.save(place / "curves.json")
        digest = digest_of(place)
    tested = int((fitted.side == TEST).sum())
    console.print(f"{len(rows)} prompts, {tested} of them kept for the report: {resolved(out) / 'report.md'}")
    console.print(_what_next(out, digest), markup=False)


def _logged(source: str, console: Console) -> list[dict[str, Any]]:
    """Rows from the decision log; what was left out is said, with why. Raises ConfigError where nothing is left."""
    found = logged_rows(read_events(source))
    console.print(f"{source}: {found.used} labelled answers of {len(found.rows)} prompts", markup=False, soft_wrap=True)
    for why, n in found.left_out.items():
        console.print(f"  {n} left out: {why}", markup=False, soft_wrap=True)
    if not found.rows:
        raise ConfigError(f"{source}: no labelled answer in it that can be learned from; docs/online.md says which can")
    return found.rows


def _what_next(out: Path, digest: str) -> str:
    """How what was fitted comes into use."""
    if (out / POINTER).exists() and pointer(out).current != digest:
        return f"{pointer(out).current} stays in use until: {outlay()} artifacts promote {out} {digest}"
    return f"probe and curves are in {out}; name them in the configuration: probe.artifact: {out}, curves: {out / 'curves.json'}"


def without_probe(config: Config) -> Config:
    """The configuration without what is yet to be learned, and without a cache, so that it can be assembled to learn it."""
    return config.model_copy(update={"probe": type(config.probe)(), "curves": None, "cache": None})


def _bar(console: Console) -> Progress:
    times = TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=console)


@contextmanager
def _stages(console: Console) -> Iterator[Any]:
    """A bar for each stage of a fit."""
    with Progress(console=console) as bar:
        tasks: dict[str, Any] = {}

        def update(stage: str, share: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=share)

        yield update
