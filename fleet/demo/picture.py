"""The cost-accuracy picture: each fixed plan with its interval, what mixing them could reach, and the policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fleet.demo.asking import POLICIES
from fleet.demo.figures import Row, hull

FIXED, POLICY, MIXED = "#5b6b7b", "#d1495b", "#9fb3c8"


def save(rows: Sequence[Row], folder: Path) -> list[Path]:
    """`frontier.png` and `frontier.svg`; nothing if nothing was paid for."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.fonttype"] = "none"  # text stays text
    paid = [row for row in rows if row.usd_per_1000 > 0]
    if not paid:
        return []
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    draw(axes, paid)
    paths = [folder / "frontier.png", folder / "frontier.svg"]
    for path in paths:
        figure.savefig(path, dpi=160)
    plt.close(figure)
    return paths


def draw(axes: Any, rows: Sequence[Row]) -> None:
    """Everything inside the frame."""
    _mixtures(axes, [row for row in rows if row.offer not in POLICIES])
    for row in rows:
        _point(axes, row, lower=any(_just_below(row, other) for other in rows if other.offer not in POLICIES))
    _frame(axes, rows)


def _just_below(row: Row, other: Row) -> bool:
    """Whether its label would lie under the other's."""
    return 0 < other.right - row.right < 0.04 and abs(np.log(other.usd_per_1000 / row.usd_per_1000)) < 0.3


def _mixtures(axes: Any, fixed: Sequence[Row]) -> None:
    """A coin between two plans moves on a straight line in money, which is a curve on this axis."""
    corners = hull((row.usd_per_1000, 100 * row.right) for row in fixed)
    if len(corners) < 2:
        return
    cost, right = zip(*corners, strict=True)
    along = np.geomspace(cost[0], cost[-1], 200)
    axes.plot(along, np.interp(along, cost, right), color=MIXED, linewidth=1.5, zorder=1, label="best mixture of fixed plans")


def _point(axes: Any, row: Row, *, lower: bool) -> None:
    chosen = row.offer in POLICIES
    colour, y = (POLICY if chosen else FIXED), 100 * row.right
    spread = [[y - 100 * row.low], [100 * row.high - y]]
    axes.errorbar(
        [row.usd_per_1000],
        [y],
        yerr=spread,
        fmt="D" if chosen else "o",
        color=colour,
        markersize=9 if chosen else 6,
        elinewidth=1.6 if chosen else 1,
        capsize=3,
        zorder=3 if chosen else 2,
    )
    _label(axes, row.offer, (row.usd_per_1000, y), colour, chosen, lower)


def _label(axes: Any, text: str, at: tuple[float, float], colour: str, chosen: bool, lower: bool) -> None:
    """Right of the point, the policy's left of it; on white, so that it can be read across another's interval."""
    offset, side, weight = ((-10, 7), "right", "bold") if chosen else ((9, -16 if lower else -4), "left", "normal")
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}
    axes.annotate(
        text, at, offset, textcoords="offset points", ha=side, color=colour, fontweight=weight, fontsize=10, bbox=ground, zorder=4
    )


def _frame(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda usd, _: f"${usd:g}"))
    axes.margins(x=0.22)
    axes.set_xlabel("cost of 1,000 prompts, probe and verifier included (log scale)")
    axes.set_ylabel("right answers, %")
    axes.set_title(f"{max(row.asked for row in rows)} held-out puzzles; bars are 95 % intervals", loc="left", fontsize=11)
    axes.grid(True, which="major", color="#e5e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left")
