"""Prometheus metrics: counted where a request ends, a label is given or a request is refused; states are read when somebody scrapes.

Labels are names of the configuration, and so bounded: what a client may choose freely (a plan, a tag, a user) is never one, and a key's id
only if asked for. What is counted stays a number in a dictionary until somebody scrapes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.errors import LedgerDown, OverQuota, RateLimited, RouterError
from router.events import ANSWERED, Ending
from router.job import Job
from router.keys import NOBODY
from router.lessons import Judged
from router.online import Online
from router.options import MetricsOptions
from router.parts import Parts
from router.record import waited_s
from router.shadow_policies import ShadowPolicies
from router.splits import Arm

OVERHEAD_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1, 5)
REQUEST_S = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)
LEDGER = (RateLimited, OverQuota, LedgerDown)
BUCKETS = 10
"""Of chances, from 0 to 1, for calibration."""


Family = type[CounterMetricFamily] | type[GaugeMetricFamily]


class Series(Collector):
    """A counter, or a gauge, by its labels. prometheus_client's own take a lock and ten calls for each number, and a request has twenty."""

    def __init__(self, kind: Family, name: str, about: str, labels: Sequence[str]) -> None:
        self._kind, self._name, self._about, self._labels = kind, name, about, labels
        self._sums: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Add to what these labels have; it begins at 0."""
        self._sums[labels] = self._sums.get(labels, 0.0) + by

    def collect(self) -> Iterator[Metric]:
        """As Prometheus wants it."""
        family = self._kind(self._name, self._about, labels=self._labels)
        for labels, value in self._sums.items():
            family.add_metric(labels, value)
        yield family


class Metrics:
    """All that one process counts; it outlives every configuration that the process runs with."""

    def __init__(self, options: MetricsOptions | None = None) -> None:
        self.options, self.registry = options or MetricsOptions(), CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, open files, CPU time; on Linux
        series, histogram = self._series, partial(Histogram, registry=self.registry)
        self._requests = series("outlay_requests", "Requests, by how they ended", "policy", "plan", "status")
        self._overhead = histogram("outlay_overhead_seconds", "Time without any backend, verifier or judge", buckets=OVERHEAD_S)
        self._waited = histogram("outlay_upstream_seconds", "Time in which at least one call was under way", buckets=REQUEST_S)
        self._first_word = histogram("outlay_first_token_seconds", "Of streams, until the first word", buckets=REQUEST_S)
        self._spend = series("outlay_spend_usd", "US dollars spent", "policy")
        self._baseline = series("outlay_baseline_usd", "What answered requests would have cost with the baseline backend", "policy")
        self._saved = series(
            "outlay_saved_usd", "Baseline less spend of answered requests, since the start", "policy", kind=GaugeMetricFamily
        )
        self._actions = series("outlay_actions", "Plans run; a request may run several", "policy", "plan")
        self._calls = series("outlay_calls", "Calls of backends, verifiers and probe", "kind", "target", "outcome")
        self._attempts = series("outlay_attempts", "Requests that calls consist of", "deployment", "kind", "outcome")
        self._looks = series("outlay_cache_lookups", "Requests that looked into the cache, by what came of it", "outcome")
        self._degraded = series("outlay_degraded", "Requests that did without something", "component")
        self._by_key = series("outlay_key_spend_usd", "US dollars spent by key", "key") if self.options.by_key else None
        self._refused = series("outlay_errors", "Errors that went out instead of an answer; see router/errors.py", "error", "status")
        self._ledger = series("outlay_ledger_refusals", "Those that a key's limits are the reason of", "error")
        self._arms = series("outlay_split_requests", "Requests of each arm of a split, by how they ended", "split", "arm", "status")
        self._arm_spend = series("outlay_split_spend_usd", "US dollars spent by arm", "split", "arm")
        self._arm_believed = series("outlay_split_believed", "Sum of the chances of answers, by arm", "split", "arm")
        self._arm_labels = series("outlay_split_feedback", "Answers judged, by arm", "split", "arm")
        self._arm_right = series("outlay_split_feedback_right", "Sum of their labels", "split", "arm")
        self._labels = series("outlay_feedback", "Answers judged, by the chance believed (its bucket's lower end)", "chance")
        self._right = series("outlay_feedback_right", "Sum of the labels", "chance")
        self._believed = series("outlay_feedback_believed", "Sum of the chances", "chance")

    def _series(self, name: str, about: str, *labels: str, kind: Family = CounterMetricFamily) -> Callable[..., None]:
        series = Series(kind, name, about, labels)
        self.registry.register(series)
        return series.add

    def ended(self, job: Job, decision: Mapping[str, Any], ending: Ending) -> None:
        """A request was decided, and ended so."""
        run, policy, usd = job.run, job.policy_name, float(decision["cost_usd"])
        self._requests(policy, _plan(job, decision["plan"]), ending)
        waited = waited_s(run.calls)
        self._overhead.observe(max(0.0, run.elapsed_s - waited))
        if waited:
            self._waited.observe(waited)
        if job.first_token_s is not None:
            self._first_word.observe(job.first_token_s)
        if usd:
            self._spend(policy, by=usd)
        if ending in ANSWERED and (baseline := decision.get("baseline_usd")):
            self._baseline(policy, by=baseline)
            self._saved(policy, by=baseline - usd)
        if job.arm is not None:
            self._in_split(job.arm, ending, usd, float(decision["chance"]))
        for action in job.actions:
            self._actions(policy, _plan(job, action.plan.key))
        for call in run.calls:
            self._calls(call.kind, call.target, call.outcome)
            for attempt in call.attempts:
                self._attempts(attempt.deployment, attempt.kind, attempt.outcome)
        if job.look is not None:
            self._looks(job.look)
        for component in run.degraded:
            self._degraded(component)
        if self._by_key is not None and usd and job.ask.purse.key is not NOBODY:
            self._by_key(job.ask.purse.key.id, by=usd)

    def _in_split(self, arm: Arm, ending: Ending, usd: float, chance: float) -> None:
        self._arms(*arm, ending)
        self._arm_spend(*arm, by=usd)
        if ending in ANSWERED:
            self._arm_believed(*arm, by=chance)

    def refused(self, error: RouterError) -> None:
        """A request got an error instead of an answer. A provider's own code is not shown: there is no end of them."""
        name = type(error).__name__
        self._refused(name, str(error.status))
        if isinstance(error, LEDGER):
            self._ledger(name)

    def judged(self, judged: Judged, label: float) -> None:
        """Somebody said how right an answer is."""
        chance = judged.sent.chance
        if judged.status != "recorded":
            return
        if judged.arm is not None:
            self._arm_labels(*judged.arm)
            self._arm_right(*judged.arm, by=label)
        if chance is None:
            return
        bucket = f"{min(BUCKETS - 1, int(chance * BUCKETS)) / BUCKETS:g}"
        self._labels(bucket)
        self._right(bucket, by=label)
        self._believed(bucket, by=chance)

    def shown(self, parts: Parts, online: Online) -> bytes:
        """In Prometheus' text format, with the states of now."""
        scrape = CollectorRegistry()
        scrape.register(_States(parts, online))
        return generate_latest(self.registry) + generate_latest(scrape)


