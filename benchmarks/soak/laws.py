"""What must hold after a soak, each law with the numbers that say so. Everything is compared: clients, log, ledger, metrics, providers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from adapters.accounts import NANO, UNITS, Receipt
from benchmarks.soak.clients import GRACE_S, OWNERS, Seen
from benchmarks.soak.provider import QUESTION
from benchmarks.soak.stage import MOST_S, PRICES, Keys, used_usd
from router.events import DecisionEvent
from router.record import DecisionLog

REMEMBERED = DecisionLog().size
SAMPLE_S, FEWEST, FEWEST_DECIDED = 2.0, 30, 1000
"""Between looks at the gateway; how many of them a slope is drawn through, and of how many decisions a mean is taken."""
MOST_MB_A_MINUTE, MOST_KB = 4, 30
"""Growth of memory that is let pass."""
CENT = 1e-9
"""Dollars are compared to the nano-dollar."""
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
    """What the gateway held at one moment."""

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
    events_at_rest: int
    """How many events the log held then."""
    before: State
    after: State
    samples: list[State]
    """Of the load."""
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


# --- money ---------------------------------------------------------------------------------------------------------------


def ledger_is_log(played: Played) -> Law:
    """By owner, to the nano-dollar."""
    logged: Counter[str] = Counter()
    for event in played.events:
        logged[event.key] += round(float(event.block["cost_usd"]) * NANO) if event.ending != "cached" else 0
    booked: Counter[str] = Counter()
    for name, key in played.keys.kept.items():
        booked[key.owner] += round(used_usd(played.receipts[name]) * NANO)
    owners = logged.keys() | booked.keys()
    faults = [f"{owner}: log {logged[owner]}, ledger {booked[owner]} nano-dollars" for owner in owners if logged[owner] != booked[owner]]
    held = [name for name, receipt in played.receipts.items() if any(receipt.held)]
    faults += [f"{name} still holds {dict(zip(UNITS, played.receipts[name].held, strict=True))}" for name in held]
    figures = f"${sum(booked.values()) / NANO:.6f} in both, and nothing held"
    return Law("The ledger of each key is the sum of its decision blocks, to the nano-dollar", not faults, figures, faults)


def metrics_are_log(played: Played) -> Law:
    """At rest after the load: by key, and by policy."""
    logged: dict[str, float] = defaultdict(float)
    for event in played.events[: played.events_at_rest]:
        logged[event.policy] += 0.0 if event.ending == "cached" else float(event.block["cost_usd"])
    measured = {dict(labels)["policy"]: usd for (name, labels), usd in played.metrics.items() if name == "outlay_spend_usd_total"}
    pairs = [(policy, logged.get(policy, 0.0), measured.get(policy, 0.0)) for policy in logged.keys() | measured.keys()]
    by_key = sum(usd for (name, _), usd in played.metrics.items() if name == "outlay_key_spend_usd_total")
    pairs.append(("by key", sum(logged.values()), by_key))
    faults = [f"{what}: log ${log:.9f}, metrics ${metric:.9f}" for what, log, metric in pairs if abs(log - metric) > CENT]
    events = {dict(labels)["outcome"]: n for (name, labels), n in played.metrics.items() if name == "outlay_log_events_total"}
    dropped = events["dropped"]
    faults += [f"{dropped:.0f} events dropped"] if dropped else []
    figures = f"${by_key:.6f} at rest; {dropped:.0f} events of the log dropped"
    return Law("Metrics say the same, by policy and by key", not faults, figures, faults)


def tally_is_log(played: Played) -> Law:
    """The budget over time may count twice what Redis' answer was lost of, never too little."""
    bought = (event for event in played.events if event.policy == "paced" and event.ending in ("answered", "failed"))
    paced = sum(float(event.block["cost_usd"]) for event in bought)
    more = played.tally_usd - paced
    holds = -1e-6 <= more <= 0.02 * paced + 0.001
    figures = f"${played.tally_usd:.6f} tallied, ${paced:.6f} in the blocks"
    return Law("The budget over time counts no less, and hardly more", holds, figures)


