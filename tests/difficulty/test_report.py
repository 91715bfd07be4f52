"""The report of a fitted probe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difficulty.errors import FitError
from difficulty.fit import FittedProbe, fit_probe
from difficulty.labels import TEST, Labelled, sides, table
from difficulty.report import PROBE, VARIANTS, Report, judge, summary, write_report
from tests.difficulty.doubles import SignalEncoder, labelled


@pytest.fixture(scope="module")
def fitted() -> FittedProbe:
    return fit_probe(labelled(600), SignalEncoder())


@pytest.fixture(scope="module")
def report(fitted: FittedProbe) -> Report:
    return judge(fitted, times=100)


def test_the_probe_stands_above_prompt_length_and_the_base_rate(report: Report) -> None:
    """Here ease has nothing to do with length, so length alone is worth nothing."""
    for variants in report.values():
        assert variants[PROBE].figures["auroc"].low > 0.7
        assert abs(variants["length alone"].figures["auroc"].value - 0.5) < 0.12
        assert variants["base rate"].figures["auroc"].value == 0.5
        assert variants[PROBE].figures["brier"].value < variants["base rate"].figures["brier"].value


def test_taking_away_what_carries_the_signal_costs_and_the_rest_does_not(report: Report) -> None:
    small = report["small"]
    assert small["without hidden states"].lost.low > 0.1
    assert abs(small["without likelihood"].lost.value) < 0.03
    assert abs(small["without length"].lost.value) < 0.03
    assert small[PROBE].lost == (0.0, 0.0, 0.0)


def test_the_files_hold_every_figure_and_a_picture(fitted: FittedProbe, tmp_path: Path) -> None:
    report = write_report(fitted, tmp_path, times=20)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(summary(fitted, report)))
    page = (tmp_path / "report.md").read_text()
    for name in (*VARIANTS, "`small`", "`large`", "layer 1, last"):
        assert name in page
    assert str(report["large"][PROBE].figures["auroc"]) in page
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "reliability.svg").read_text()


def test_more_resamples_give_another_interval_of_the_same_figure(fitted: FittedProbe, report: Report) -> None:
    other = judge(fitted, times=10)["small"][PROBE].figures["auroc"]
    ours = report["small"][PROBE].figures["auroc"]
    assert other.value == ours.value
    assert other != ours


def test_a_backend_without_a_test_label_is_refused() -> None:
    rows = labelled(200)
    test = {p for p, side in zip(table(rows).prompts, sides(table(rows).groups, 0), strict=True) if side == TEST}
    kept: list[Labelled] = [row for row in rows if row.backend == "small" or row.prompt not in test]
    with pytest.raises(FitError, match="backend 'large': no labels on the test side"):
        judge(fit_probe(kept, SignalEncoder()), times=5)
