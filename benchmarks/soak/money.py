"""What must hold of the money: decision blocks, the keys' ledger, the metrics and the providers' own books say the same, and no budget is
overrun, nor left while somebody is refused for want of it. Dollars are compared to the nano-dollar."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import log, sqrt
from typing import Any

import numpy as np

from adapters.accounts import NANO, UNITS
from benchmarks.soak.clients import Seen
from benchmarks.soak.laws import Law, Played
from benchmarks.soak.provider import QUESTION
from benchmarks.soak.stage import PRICES, used_usd

NANO_USD = 1 / NANO
ONE_IN = 1e6
"""So seldom may a law be broken by chance alone."""


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
    for event in played.at_rest:
        logged[event.policy] += 0.0 if event.ending == "cached" else float(event.block["cost_usd"])
    measured = {dict(labels)["policy"]: usd for (name, labels), usd in played.metrics.items() if name == "outlay_spend_usd_total"}
    pairs = [(policy, logged.get(policy, 0.0), measured.get(policy, 0.0)) for policy in logged.keys() | measured.keys()]
    by_key = sum(usd for (name, _), usd in played.metrics.items() if name == "outlay_key_spend_usd_total")
    pairs.append(("by key", sum(logged.values()), by_key))
    faults = [f"{what}: log ${log:.9f}, metrics ${metric:.9f}" for what, log, metric in pairs if abs(log - metric) > NANO_USD]
    events = {dict(labels)["outcome"]: n for (name, labels), n in played.metrics.items() if name == "outlay_log_events_total"}
    dropped = events["dropped"]
    faults += [f"{dropped:.0f} events dropped"] if dropped else []
    figures = f"${by_key:.6f} at rest; {dropped:.0f} events of the log dropped"
    return Law("Metrics say the same, by policy and by key", not faults, figures, faults)


def tally_is_log(played: Played) -> Law:
    """Whatever became of Redis, and of its answers."""
    bought = (event for event in played.events if event.policy == "paced" and event.ending != "cached")
    paced = sum(float(event.block["cost_usd"]) for event in bought)
    apart = played.tally_usd - paced
    figures = f"${played.tally_usd:.6f} tallied, ${paced:.6f} in the blocks, ${apart:+.9f} apart"
    return Law("The budget over time is the sum of its decision blocks, to the nano-dollar", abs(apart) <= NANO_USD, figures)


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
    def bounds_usd(self) -> list[float]:
        """What each of those may differ by: the worst case of a call; of one that never reached its provider, what was booked for it."""
        worst = [PRICES[bill["model"]].cost_usd(bill["tokens_in"], bill["longest"]) for bill in self.bills if bill["accepted"]]
        return sorted([*worst, *(usd for _, usd in self.soft)], reverse=True)[: self.uncertain]

    @property
    def bound_usd(self) -> float:
        """What all of them may differ by."""
        return sum(self.bounds_usd)


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
    apart = [f"{name}: {group}" for name, group in certain.items() if abs(group.apart_usd) > NANO_USD]
    calls = sum(len(group.bills) for group in certain.values())
    exact = Law(
        "Where no call was cut off, blocks and providers agree to the nano-dollar", not apart,
        f"{len(certain)} questions, {calls} calls, ${sum(g.billed_usd for g in certain.values()):.6f}", apart,
    )  # fmt: skip
    others = {name: group for name, group in groups.items() if group.uncertain}
    over = [f"{name}: {group}" for name, group in others.items() if abs(group.apart_usd) > group.bound_usd + NANO_USD]
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
    """The ledger of each key with a budget, and what the providers bill for it. What is booked for calls that were cut off is right on the
    mean, so that their errors mostly cancel: of k alike no more than 2.6 * sqrt(k) worst cases are left (Hoeffding), not k."""
    faults, figures, groups = [], [], grouped(played)
    key_of = {seen.question: seen.key for seen in played.seen}
    for name in ("poor", "last"):
        budget = played.keys.kept[name].budget_usd.month or 0.0
        used = used_usd(played.receipts[name])
        mine = [group for question, group in groups.items() if key_of.get(question) == name]
        billed, bounds = sum(group.billed_usd for group in mine), [usd for group in mine for usd in group.bounds_usd]
        luck = min(sum(bounds), sqrt(log(ONE_IN) / 2 * sum(usd**2 for usd in bounds)))
        figures.append(
            f"{name}: ${used:.6f} of ${budget:.6f} used, ${billed:.6f} billed; {len(bounds)} calls cut off, ${sum(bounds):.6f} at worst, "
            f"of which chance explains ${luck:.6f}"
        )
        if used > budget + NANO_USD or billed > budget + luck + NANO_USD:
            faults.append(figures[-1])
    return Law("No key is overspent by more than chance makes of its calls that were cut off", not faults, "; ".join(figures), faults)


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