@dataclass
class Group:
    """All that concerns one question, on both sides."""

    booked_usd: float = 0.0
    soft: list[tuple[str, float]] = field(default_factory=list)
    """How requests to providers ended whose usage nobody gave, and what was charged for them."""
    bills: list[Mapping[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        happened = [bill["happened"] for bill in self.bills]
        return f"booked ${self.booked_usd:.9f}, billed ${self.billed_usd:.9f}, bound ${self.bound_usd:.9f}; {self.soft} {happened}"

    @property
    def billed_usd(self) -> float:
        """What the providers charge."""
        return sum(map(bill_usd, self.bills))

    @property
    def apart_usd(self) -> float:
        """What is booked more than billed."""
        return self.booked_usd - self.billed_usd

    @property
    def uncertain(self) -> int:
        """Calls of which the two sides may know different things."""
        return max(len(self.soft), len([bill for bill in self.bills if bill["accepted"] and not bill["confirmed"]]))

    @property
    def bound_usd(self) -> float:
        """What those may differ by: the worst case of so many calls; of one that never reached its provider, what was booked for it."""
        worst = sorted((PRICES[b["model"]].cost_usd(b["tokens_in"], b["longest"]) for b in self.bills if b["accepted"]), reverse=True)
        unseen = sorted((usd for _, usd in self.soft), reverse=True)[: max(0, self.uncertain - len(worst))]
        return sum(worst[: self.uncertain]) + sum(unseen)


def bill_usd(bill: Mapping[str, Any]) -> float:
    """What a provider charges for a call."""
    return PRICES[bill["model"]].cost_usd(bill["tokens_in"], bill["tokens_out"]) if bill["accepted"] else 0.0


def grouped(played: Played) -> dict[str, Group]:
    """By question: what the blocks say, and what the providers do."""
    groups: dict[str, Group] = defaultdict(Group)
    for event in played.events:
        if event.ending in ("cached", "preview"):
            continue
        group = groups[(QUESTION.findall(event.prompt or "") or [""])[-1]]
        group.booked_usd += float(event.block["cost_usd"])
        for call in event.block["calls"]:
            for attempt in call["attempts"]:
                if attempt["input_tokens"] and (attempt["outcome"] != "ok" or call["estimated"]):
                    group.soft.append((attempt["outcome"], attempt["cost_usd"]))
    for bill in played.bills:
        groups[bill["question"]].bills.append(bill)
    return groups


def providers_are_log(played: Played) -> tuple[Law, Law, list[list[str]]]:
    """What is certain is equal; what is not is within its bound. Also, by what happened, how far the books are apart on the mean."""
    groups = grouped(played)
    certain = {name: group for name, group in groups.items() if not group.uncertain}
    apart = [f"{name}: {group}" for name, group in certain.items() if abs(group.apart_usd) > CENT]
    calls = sum(len(group.bills) for group in certain.values())
    exact = Law(
        "Where no call was cut off, blocks and providers agree to the nano-dollar", not apart,
        f"{len(certain)} questions, {calls} calls, ${sum(g.billed_usd for g in certain.values()):.6f}", apart,
    )  # fmt: skip
    others = {name: group for name, group in groups.items() if group.uncertain}
    over = [f"{name}: {group}" for name, group in others.items() if abs(group.apart_usd) > group.bound_usd + CENT]
    booked, billed = sum(g.booked_usd for g in others.values()), sum(g.billed_usd for g in others.values())
    bounded = Law(
        "Where calls were cut off, they differ by no more than those calls' worst case", not over,
        f"{len(others)} questions, {sum(g.uncertain for g in others.values())} such calls: booked ${booked:.6f}, billed ${billed:.6f}, "
        f"bound ${sum(g.bound_usd for g in others.values()):.6f}; with all others "
        f"booked ${sum(g.booked_usd for g in groups.values()):.6f}, billed ${sum(g.billed_usd for g in groups.values()):.6f}",
        over,
    )  # fmt: skip
    return exact, bounded, list(_why_apart(others))


def _why_apart(groups: Mapping[str, Group]) -> Iterator[list[str]]:
    """Of questions with one uncertain call: what its provider did, what the gateway noted, and the two bills."""
    rows: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for group in groups.values():
        doubtful = [bill for bill in group.bills if bill["accepted"] and not bill["confirmed"]]
        if group.uncertain == 1:
            (happened,) = [f"{b['happened']}, {'streamed' if b['streamed'] else 'plain'}" for b in doubtful] or ["nothing"]
            rows[happened, group.soft[0][0] if group.soft else "nothing"].append((group.booked_usd, group.billed_usd))
    for (happened, noted), pairs in sorted(rows.items(), key=lambda row: -len(row[1])):
        booked, billed = np.array(pairs).sum(axis=0)
        apart = f"{(booked - billed) / billed:+.1%}" if billed else "-"
        yield [f"{happened}; noted as {noted}", str(len(pairs)), f"{booked:.6f}", f"{billed:.6f}", apart]


# --- keys ----------------------------------------------------------------------------------------------------------------


def nobody_overspends(played: Played) -> Law:
    """The ledger of each key with a budget, and what the providers bill for it."""
    faults, figures = [], []
    question_of = {seen.question: seen.key for seen in played.seen}
    for name in ("poor", "last"):
        budget = played.keys.kept[name].budget_usd.month or 0.0
        used = used_usd(played.receipts[name])
        bills = [bill for bill in played.bills if question_of.get(bill["question"]) == name]
        billed, doubtful = sum(map(bill_usd, bills)), sum(b["accepted"] and not b["confirmed"] for b in bills)
        worst = max((PRICES[b["model"]].cost_usd(b["tokens_in"], b["longest"]) for b in bills), default=0.0)
        figures.append(f"{name}: ${used:.6f} of ${budget:.6f} used, ${billed:.6f} billed")
        if used > budget + CENT or billed > budget + worst * max(1, doubtful):
            faults.append(figures[-1])
    return Law("No key is overspent by more than one call's uncertainty", not faults, "; ".join(figures), faults)


def nobody_is_refused_early(played: Played) -> Law:
    """A refusal for want of money is right only if nothing of the kind is paid for after it; and what is left pays for no such call."""
    faults, figures = [], []
    for name in ("poor", "last"):
        mine = [seen for seen in played.seen if seen.kind == name]
        refused = [seen.began + seen.seconds for seen in mine if seen.code == "insufficient_quota"]
        after = [seen for seen in mine if refused and seen.began > min(refused) and seen.ending == "answered"]
        left = (played.keys.kept[name].budget_usd.month or 0.0) - used_usd(played.receipts[name])
        worst = max((PRICES[b["model"]].cost_usd(b["tokens_in"], b["longest"]) for b in _first_calls(played, mine)), default=0.0)
        others = Counter(seen.code for seen in mine if seen.ending == "refused" and seen.code != "insufficient_quota")
        figures.append(
            f"{name}: {sum(seen.ending == 'answered' for seen in mine)} of {len(mine)} answered, ${left:.6f} left, "
            f"${worst:.6f} needed for one more" + (f", else {dict(others)}" if others else "")
        )
        if after or not refused or left >= worst:
            faults.append(f"{name}: {len(after)} answered after the first refusal; {len(refused)} refused; ${left:.6f} left")
    return Law("No key is refused for want of money that it has", not faults, "; ".join(figures), faults)


def _first_calls(played: Played, mine: Sequence[Seen]) -> list[dict[str, Any]]:
    questions = {seen.question for seen in mine}
    return [bill for bill in played.bills if bill["question"] in questions and bill["model"] in ("east", "west", "north")]


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


# --- leaks ---------------------------------------------------------------------------------------------------------------


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
    late = [state for state in played.samples if state.at_s >= played.samples[-1].at_s / 2]
    full, last = [state for state in late if state.decided >= REMEMBERED], late[-1]
    figures = f"{played.before.resident_mb:.0f} MB before, {late[0].resident_mb:.0f} MB at half time, {last.resident_mb:.0f} MB at the end"
    if len(full) >= FEWEST:
        slope = float(np.polyfit([s.at_s / 60 for s in full], [s.resident_mb for s in full], 1)[0])
        promise = f"Once {REMEMBERED} decisions are in memory, it grows by less than {MOST_MB_A_MINUTE:g} MB a minute"
        return Law(promise, slope < MOST_MB_A_MINUTE, f"{figures}: {slope:+.2f} MB a minute in the last {len(full) * SAMPLE_S / 60:.1f}")
    promise = f"Until {REMEMBERED} decisions are in memory, it grows by less than {MOST_KB} KB for each"
    if (decided := last.decided - late[0].decided) < FEWEST_DECIDED:
        return Law(promise, True, f"too few decisions to say; {figures}")
    each_kb = 1024 * (last.resident_mb - late[0].resident_mb) / decided
    return Law(promise, each_kb < MOST_KB, f"{figures}: {each_kb:.1f} KB for each of {decided} decisions")
