"""The encoder's benchmark: what it says of micro-batches is what the service did, and where nothing was measured it says that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from benchmarks.encoder import AT_ONCE, ROUNDS, batching, gain, on_device
from difficulty.fit import FittedProbe
from difficulty.probe import Estimate


class Counting:
    """A probe that notes how many prompts it was asked at once."""

    backends = ("small",)

    def __init__(self) -> None:
        self.batches: list[int] = []

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        self.batches.append(len(texts))
        return [Estimate({"small": 0.0}, {"small": 0.5}, "probe", len(text.split())) for text in texts]


def test_the_gain_compares_one_by_one_with_what_waits() -> None:
    """Every prompt is read in each of the runs; without batches alone, with them in company."""
    probe, texts = Counting(), [f"question {i}" for i in range(AT_ONCE * ROUNDS)]
    found = gain(probe, texts)
    assert found["gain"] == pytest.approx(found["batched_per_s"] / found["one_by_one_per_s"])
    assert sum(probe.batches) == AT_ONCE + 6 * len(texts)
    assert probe.batches.count(1) >= 3 * len(texts)
    assert max(probe.batches) > AT_ONCE // 2


def test_without_a_gpu_the_page_says_that_nothing_was_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And the program goes on; with one, device and figures are in it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for device in ("auto", "cuda"):
        assert on_device(device, cast("FittedProbe", None), []) is None
        assert "no GPU" in capsys.readouterr().err
    assert "not measured yet, for want of a GPU" in batching(None)
    said = batching({"device": "A GPU", "one_by_one_per_s": 1000.0, "batched_per_s": 7000.0, "gain": 7.0})
    assert "A GPU, torch fp32, 32 prompts" in said
    assert "7.0 times" in said.replace("\n", " ")
