"""What must hold after a soak, each law with the numbers that say so, and what it is judged by. The laws on money are in `money.py`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from adapters.accounts import Receipt
from benchmarks.soak.clients import GRACE_S, OWNERS, Seen
from benchmarks.soak.stage import MOST_S, REMEMBERED, Keys
from router.events import DecisionEvent

SAMPLE_S, FEWEST, FEWEST_DECIDED = 2.0, 30, 1000
"""Between looks at the gateway; how many of them a slope is drawn through, and of how many decisions a mean is taken."""
MOST_MB_A_MINUTE, MOST_KB = 4, 30
"""Growth of memory that is let pass."""
SURELY = 1.2
"""Times as many as several gateways can hold, so that each is full."""
OWN_FAULTS = ("Traceback", "never retrieved", "was destroyed", "ResourceWarning", "Unclosed", "RuntimeWarning", "internal error")
"""What must not stand in the gateway's log."""


@dataclass(frozen=True)
class Law:
    """What was promised, whether it held, and by which numbers."""

    promise: str
    holds: bool
    figures: str
    faults: Sequence[str] = ()
    """The first things that broke it."""


@dataclass(frozen=True)
class State:
    """What the gateways held at one moment, together."""

    at_s: float
    tasks: int
    resident_mb: float
    files: Counter[str]
    decided: int
    """Requests that were decided so far."""


@dataclass
class Played:
    """All that was written down in one soak."""

    seen: list[Seen]
    events: list[DecisionEvent]
    bills: list[dict[str, Any]]
    receipts: Mapping[str, Receipt]
    keys: Keys
    metrics: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]
    """At rest, after the load: by name and labels."""
    at_rest: list[DecisionEvent]
    """What the logs held then."""
    before: State
    after: State
    samples: list[State]
    """Of the load."""
    gateways: int
    tally_usd: float
    """What the budget over time has on its books."""
    exit_code: int | None
    log: str
    chaos: list[str] = field(default_factory=list)


def metrics_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Prometheus' text, by name and labels."""
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


# --- every request ends --------------------------------------------------------------------------------------------------


def ended(played: Played) -> Law:
    """Answers right in form, clean refusals, and nothing else."""
    endings = Counter(seen.ending for seen in played.seen)
    slowest = max(seen.seconds for seen in played.seen if seen.key != "last")
    figures = f"{len(played.seen)} requests: " + ", ".join(f"{endings[how]} {how}" for how in ("answered", "refused", "left"))
    began = min(seen.began for seen in played.seen)
    faults = [f"{seen.kind}, begun at {seen.began - began:.0f} s: {seen.why}" for seen in played.seen if seen.ending == "wrong"]
    holds = not faults and slowest <= MOST_S + GRACE_S
    figures += f"; the longest took {slowest:.1f} s"
    return Law("Every request is answered, or refused in its API's own shape", holds, figures, faults)


def own_faults(played: Played) -> Law:
    """Nothing in the log speaks of a fault of our own, and the process ended as it was told."""
    lines = [line for line in played.log.splitlines() if any(fault in line for fault in OWN_FAULTS)]
    figures = f"{len(lines)} such lines of {played.log.count(chr(10))}; exit code {played.exit_code}"
    promise = "No fault of its own in its log, and SIGTERM under load ends it cleanly"
    return Law(promise, not lines and played.exit_code == 0, figures, lines)


# --- leaks -------------------------------------------------------------------------------------------------------------------


def tenants_are_apart(played: Played) -> Law:
    """Each answer is one of its own: no two owners ever see the same."""
    owners: dict[str, set[str]] = defaultdict(set)
    for seen in played.seen:
        for serial in seen.serials:
            owners[serial].add(OWNERS[seen.key])
    shared = [f"{serial}: {sorted(who)}" for serial, who in owners.items() if len(who) > 1]
    cached = sum(bool(seen.block and seen.block.get("cached")) for seen in played.seen)
    figures = f"{len(owners)} answers, {cached} requests answered from the cache, {len(shared)} answers seen by two tenants"
    return Law("Nothing of one tenant is in another's answers", not shared, figures, shared)


def nothing_leaks(played: Played) -> Law:
    """Tasks, files and connections are back to where they were, but for idle connections to providers and Redis."""
    idle = ("provider", "redis", "dead socket")
    kinds = [kind for kind in played.after.files if kind not in idle]
    pairs = [(kind, played.before.files[kind], played.after.files[kind]) for kind in kinds]
    pairs.append(("tasks", played.before.tasks, played.after.tasks))
    faults = [f"{kind}: {before} before, {after} after" for kind, before, after in pairs if after > before]
    tasks, files = max(state.tasks for state in played.samples), max(sum(state.files.values()) for state in played.samples)
    after = played.after.files
    figures = (
        f"tasks: {played.before.tasks} before, {tasks} at most, {played.after.tasks} after; "
        f"files: {sum(played.before.files.values())} before, {files} at most, {sum(after.values())} after, "
        f"of which {after['provider']} idle connections to providers and {after['redis'] + after['dead socket']} in pools for Redis"
    )
    return Law("No task, file or connection is left", not faults, figures, faults)


def memory_is_bounded(played: Played) -> Law:
    """Over the second half of the load. What is kept for each decision is all that may grow, until so many are kept as ever will be."""
    late, remembered = [state for state in played.samples if state.at_s >= played.samples[-1].at_s / 2], REMEMBERED * played.gateways
    full, last = [state for state in late if state.decided >= remembered * SURELY], late[-1]
    figures = f"{played.before.resident_mb:.0f} MB before, {late[0].resident_mb:.0f} MB at half time, {last.resident_mb:.0f} MB at the end"
    if len(full) >= FEWEST:
        slope = float(np.polyfit([s.at_s / 60 for s in full], [s.resident_mb for s in full], 1)[0])
        promise = f"Once {remembered} decisions are in memory, it grows by less than {MOST_MB_A_MINUTE:g} MB a minute"
        each = f"{1024 * (last.resident_mb - full[0].resident_mb) / max(1, last.decided - full[0].decided):+.2f} KB a decision"
        figures += f": {slope:+.2f} MB a minute in the last {len(full) * SAMPLE_S / 60:.1f}, or {each}"
        return Law(promise, slope < MOST_MB_A_MINUTE, figures)
    promise = f"Until {remembered} decisions are in memory, it grows by less than {MOST_KB} KB for each"
    if (decided := last.decided - late[0].decided) < FEWEST_DECIDED:
        return Law(promise, True, f"too few decisions to say; {figures}")
    each_kb = 1024 * (last.resident_mb - late[0].resident_mb) / decided
    return Law(promise, each_kb < MOST_KB, f"{figures}: {each_kb:.1f} KB for each of {decided} decisions")
