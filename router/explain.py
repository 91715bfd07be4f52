"""`outlay explain`: the estimate, every plan as it was considered, and why the winner won, as text.

A plan's name says all of it, so it may be long, and a name that is cut says nothing. Where a line is too short, it stands on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.pipeline_types import Ask, Pipeline

HEADS = ("right *", "cost $", "95 % $", "seconds", "95 % s", "utility $ *")
NOTE = "* with what may be bought after it; dollars and seconds are of the plan alone,\n  as expected and at the 95th percentile"


async def explain(pipeline: Pipeline, ask: Ask, width: float) -> str:
    """What would be decided for the request, in lines of `width` where names allow it; nothing is generated."""
    return shown(await pipeline.route(ask), width)


def shown(block: Mapping[str, Any], width: float) -> str:
    """The first decision of a decision block."""
    decision = block["decisions"][0]
    lines = [*_head(block), ""]
    if not decision["considered"]:
        return "\n".join([*lines, f"-> {decision['plan']}: {decision['reason']}"])
    return "\n".join([*lines, *_plans(decision, width), NOTE, "", f"-> {decision['plan']}", f"   {decision['reason']}"])


def _head(block: Mapping[str, Any]) -> Iterator[str]:
    estimate = block["estimate"]
    chances = ", ".join(f"{name} {p:.2f}" for name, p in estimate["p_correct"].items())
    yield f"policy {block['policy']} ({block['digest']})"
    yield f"estimate ({estimate['source']}): one answer is right: {chances}"
    if budget := block.get("budget"):
        yield (
            f"budget: ${budget['left_usd']:.6f} of ${budget['budget_usd']:g} is left for {budget['resets_in_s'] / 3600:.1f} h; "
            f"a dollar counts {budget['multiplier']:.3g} times"
        )


def _plans(decision: Mapping[str, Any], width: float) -> Iterator[str]:
    """A line for each plan; two where one would not hold them all."""
    heads = HEADS if any(row.get("utility_usd") for row in decision["considered"]) else HEADS[:-1]  # rules weigh nothing
    rows = [("plan", heads, ""), *(_row(row, decision["plan"], len(heads)) for row in decision["considered"])]
    columns = [max(map(len, column)) for column in zip(*(figures for _, figures, _ in rows), strict=True)]
    names = max(len(name) for name, _, _ in rows)
    figured = [
        (name, "  ".join(f"{figure:>{wide}}" for figure, wide in zip(figures, columns, strict=True)), mark) for name, figures, mark in rows
    ]
    lines = [f"{name:{names}}  {figures}  {mark}" for name, figures, mark in figured]
    if max(map(len, lines)) > width:
        lines = [line for name, figures, mark in figured for line in (f"{name}  {mark}", f"  {figures}")]
    yield from (line.rstrip() for line in lines if line.strip())


def _row(row: Mapping[str, Any], chosen: str | None, columns: int) -> tuple[str, tuple[str, ...], str]:
    """A plan's name, its figures, and what became of it."""
    mark = "<-" if row["plan"] == chosen else row.get("refused", "")
    if "quality" not in row:
        return row["plan"], ("",) * columns, mark
    figures = (
        f"{row['quality']:.3f}",
        *(f"{row[k]:.7f}" for k in ("cost_usd", "cost_q95_usd")),
        f"{row['latency_s']:.2f}",
        f"{row['latency_q95_s']:.2f}" if row["latency_q95_s"] else "never timed",
        f"{row['utility_usd']:.7f}",
    )
    return row["plan"], figures[:columns], mark
