"""The page: tables, the aims with what came of them, and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

from benchmarks import harness
from benchmarks.overhead.load import CASES, PLAIN, STREAM, Point, middle

NAME, STUB = "overhead", "stub"
OURS = ("outlay", "outlay, probe")
SLOWEST_S = 0.05


@dataclass
class Found:
    """What was measured."""

    versions: dict[str, str]
    ready_s: list[float]
    memory_mb: float
    points: dict[tuple[str, str], list[Point]] = field(default_factory=dict)
    """By load and server, a point for each round."""
    lacking: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """The servers, in the order in which they were measured."""
        return list(dict.fromkeys(name for _, name in self.points))

    def errors(self, load: str, name: str) -> int:
        """Of a server under a load, in all rounds."""
        return sum(point.errors for point in self.points[load, name])

    def ratios(self, of: str, one: tuple[str, str], other: tuple[str, str], less: str = "") -> list[float]:
        """One server's figure over another's in each round; `less` is taken from both first."""
        base = self.points[one[0], less] if less else []
        taken = [getattr(point, of) for point in base] or [0.0] * len(self.points[one])
        rows = zip(self.points[one], self.points[other], taken, strict=True)
        return [(getattr(a, of) - off) / max(getattr(b, of) - off, 1e-9) for a, b, off in rows]


@dataclass(frozen=True)
class Aim:
    """One thing that is to hold."""

    what: str
    values: Sequence[float]
    """One a round."""
    bound: float
    at_least: bool = True
    errors: int = 0
    """Of whom it is compared with: answers that were none, but count in its throughput."""

    @property
    def reached(self) -> bool:
        """By the median of the rounds."""
        return median(self.values) >= self.bound if self.at_least else median(self.values) <= self.bound

    def row(self) -> list[str]:
        """For the table."""
        sign, low, high = "≥" if self.at_least else "≤", min(self.values), max(self.values)
        came = f"{median(self.values):.3g} ({low:.3g} to {high:.3g})"
        result = f"not judged: {self.errors} errors" if self.errors else "reached" if self.reached else "missed"
        return [self.what, f"{sign} {self.bound:.3g}", came, result]


def aims(found: Found) -> Iterator[Aim]:
    """All that can be judged by what was measured."""
    for ours in (name for name in OURS if name in found.names):
        for case in PLAIN.values():
            for other, bound in (("litellm", 15.0), ("portkey", 2.0), ("floor", 0.6), ("tensorzero", 1 / 3)):
                if other in found.names:
                    values = found.ratios("rps", (case.name, ours), (case.name, other))
                    yield Aim(f"{ours}: throughput over {other}'s, {case.name}", values, bound, errors=found.errors(case.name, other))
            if "litellm" in found.names:
                values = found.ratios("p50_s", (case.name, ours), (case.name, "litellm"), STUB)
                yield Aim(f"{ours}: added p50 over litellm's, {case.name}", values, 0.1, at_least=False)
        for other, bound in (("litellm", 15.0), ("portkey", 2.0)):
            if other in found.names:
                values = found.ratios("rps", (STREAM.name, ours), (STREAM.name, other))
                yield Aim(f"{ours}: streams over {other}'s, 16", values, bound, errors=found.errors(STREAM.name, other))
    for where, bound in (("memory", 1.0), ("Redis", 1.5)):
        name = f"outlay, cached in {where}"
        for case in (PLAIN[1], PLAIN[16]):
            if name in found.names:
                values = found.ratios("p50_s", (case.name, name), (case.name, "floor"))
                yield Aim(f"a hit in {where}: p50 over the floor's, {case.name}", values, bound, at_least=False)
    slower = found.ratios("p50_s", ("best of 8", "outlay"), ("best of 8", STUB))
    yield Aim("best of 8: p50 over that of its 128 calls alone", slower, 1.15, at_least=False)
    yield Aim("seconds until `outlay serve` has answered", found.ready_s, 2.0, at_least=False)
    yield Aim("resident MB then", [found.memory_mb], 150.0, at_least=False)


def publish(found: Found, note: str) -> None:
    """The page, the picture and the figures."""
    _picture(found)
    judged = list(aims(found))
    figures = {
        "versions": found.versions,
        "ready_s": found.ready_s,
        "memory_mb": found.memory_mb,
        "lacking": found.lacking,
        "points": [{"load": load, "server": name, "rounds": list(map(asdict, points))} for (load, name), points in found.points.items()],
        "aims": [{**asdict(aim), "reached": aim.reached} for aim in judged],
    }
    harness.publish(NAME, figures, _page(found, judged, note))


def _page(found: Found, judged: Sequence[Aim], note: str) -> str:
    rounds = len(next(iter(found.points.values())))
    peers = ", ".join(f"{name} {version}" for name, version in found.versions.items()) or "no peers"
    lacking = f" Left out, as not installed or not to be started: {', '.join(found.lacking)}." if found.lacking else ""
    failed = [f"{found.errors(*at)} of {at[1]} ({at[0]})" for at in found.points if found.errors(*at)]
    errors = f" Errors: {', '.join(failed)}." if failed else " No errors."
    return f"""# What a request costs beside its model

