"""`outlay evaluate`: the tables and the picture, on held-out prompts only, all of them or none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from difficulty.artifact import load_probe, located
from difficulty.labels import TEST, sides
from router import evaluate, offline
from router.offline import opened
from router.options import ProbeOptions
from tests.router.logs import rows, write_config, write_log
from tests.router.test_cli import Captured, outlay


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three settings and few resamples, so that the tests are quick."""
    monkeypatch.setattr(offline, "MULTIPLIERS", (0.5, 1.0, 8.0))
    monkeypatch.setattr(evaluate, "DRAWS", 50)


def command(tmp_path: Path, *more: str) -> list[str]:
    log, config = write_log(tmp_path / "log.jsonl", 60), write_config(tmp_path / "outlay.yaml")
    return ["evaluate", "--log", str(log), "-c", str(config), "--out", str(tmp_path / "out"), *more]


def test_it_says_what_each_policy_gives_and_what_each_method_pays(tmp_path: Path) -> None:
    """Every policy has its points, dearer ones first; every method its price for the reference's quality, the reference's own being 1."""
    assert outlay(*command(tmp_path)) == 0
    found = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert found["prompts"] == 60
    assert [p["multiplier"] for p in found["policies"]["balanced"]] == [0.5, 1.0, 8.0]
    dollars = [p["usd_per_1000"][0] for p in found["policies"]["balanced"]]
    assert dollars == sorted(dollars, reverse=True)
    assert len(found["policies"]["cheap"]) == 1
    assert found["cost_at_reference"]["always large"] == pytest.approx([1, 1, 1])
    assert found["cost_at_reference"]["balanced"][0] < 1
    assert found["against"]["balanced"]["always large"][0] == pytest.approx(found["cost_at_reference"]["balanced"][0])
    page = (tmp_path / "out" / "evaluate.md").read_text()
    assert all(f"| {name} |" in page for name in found["cost_at_reference"])
    assert (tmp_path / "out" / "frontier.png").stat().st_size > 1000


def test_options_turn_what_is_compared(tmp_path: Path, capsys: Captured) -> None:
    """--policy leaves the others out, --against sets the reference; a wrong name of either is one line."""
    assert outlay(*command(tmp_path, "-p", "cheap", "--against", "small")) == 0
    found = json.loads((tmp_path / "out" / "evaluate.json").read_text())
    assert list(found["policies"]) == ["cheap"]
    assert found["cost_at_reference"]["always small"][0] == pytest.approx(1)
    assert outlay(*command(tmp_path, "-p", "chep")) == 2
    assert "did you mean 'cheap'?" in capsys.readouterr().err
    assert outlay(*command(tmp_path, "--against", "larg")) == 2


def test_an_interruption_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the picture is drawn: no folder, no files aside."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "_draw", interrupted)
    before = {"log.jsonl", "outlay.yaml", "curves.json"}
    assert outlay(*command(tmp_path, "-p", "cheap")) == 130
    assert {path.name for path in tmp_path.iterdir()} == before


def test_only_prompts_that_the_fit_kept_are_judged(tmp_path: Path) -> None:
    """With an artifact, about a fifth of the log, the groups that a fit with its seed leaves out; without one, or with --fresh, all."""
    log, config = rows(200), write_config(tmp_path / "outlay.yaml")
    groups, seed = [row["group"] for row in log], load_probe(located("fleet/probe"))[1].seed
    kept = offline._kept(ProbeOptions(encoder="fleet/small", artifact="fleet/probe"), log)
    assert kept == set(np.flatnonzero(sides(groups, seed) == TEST).tolist())
    assert 20 < len(kept) < 60
    assert len(opened(config, write_log(tmp_path / "log.jsonl", 20), fresh=False).rows) == 20
