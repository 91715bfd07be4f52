"""What `outlay evaluate` and `outlay certify` share: a configuration and a log, opened; prompts that no fit saw; a policy on its dial.

The dial is a multiplier on what a dollar counts. It is what a budget over time turns in service, one number orders every setting from
safest to cheapest, and dividing an objective by it changes no decision but through the price.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from difficulty.artifact import load_probe, located
from difficulty.labels import TEST, sides
from difficulty.probe import Estimate
from policies.policy import Optimiser, Policy, WithinBudget, Worth
from router.assembly import open_probe, parts
from router.collect import read_log, usable
from router.config import Config, load
from router.errors import ConfigError, have_instead
from router.options import ProbeOptions
from router.parts import Parts
from router.play import estimates_of

Rows = Sequence[Mapping[str, Any]]
MULTIPLIERS = tuple(2.0**k for k in range(-3, 6))
"""From an eighth to 32, the safest first: fixed here, so that nobody chooses them after looking."""
BUDGET_MULTIPLIERS = tuple(4.0**k for k in range(11))
"""A budget begins where more is never paid for a right answer, far above any price."""


@dataclass(frozen=True)
class Study:
    """A configuration, and a log to judge it by."""

    config: Config
    parts: Parts
    rows: Rows
    """Of the log, those on which the policies are judged."""
    seen: Rows
    """The others, on which baselines may learn."""
    estimates: Mapping[str, Estimate]
    """By prompt, of all rows."""

    def policy(self, name: str) -> Policy:
        """One policy of the configuration. Raises ConfigError."""
        if name not in self.config.policies:
            raise ConfigError(f"--policy: no policy '{name}'; {have_instead(name, self.config.policies)}")
        return self.config.policies[name]


def opened(config_path: Path, log: Path, fresh: bool) -> Study:
    """Only the prompts that the fit kept for its report are judged on, unless the whole log is `fresh`. Raises ConfigError or FitError."""
    config, rows = load(config_path), usable_rows(log)
    built = parts(config)
    kept = set(range(len(rows))) if fresh else _kept(config.probe, rows)
    sides_of_log = [row for i, row in enumerate(rows) if i in kept], [row for i, row in enumerate(rows) if i not in kept]
    return Study(config, built, *sides_of_log, _estimates(config.probe, built, rows))


def usable_rows(log: Path) -> Rows:
    """The rows of a log without those that `outlay collect` is to finish first, of which it is said how many. Raises ConfigError."""
    rows = read_log(log)
    found = [row for row in rows if usable(row)]
    if left := len(rows) - len(found):
        unfinished = f"{left} of {len(rows)} rows of {log} failed, and are left out; `outlay collect` asks them again"
        if not found:
            raise ConfigError(unfinished)
        Console(stderr=True).print(unfinished, markup=False, soft_wrap=True)
    if not found:
        raise ConfigError(f"{log}: no rows; `outlay collect` writes them")
    return found


def at(policy: Policy, multiplier: float) -> Policy:
    """The policy where a dollar counts `multiplier` dollars. Rules and floors know no prices; they are as they are."""
    if len(dial(policy)) == 1:
        return policy
    assert isinstance(policy, Optimiser), "what has a dial has an objective"
    now = policy.objective
    worth = Worth(value_of_correct_usd=now.value_of_correct_usd / multiplier, value_of_second_usd=now.value_of_second_usd / multiplier)
    return policy.model_copy(update={"objective": worth})


def dial(policy: Policy) -> tuple[float, ...]:
    """The settings of a policy, the safest first: those that a budget may reach, or those around what a right answer is worth."""
    objective = policy.objective if isinstance(policy, Optimiser) else None
    if isinstance(objective, WithinBudget):
        low, high = objective.multipliers
        return tuple(m for m in BUDGET_MULTIPLIERS if low <= m <= high)
    return MULTIPLIERS if isinstance(objective, Worth) else (1.0,)


@contextmanager
def progress(total: int, what: str, console: Console) -> Iterator[Any]:
    """A bar; calling what it gives moves it on by one."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda *_: bar.advance(task)


def _kept(probe: ProbeOptions, rows: Rows) -> set[int]:
    """Rows that the fit of the configuration's artifact kept for its report; all, where nothing was fitted on such a log."""
    card = load_probe(located(probe.artifact))[1] if probe.artifact else None
    if card is None or card.tiers:
        return set(range(len(rows)))
    side = sides([row["group"] for row in rows], card.seed)
    return {i for i, where in enumerate(side) if where == TEST}


def _estimates(options: ProbeOptions, built: Parts, rows: Rows) -> dict[str, Estimate]:
    return estimates_of(open_probe(options, built.market.by_price(built.backends)) or built.heuristic, rows)
