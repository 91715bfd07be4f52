"""Doubles of this folder: an encoder whose states hold a known signal, and a probe that a test can hold, fail and watch."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from difficulty.encoders import Encoding, View
from difficulty.labels import Labelled
from difficulty.probe import Estimate

NOISE, SIGNAL = View(1, "last"), View(2, "last")
WIDTH = 8


class SignalEncoder:
    """States drawn from a hash of the text; in `SIGNAL` the first number is the text's ease, in `NOISE` none is."""

    name = "signal"
    digest = "5" * 64
    views = (NOISE, SIGNAL)

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        states = {view: np.array([_state(text, view) for text in texts]) for view in views}
        tokens = np.array([len(text.split()) for text in texts])
        return Encoding(states, tokens, tokens + 2, np.array([_draw(text, "nll", 1)[0] for text in texts], dtype=np.float32))


def ease(text: str) -> float:
    """What makes a text easy, standard normal."""
    return float(_draw(text, "ease", 1)[0])


def labelled(number: int, *, draws: int = 4, backends: Sequence[str] = ("small", "large"), strength: float = 2.0) -> list[Labelled]:
    """Labels of so many prompts: ease makes right, and each backend is better than the one before by 1.5 logits."""
    rng = np.random.default_rng(7)
    prompts = [f"question {i} of {'many ' * (i % 5)}words" for i in range(number)]
    return [
        Labelled(prompt, backend, int(rng.binomial(draws, 1 / (1 + np.exp(-strength * ease(prompt) - 1.5 * rank)))), draws)
        for prompt in prompts
        for rank, backend in enumerate(backends)
    ]


def _state(text: str, view: View) -> np.ndarray:
    state = _draw(text, str(view), WIDTH)
    if view == SIGNAL:
        state[0] = ease(text)
    return state


def _draw(text: str, salt: str, size: int) -> np.ndarray:
    return np.random.default_rng(zlib.crc32(f"{salt}:{text}".encode())).standard_normal(size).astype(np.float32)


class WatchedProbe:
    """Notes its batches; waits for `gate` before it answers; `fails` may raise for a text."""

    backends = ("small",)

    def __init__(self, fails: Callable[[str], None] = lambda text: None) -> None:
        self.batches: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.fails = fails

    def estimate(self, texts: Sequence[str]) -> list[Estimate]:
        self.batches.append(list(texts))
        self.entered.release()
        assert self.gate.wait(30)
        for text in texts:
            self.fails(text)
        return [Estimate({"small": float(len(t))}, {"small": 0.5}, "probe", len(t), tokens_read=len(t)) for t in texts]
