"""`outlay feedback`: what the labels have taught so far, for a terminal. Read from where the gateways keep it (`feedback.state`)."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from adapters.sums import MEMORY, build_sums
from router.errors import ConfigError
from router.lessons import Lessons
from router.options import FeedbackOptions


async def lessons(options: FeedbackOptions) -> RenderableType:
    """Two tables. Raises ConfigError where the state is in the memory of a gateway or does not answer."""
    if options.state == MEMORY:
        raise ConfigError("feedback.state is memory://, which only the gateway itself sees; set it to a file or to redis://host:6379/0")
    learned = Lessons(options, build_sums(options.state))
    await learned.sync()
    trouble = learned.trouble
    shown = Group(_shifts(learned), _health(learned))
    await learned.aclose()
    if trouble:
        raise ConfigError(trouble)
    return shown


def _shifts(learned: Lessons) -> RenderableType:
    found = learned.corrections
    table = Table("domain", "backend", "shift of the logit", box=None, pad_edge=False)
    for domain, shifts in [*sorted(found.domains.items()), ("(others)", found.elsewhere)]:
        for backend, shift in sorted(shifts.items()):
            table.add_row(domain or "(none named)", backend, f"{shift:+.2f}")
    note = "applied" if learned.options.correct else "not applied: feedback.correct is false"
    return Group(table, Text(f"{note}\n")) if table.row_count else Text("no labels yet\n")


def _health(learned: Lessons) -> RenderableType:
    table = Table("verifier", "labels", "AUC", "false positives", "agreement", box=None, pad_edge=False)
    for name, health in sorted(learned.health.items()):
        figures = (health.auc, health.false_positive_rate, health.agreement)
        table.add_row(name, f"{health.labels:.0f}", *(f"{figure:.2f}" for figure in figures))
    return table if table.row_count else Text("no verifier's answer was judged yet")