def _plan(job: Job, key: str | None) -> str:
    """A plan of the policy by its key; what a client forced, and what no policy lists, has no name of its own."""
    return "none" if key is None else key if key in job.parts.plan_keys.get(job.policy_name, ()) else "other"


# --- read at a scrape ---------------------------------------------------------------------------------------------------

EXPECTED = "Of the shadow beyond the policy, summed over first decisions"
COMPONENT_OK = "0 where readiness names a trouble"
Sample = tuple[str, str, Mapping[str, str], float]
"""Name, help, labels, value."""


class _States(Collector):
    """What is so now, of the parts that are in use."""

    def __init__(self, parts: Parts, online: Online) -> None:
        self._parts, self._online = parts, online

    def collect(self) -> Iterator[Metric]:
        """One family for each name."""
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, about, labels, value in chain(_of_parts(self._parts), _of_online(self._online)):
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            family = families.setdefault(name, kind(name, about, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        return iter(families.values())


def _of_parts(parts: Parts) -> Iterator[Sample]:
    yield "outlay_tasks", "What is under way in the process, the server's own tasks included; at rest it is always the same", {}, _tasks()
    probe = parts.probe
    for outcome, count in getattr(probe, "counts", {}).items():
        yield "outlay_probe_estimates_total", "Estimates, by what became of them", {"outcome": outcome}, count
    if (waiting := getattr(probe, "waiting", None)) is not None:
        yield "outlay_probe_queue", "Prompts that wait for the probe", {}, waiting
    for outcome, count in parts.semantic.counts.items() if parts.semantic else ():
        yield "outlay_semantic_cache_total", "Looks for a question that asks the same, by what came of them", {"outcome": outcome}, count
    if (down := getattr(parts.cache, "down", None)) is not None:
        yield "outlay_component_ok", COMPONENT_OK, {"component": "cache"}, not down
    for name, backend in parts.backends.items():
        for deployment, state in _states_of(backend):
            yield "outlay_deployment_state", "1 for the state that it is in", {"backend": name, "deployment": deployment, "state": state}, 1


def _tasks() -> int:
    """Tasks of the loop that runs; none where no loop does."""
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        return 0


def _states_of(backend: object) -> Iterable[tuple[str, str]]:
    """By deployment, as the backend tells; a backend without `states` has none."""
    states = getattr(backend, "states", None)
    return states().items() if callable(states) else ()


def _of_online(online: Online) -> Iterator[Sample]:
    for writer in online.writers:
        for outcome in ("written", "dropped"):
            labels = {"sink": writer.name.removeprefix("log:"), "outcome": outcome}
            yield "outlay_log_events_total", "Events of the decision log", labels, writer.counts[outcome]
    for component, state in online.states().items():
        yield "outlay_component_ok", COMPONENT_OK, {"component": component}, state == "ok"
    for test in online.watch.alarms:
        yield "outlay_drift_alarm", "1 for a test that gave alarm", {"test": test}, 1
    for verifier, health in online.lessons.health.items():
        of = {"verifier": verifier}
        yield "outlay_verifier_labels", "Weight of the feedback on answers that it scored", of, health.labels
        yield "outlay_verifier_auc", "Chance that a right answer scored above a wrong one", of, health.auc
        yield "outlay_verifier_agreement", "Share of the answers on whose side of .5 it was right", of, health.agreement
    for outcome, count in (online.tracing.writer.counts if online.tracing else {}).items():
        yield "outlay_traces_total", "Traces, by what became of them", {"outcome": outcome}, count
    yield from _beside(online.shadow_policies)
    if online.shadow is not None:
        for outcome, count in online.shadow.counts.items():
            yield "outlay_shadow_calls_total", "Second opinions, by what became of them", {"outcome": outcome}, count
        yield "outlay_shadow_usd_total", "US dollars that second opinions cost", {}, online.shadow.total_usd


def _beside(shadows: ShadowPolicies) -> Iterator[Sample]:
    """What policies in shadow would have done."""
    for outcome, count in shadows.counts.items():
        yield "outlay_shadow_policy_comparisons_total", "Requests compared, by what became of it", {"outcome": outcome}, count
    for (policy, shadow), tally in list(shadows.tallies.items()):
        of = {"policy": policy, "shadow": shadow}
        for (point, outcome), count in tally.decisions.items():
            yield "outlay_shadow_policy_decisions_total", "Decisions of the two", {**of, "point": point, "outcome": outcome}, count
        gain = {
            "right": tally.gain.right,
            "usd": tally.gain.cost_usd,
            "seconds": tally.gain.latency_s,
            "utility_usd": tally.gain.utility_usd,
        }
        for name, value in gain.items():
            if value is not None:  # a sum of what may be less than nothing, so no counter
                yield f"outlay_shadow_policy_expected_{name}", EXPECTED, of, value
