"""`outlay compare`: what was tried on live traffic, from the decision log alone: the arms of each split, and policies in shadow.

Of an arm: its answers, what they cost, how right they were believed to be, and how many of those that somebody judged were right. Of a
shadow: how often it would have decided alike, and what it is expected to give where it would not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from policies.shadow import Course, Point
from router.errors import ConfigError
from router.events import ANSWERED, DecisionEvent, Event, FeedbackEvent, ShadowPolicyEvent, read_events
from router.shadow_policies import Tally
from router.splits import Arm

MOVES = 5
"""Changes that are shown of a shadow, the commonest first."""


@dataclass(slots=True)
class ArmResults:
    """What came of the requests of one arm."""

    answers: int = 0
    failed: int = 0
    cost_usd: float = 0.0
    """Of answered and failed ones."""
    chances: float = 0.0
    """Summed over answers."""
    judged: int = 0
    right: int = 0

    def interval(self) -> tuple[float, float]:
        """Of the share that is right, with 95 % (Wilson 1927); judged answers are taken for independent."""
        from scipy.stats import binomtest

        if not self.judged:
            return 0.0, 1.0
        found = binomtest(self.right, self.judged).proportion_ci(0.95, "wilson")
        return float(found.low), float(found.high)


@dataclass(slots=True)
class ShadowResults:
    """What a shadow would have done."""

    requests: int = 0
    tally: Tally = field(default_factory=Tally)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Of first decisions, from the live policy's to the shadow's."""
    examples: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """By move: ids of decisions."""


@dataclass(slots=True)
class Compared:
    """All of a log."""

    arms: dict[Arm, ArmResults] = field(default_factory=dict)
    shadows: dict[tuple[str, str], ShadowResults] = field(default_factory=dict)
    """By (policy, shadow)."""


def run_compare(events: str, examples: int) -> None:
    """Read and show. Raises ConfigError or EventError."""
    found = compared(read_events(events), examples)
    if not found.arms and not found.shadows:
        raise ConfigError(f"{events}: no request of a split and no policy in shadow in it; `splits` and `shadow_policies` try policies out")
    Console(soft_wrap=True).print(shown(found))


def compared(events: Iterable[Event], examples: int = 0) -> Compared:
    """Everything that the log tells of splits and shadows, with so many ids for each change."""
    found, arm_of, labels = Compared(), dict[str, Arm](), dict[str, float]()
    for event in events:
        if isinstance(event, DecisionEvent) and event.block.get("split") and event.ending != "preview":
            arm = arm_of[event.id] = Arm(event.block["split"]["name"], event.block["split"]["arm"])
            _count(found.arms.setdefault(arm, ArmResults()), event)
        elif isinstance(event, FeedbackEvent) and event.candidate == 0:
            labels[event.id] = event.label
        elif isinstance(event, ShadowPolicyEvent):
            _add(found.shadows.setdefault((event.policy, event.shadow), ShadowResults()), event, examples)
    for id, label in labels.items():
        if (judged := arm_of.get(id)) is not None:
            found.arms[judged].judged += 1
            found.arms[judged].right += label >= 0.5
    return found


def _count(arm: ArmResults, event: DecisionEvent) -> None:
    arm.cost_usd += float(event.block["cost_usd"])
    if event.ending == "failed":
        arm.failed += 1
    elif event.ending in ANSWERED:
        arm.answers += 1
        arm.chances += float(event.block["chance"])


def _add(shadow: ShadowResults, event: ShadowPolicyEvent, examples: int) -> None:
    points = [_point(row) for row in event.points]
    shadow.requests += 1
    shadow.tally.add(points)
    if points and points[0].live != points[0].shadow:
        move = points[0].live, points[0].shadow
        shadow.moves[move] += 1
        ids = shadow.examples.setdefault(move, [])
        ids += [event.id] * (len(ids) < examples)


def _point(row: Mapping[str, Any]) -> Point:
    return Point(row["live"], row["shadow"], Course(**row["gain"]) if row["gain"] else None)


# --- for a terminal -----------------------------------------------------------------------------------------------------


def shown(found: Compared) -> RenderableType:
    """A table for each split, some lines for each shadow."""
    splits = dict.fromkeys(arm.split for arm in found.arms)
    tables = [_table(split, {arm.policy: rows for arm, rows in found.arms.items() if arm.split == split}) for split in splits]
    return Group(*tables, *(Text("\n".join(_lines(*names, rows))) for names, rows in found.shadows.items()))


def _table(split: str, arms: Mapping[str, ArmResults]) -> Table:
    head = ("arm", "answers", "failed", "$/1,000", "believed", "judged", "right (95 %)")
    table = Table(*head, title=f"split {split}", title_justify="left", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, arm in sorted(arms.items()):
        low, high = arm.interval()
        right = f"{arm.right / arm.judged:.1%} ({low:.1%} to {high:.1%})" if arm.judged else "nothing judged"
        usd, believed = 1000 * arm.cost_usd / max(1, arm.answers), f"{arm.chances / arm.answers:.1%}" if arm.answers else ""
        table.add_row(name, f"{arm.answers:,}", f"{arm.failed:,}", f"{usd:.4f}", believed, f"{arm.judged:,}", right)
    return table


def _lines(policy: str, shadow: str, found: ShadowResults) -> list[str]:
    decisions, gain, n = found.tally.decisions, found.tally.gain, found.requests
    first, later = (_agreed(decisions[point, "agreed"], decisions[point, "differed"]) for point in ("first", "later"))
    utility = "" if gain.utility_usd is None else f", utility $/1,000 {1000 * gain.utility_usd / n:+.4f}"
    return [
        f"\n{shadow} in shadow of {policy}: {n:,} requests; it agrees on {first} first decisions and {later} later ones",
        f"it is expected to give, over all of them: right {100 * gain.right / n:+.2f} points, $/1,000 {1000 * gain.cost_usd / n:+.4f}, "
        f"seconds {gain.latency_s / n:+.3f}{utility}",
        *(
            f"  {times:,} x {live} -> {other}{'  ' if found.examples[live, other] else ''}{' '.join(found.examples[live, other])}"
            for (live, other), times in found.moves.most_common(MOVES)
        ),
    ]


def _agreed(agreed: int, differed: int) -> str:
    return f"{agreed:,} of {agreed + differed:,}" + (f" ({agreed / (agreed + differed):.1%})" if agreed + differed else "")