{harness.command(NAME)}

An upstream that answers at once, and proxies before it: what is measured is the proxy. All servers run side by side, one worker each,
on one core; wrk and the upstream on another. {rounds} interleaved rounds; medians. The *floor* is FastAPI with one pooled aiohttp
session and nothing else. Outlay estimates, decides which of two models answers, decides again, records both decisions and sends them
along; *probe* is the same with the trained probe and its memo warm. {peers}.{lacking}{errors}
{note}

![throughput]({NAME}.png)

Requests a second (p50 in ms):

{_table(found, lambda p: f"{p.rps:,.0f} ({p.p50_s * 1000:.3g})")}

CPU of the server for each request, in µs; it depends less on what else the machine does, though not little:

{_table(found, lambda p: f"{p.cpu_us:,.0f}", without=(STUB,))}

## Aims

The median of the rounds counts, with the least and the greatest beside it.

{harness.table(["", "aim", "found", ""], [aim.row() for aim in judged])}

A best-of-8 makes eight calls at once, each of which takes 50 ms; sixteen such requests are under way, so it is held against the
upstream asked by 128 connections without a proxy: {_best_of_8(found)}.

{WHERE}
"""


WHERE = """\
## Where the time goes

Of the CPU of `outlay` at 16 at a time, by a sampling profiler (`py-spy record -r 400`, forty seconds, 2026-11-28, in one process that
feeds the server's protocol and asks the upstream over loopback): the call to the upstream 19 %, of which 14 are the kernel's, sending it;
what stands around that call (holds, deadline, deployments, concurrency) 14 %; the two decisions 13 %; estimate, policy and limits 7 %; the
decision block, its log, metrics and the line in the server's log 18 %; HTTP, headers, JSON, the response and what is left between them
29 %. Nothing of it stands out any more: a request is about 890 calls of Python functions and 760 of C.

Instructions say more than time on a machine that has other work (`callgrind`, the same process, user space): a request takes 2.7 million,
the floor's 1.4; with aiohttp, metrics kept by prometheus_client and each vote's course worked out anew it was 3.0, and a best-of-8 9.9
where it is 6.6 now. The call itself takes 0.14 million, aiohttp's took 0.42.

What was dear before that: regular expressions that ignore case and begin with `\\b`, 3 % of a short request's own instructions and about
half a millisecond of a prompt of 2,000 characters; frozen dataclasses, which set each field through `object.__setattr__`, 6 % of its time;
the lock of Python 3.11's `cached_property`, 3 %. What was tried and not kept: leaner responses than Starlette's, and a client's leaving
told by its connection, without a task that waits for it, which saved next to nothing; Cython, which took 8 % off a decision and would
need a compiler wherever it is installed (mypyc 2.4 ends in an internal error on the decision's modules). To come within 0.6 of the floor
at every number of clients a request would have to take a quarter less; to reach a third of TensorZero's throughput, it could not be
Python."""


def _best_of_8(found: Found) -> str:
    ours, alone = (middle(found.points["best of 8", name]) for name in ("outlay", STUB))
    return f"p50 {ours.p50_s * 1000:.1f} ms against {alone.p50_s * 1000:.1f} ms"


def _table(found: Found, form: object, without: Sequence[str] = ()) -> str:
    assert callable(form)
    head = ["", *(case.name for case in CASES)]
    names = [name for name in found.names if name not in without]
    rows = [[name, *(form(middle(found.points[c.name, name])) if (c.name, name) in found.points else "" for c in CASES)] for name in names]
    return harness.table(head, rows)


def _picture(found: Found) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in found.names if name != STUB]
    figure, axis = plt.subplots(figsize=(8, 0.42 * len(names) + 1.4))
    values = [middle(found.points[PLAIN[16].name, name]).rps for name in names]
    bars = axis.barh(names, values, color=["C0" if name.startswith("outlay") else "C7" for name in names])
    axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
    axis.set(xlabel="requests a second, 16 at a time", title="One worker on one core, an upstream that answers at once")
    axis.set_xlim(0, max(values) * 1.12)
    axis.invert_yaxis()
    harness.PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(harness.PAGES / f"{NAME}.png", dpi=120, bbox_inches="tight")
