"""Curves are written whole, read back the same, and refused where they are not what this version wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from difficulty.belief import Channel, Scores, Success
from difficulty.curves import Curves, CurvesError, Latency, PlanFit, Tokens

CURVES = Curves(
    success={"small": Success(0.1, 0.9, 1.2)},
    tokens={"small": Tokens(3.0, 0.2, 0.3)},
    latency={"small": Latency(0.1, 0.01, 0.2)},
    scores={"reward": Scores((0.5,), (0.2, 0.8), (0.9, 0.1), 0.4)},
    plans={"revise(small)": PlanFit(Channel(0.3), 1.1, 0.9)},
    tempering=0.8,
    source="a log",
)


def test_curves_come_back_as_they_were_written(tmp_path: Path) -> None:
    """File and digest are the same; a changed number changes the digest."""
    CURVES.save(tmp_path / "curves.json")
    assert Curves.load(tmp_path / "curves.json") == CURVES
    assert Curves.load(tmp_path / "curves.json").digest == CURVES.digest
    assert Curves(tempering=0.9).digest != Curves().digest


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 99}', json.dumps(CURVES.as_json() | {"success": {"small": {"oops": 1}}})])
def test_another_file_is_refused_with_what_to_do(tmp_path: Path, content: str) -> None:
    """Empty, foreign, of another version or with unknown numbers: a CurvesError that names the file and `outlay fit`."""
    path = tmp_path / "curves.json"
    path.write_text(content)
    with pytest.raises(CurvesError, match=r"curves\.json: .*outlay fit"):
        Curves.load(path)
    with pytest.raises(CurvesError, match="no such file"):
        Curves.load(tmp_path / "absent.json")


def test_for_whom_a_prompt_is_hard_is_kept_and_changes_no_older_file() -> None:
    """Scores that fall with what is hard for all are read back as such; where none do, the file is what it was before there were any."""
    score = CURVES.scores["reward"]
    shared = replace(CURVES, scores={"reward": replace(score, shared=True)})
    assert Curves.from_json(json.loads(json.dumps(shared.as_json()))) == shared
    assert shared.digest != CURVES.digest
    assert "shared" not in json.dumps(CURVES.as_json())


def test_what_was_not_fitted_has_a_default() -> None:
    """A backend, verifier or plan without a fit is forecast from defaults."""
    assert CURVES.tokens_of("other") == Tokens()
    assert CURVES.latency_of("other") == Latency()
    assert CURVES.plan("other") == PlanFit()
    assert CURVES.scores_of("other").calibrated(0.9) > 0.8


def test_q95_lies_above_the_mean_and_grows_with_the_prompt() -> None:
    """A wider distribution has a higher 95th percentile; a longer prompt a longer answer where the slope is positive."""
    tokens = CURVES.tokens_of("small")
    assert tokens.q95(100) > tokens.mean(100) > tokens.mean(10)
    assert Latency(0.1, 0.01, 0.5).q95(50) > Latency(0.1, 0.01, 0.2).q95(50) > Latency(0.1, 0.01, 0.2).mean(50)
