"""`outlay explain`: the estimate, every plan as it was considered, and why the winner won, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from router.pipeline_types import Ask, Pipeline


async def explain(pipeline: Pipeline, ask: Ask) -> RenderableType:
    """What would be decided for the request; nothing is generated."""
    return shown(await pipeline.route(ask))


def shown(block: Mapping[str, Any]) -> RenderableType:
    """The first decision of a decision block."""
    decision = block["decisions"][0]
    estimate = block["estimate"]
    chances = ", ".join(f"{name} {p:.2f}" for name, p in estimate["p_correct"].items())
    head = Text(f"policy {block['policy']} ({block['digest']})\nestimate ({estimate['source']}): one answer is right: {chances}\n")
    if budget := block.get("budget"):
        head.append(
            f"budget: ${budget['left_usd']:.6f} of ${budget['budget_usd']:g} is left for {budget['resets_in_s'] / 3600:.1f} h; "
            f"a dollar counts {budget['multiplier']:.3g} times\n"
        )
    if not decision["considered"]:
        return Group(head, Text(f"-> {decision['plan']}: {decision['reason']}"))
    note = Text("* with what may be bought after it; `at most` is the plan alone, at the 95th percentile")
    return Group(head, _plans(decision), note, Text(f"\n-> {decision['plan']}\n   {decision['reason']}"))


def _plans(decision: Mapping[str, Any]) -> Table:
    table = Table("plan", "right *", "cost $ *", "at most $", "seconds *", "at most", "utility $", "", box=None, pad_edge=False)
    for name in table.columns[1:7]:
        name.justify = "right"
    for row in decision["considered"]:
        mark = "<-" if row["plan"] == decision["plan"] else row.get("refused", "")
        if "quality" not in row:
            table.add_row(row["plan"], *[""] * 6, mark)
            continue
        table.add_row(
            row["plan"],
            f"{row['quality']:.3f}",
            *(f"{row[k]:.7f}" for k in ("cost_usd", "cost_q95_usd")),
            f"{row['latency_s']:.2f}",
            f"{row['latency_q95_s']:.2f}" if row["latency_q95_s"] else "never timed",
            f"{row['utility_usd']:.7f}",
            mark,
        )
    return table
