"""The report of a fitted probe on the prompts it never saw: how well it ranks, how well it is calibrated, and what each part is worth.

Beside it stand prompt length alone (which is hard to beat on public routing sets) and the base rate. matplotlib is needed for the
reliability plot only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from difficulty.encoders import Encoding
from difficulty.errors import FitError
from difficulty.fit import FittedProbe, fit_head
from difficulty.labels import TEST, Counts
from difficulty.metrics import METRICS, Figure, auroc, difference, figure, reliability, resamples
from difficulty.probe import Array, design

PROBE = "probe"
VARIANTS: dict[str, frozenset[str]] = {
    PROBE: frozenset({"states", "length", "nll"}),
    "without hidden states": frozenset({"length", "nll"}),
    "without length": frozenset({"states", "nll"}),
    "without likelihood": frozenset({"states", "length"}),
    "length alone": frozenset({"length"}),
    "base rate": frozenset(),
}
"""Which groups of features each variant keeps."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One variant on one backend, on the test side."""

    figures: Mapping[str, Figure]
    lost: Figure
    """AUROC that the whole probe has more than this variant, paired."""
    bins: tuple[Array, Array, Array]
    """Share of draws, mean prediction, observed rate of the bins of the reliability plot."""


Report = dict[str, dict[str, Judged]]
"""By backend, then by variant."""


def judge(fitted: FittedProbe, *, times: int = 500) -> Report:
    """All variants on all backends, with `times` bootstrap resamples. Raises FitError if a backend has no labels to test on."""
    predictions = {name: _predictions(fitted, kept) for name, kept in VARIANTS.items()}
    return {backend: _judge_backend(fitted, m, backend, predictions, times) for m, backend in enumerate(fitted.head.backends)}


def write_report(fitted: FittedProbe, folder: Path, *, times: int = 500) -> Report:
    """`report.md`, `report.json`, `reliability.png` and `reliability.svg` in that folder."""
    report = judge(fitted, times=times)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(summary(fitted, report), indent=1, allow_nan=False) + "\n")
    (folder / "report.md").write_text(_markdown(fitted, report))
    _plot(report, folder)
    return report


def summary(fitted: FittedProbe, report: Report) -> dict[str, Any]:
    """Plain data: for `report.json`, and for the figures of `probe.json`."""
    choice = fitted.choice
    return {
        "prompts": {"train": _count(fitted, 0), "validation": _count(fitted, 1), "test": _count(fitted, 2)},
        "groups": len(set(fitted.table.groups)),
        "layer": choice.view.layer,
        "pooling": choice.view.pooling,
        "dimensions": choice.dimensions,
        "strengths": dict(choice.strengths),
        "validation_loss": dict(choice.considered),
        "test": {backend: {name: _plain(judged) for name, judged in variants.items()} for backend, variants in report.items()},
    }


# --- judging ----------------------------------------------------------------------------------------------------------


def _predictions(fitted: FittedProbe, kept: frozenset[str]) -> Array:
    """P(correct) of every prompt, shape [P, M], by a probe that is fitted anew on the groups of features kept."""
    encoding = _only(fitted.encoding, kept)
    head = fitted.head
    if kept != VARIANTS[PROBE]:
        head, _ = fit_head(encoding, fitted.table, fitted.side, fitted.choice, seed=fitted.seed)
    return head.p_correct(head.decision(design(encoding, head.view)))


def _only(encoding: Encoding, kept: frozenset[str]) -> Encoding:
    """The others are zero: a constant column, which scaling and penalty leave at weight 0."""
    return replace(
        encoding,
        states={v: s if "states" in kept else np.zeros_like(s) for v, s in encoding.states.items()},
        tokens=encoding.tokens if "length" in kept else np.zeros_like(encoding.tokens),
        nll=encoding.nll if "nll" in kept else np.zeros_like(encoding.nll),
    )


def _judge_backend(fitted: FittedProbe, m: int, backend: str, predictions: Mapping[str, Array], times: int) -> dict[str, Judged]:
    rows: Counts = np.flatnonzero((fitted.side == TEST) & (fitted.table.draws[backend] > 0))
    if not len(rows):
        raise FitError(f"backend '{backend}': no labels on the test side; label some hundred prompts of it")
    k, n = fitted.table.successes[backend][rows], fitted.table.draws[backend][rows]
    samples = resamples([fitted.table.groups[i] for i in rows], times, fitted.seed)
    whole = predictions[PROBE][rows, m]
    judged = {}
    for name, everywhere in predictions.items():
        p = everywhere[rows, m]
        figures = {metric: figure(f, p, k, n, samples) for metric, f in METRICS.items()}
        judged[name] = Judged(figures, difference(auroc, whole, p, k, n, samples), reliability(p, k, n))
    return judged


def _count(fitted: FittedProbe, side: int) -> int:
    return int((fitted.side == side).sum())


# --- writing ----------------------------------------------------------------------------------------------------------


def _plain(judged: Judged) -> dict[str, Any]:
    figures = {**judged.figures, "auroc_lost": judged.lost}
    return {name: [None if v != v else round(v, 4) for v in values] for name, values in figures.items()}


_HEADER = "| features | Spearman with pass rate | AUROC | Brier | calibration error | AUROC lost |\n|---|---|---|---|---|---|\n"


def _markdown(fitted: FittedProbe, report: Report) -> str:
    sides = summary(fitted, report)["prompts"]
    choice = fitted.choice
    views = "".join(f"| {name} | {loss:.4f} |\n" for name, loss in sorted(choice.considered.items(), key=lambda item: item[1]))
    tables = "".join(f"\n## Backend `{backend}`\n\n{_HEADER}{''.join(map(_line, v, v.values()))}" for backend, v in report.items())
    return (
        f"# Report of the probe\n\n"
        f"{len(fitted.table.prompts)} prompts in {len(set(fitted.table.groups))} groups of near-duplicates: {sides['train']} to train, "
        f"{sides['validation']} to choose by, {sides['test']} to test on. All figures are on the test side, which nothing was fitted or "
        f"chosen on, with 95 % intervals from a bootstrap over groups. A draw is one answer; the calibration error has 15 bins of equal "
        f'mass. "AUROC lost" is what the whole probe has more than the variant, on the same resampled prompts.\n{tables}\n'
        f"![reliability](reliability.png)\n\n"
        f"## What was chosen\n\n"
        f"Layer {choice.view.layer}, pooling {choice.view.pooling}, {choice.dimensions} principal components, "
        f"C = {', '.join(f'{c:g} for {name}' for name, c in choice.strengths.items())}. "
        f"Log loss of a draw on the validation side, best of each view:\n\n"
        f"| view | log loss |\n|---|---|\n{views}"
    )


def _line(name: str, judged: Judged) -> str:
    return f"| {name} | {' | '.join(str(judged.figures[metric]) for metric in METRICS)} | {judged.lost} |\n"


def _plot(report: Report, folder: Path) -> None:
    """Predicted against observed, a panel for each backend; the size of a dot is its share of the draws."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(3.6 * len(report), 3.6), layout="constrained")
    FigureCanvasAgg(canvas)
    for axis, (backend, variants) in zip(canvas.subplots(1, len(report), squeeze=False)[0], report.items(), strict=True):
        mass, predicted, observed = variants[PROBE].bins
        axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        axis.scatter(predicted, observed, s=600 * mass, alpha=0.8)
        axis.plot(predicted, observed, linewidth=1)
        axis.set(title=backend, xlabel="predicted P(correct)", ylabel="observed", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    canvas.savefig(folder / "reliability.png", dpi=150)
    canvas.savefig(folder / "reliability.svg")
