"""A local transformers classifier as verifier: an outcome reward model, or a process reward model that also scores unfinished answers.

Answers of all callers that wait together go through the model together (`microbatch.py`); how one is read is in `reward_reader.py`.
A `calibration.json` in the model's folder, {"x": [log-odds], "y": [probability]}, is applied to what the model says; without one the
logistic function is.
"""

from __future__ import annotations

import asyncio
import json
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from adapters.answers import is_finished
from adapters.errors import AdapterError, MissingExtra, VerifierError
from adapters.microbatch import Closed, Flooded, MicroBatcher
from adapters.model_folder import model_config, model_folder
from adapters.options import BY_FILE, Options, PriceOption
from adapters.reward_reader import Mode, Reading, RewardReader, Unreadable
from adapters.scoring import unless_all_failed
from adapters.types import Call, ChatRequest, Choice, Price, Verdict

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {"last": lambda steps: steps[-1], "min": min, "prod": math.prod}


LOADING_FAILS = (AdapterError, OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, AssertionError, Closed)
"""What transformers and torch raise for a damaged file, an unknown class, a device that is not there (AssertionError, if torch was built
without it)."""


class RewardModelOptions(Options):
    """Which model, and how its scores are read."""

    kind: Literal["reward_model"] = "reward_model"
    model: Annotated[str, BY_FILE] = Field(description="a folder (./mine, fleet/reward) or a name on the Hugging Face hub")
    revision: Annotated[str | None, BY_FILE] = Field(None, description="of a model on the hub")
    mode: Literal["auto", "outcome", "process"] = Field("auto", description="auto: by the model's architecture")
    separator: str = Field("\n", min_length=1, description="ends a step; a process reward model is read there")
    aggregate: Literal["last", "min", "prod"] = Field("last", description="of the step scores: the answer's score")
    positive_label: int = Field(-1, description="index of the label that means right, for a model with several")
    price: PriceOption = Price()
    max_batch: int = Field(64, ge=1, description="answers read together")
    max_batch_tokens: int = Field(32_768, ge=1, description="tokens read together, padding counted: bounds the memory of a batch")
    prefix_cache_mb: float = Field(
        64, ge=0, description="of what was computed for prompts and steps, where a causal model scores steps; 0: each answer is read anew"
    )
    max_waiting: int = Field(1024, ge=1, description="answers that may wait; past it scoring fails at once")
    timeout_s: float = Field(30, gt=0, description="for one call's answers, waiting included, loading not")
    threads: int = Field(1, ge=1, description="of torch")
    device: str = Field("auto", description="auto: a GPU if there is one; else cpu, cuda, cuda:1, mps")


class RewardModel:
    """Scores answers with the model; loaded by `load`, or at the first answer."""

    def __init__(self, name: str, options: RewardModelOptions) -> None:
        self.name, self.price = name, options.price
        self._options = options
        self._mode: Mode = _mode(name, options)
        self.scores_prefixes = self._mode == "process"
        self.caches_prefix = self.scores_prefixes and options.prefix_cache_mb > 0
        self._reader: RewardReader | None = None
        self._calibration: Calibration | None = None
        self._batcher: MicroBatcher[Reading, list[float] | Unreadable] = MicroBatcher(
            f"verifier-{name}", self._read, max_batch=options.max_batch, max_waiting=options.max_waiting
        )

    async def load(self) -> None:
        """Load the model, off the event loop. Raises VerifierError if it cannot be."""
        try:
            await self._batcher.run_in_thread(self._load)
        except LOADING_FAILS as error:
            raise VerifierError(self.name, f"'{self._options.model}' cannot be loaded: {error}") from error

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        """One verdict for each answer, with its steps if the model scores steps. Equal answers are read, and charged, once.

        Raises VerifierError if the model is not there, too many answers wait, it takes too long, or none of the answers could be read.
        """
        if not choices:
            return []
        if self._reader is None:
            await self.load()
        readings = [Reading(request.prompt, choice.text, is_finished(choice), call) for choice in choices]
        distinct = list(dict.fromkeys(readings))
        verdicts = dict(zip(distinct, map(self._verdict, await self._submit(distinct)), strict=True))
        return unless_all_failed([verdicts[reading] for reading in readings])

    async def aclose(self) -> None:
        """Fail what waits, end the thread, let the model go."""
        await self._batcher.aclose()
        self._reader = None

    async def _submit(self, readings: Sequence[Reading]) -> list[list[float] | Unreadable | Exception]:
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await self._batcher.submit(readings)
        except TimeoutError:
            raise VerifierError(self.name, f"no score within {self._options.timeout_s:g} s") from None
        except (Flooded, Closed) as error:
            raise VerifierError(self.name, str(error)) from None

    def _verdict(self, log_odds: list[float] | Exception) -> Verdict | VerifierError:
        if isinstance(log_odds, Exception):
            return VerifierError(self.name, f"{type(log_odds).__name__}: {log_odds}")
        if not all(map(math.isfinite, log_odds)):
            return VerifierError(self.name, "the model's score is not a number")
        scores = tuple(map(self._calibration or logistic, log_odds))
        return Verdict(AGGREGATES[self._options.aggregate](scores), scores if self._mode == "process" else ())

    # --- in the thread --------------------------------------------------------------------------------------------------------

    def _load(self) -> None:
        if self._reader is not None:
            return
        import torch

        torch.set_num_threads(self._options.threads)
        folder, o = model_folder(self._options.model, self._options.revision), self._options
        self._calibration = Calibration.beside(folder)
        self._reader = RewardReader(
            folder, self._mode, separator=o.separator, device=o.device, max_batch_tokens=o.max_batch_tokens, positive=o.positive_label,
            prefix_bytes=int(o.prefix_cache_mb * 1e6),
        )  # fmt: skip

    def _read(self, readings: Sequence[Reading]) -> Sequence[list[float] | Unreadable]:
        assert self._reader is not None, "load comes first"
        return self._reader.read(readings)


@dataclass(frozen=True)
class Calibration:
    """A monotone, piecewise linear map from log-odds to probability; flat outside its knots."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    @classmethod
    def beside(cls, folder: Path) -> Calibration | None:
        """The calibration in a model's folder, if there is one. Raises ValueError for one that is none."""
        file = folder / "calibration.json"
        if not file.is_file():
            return None
        found = json.loads(file.read_text())
        x, y = tuple(map(float, found["x"])), tuple(map(float, found["y"]))
        rising = all(a <= b for a, b in pairwise(x)) and list(y) == sorted(y)
        if not x or len(x) != len(y) or not rising or not 0 <= y[0] <= y[-1] <= 1:
            raise ValueError(f"{file}: x and y may not fall, y stays within 0 and 1, and both are of one length")
        return cls(x, y)

    def __call__(self, value: float) -> float:
        """The probability."""
        i = bisect_right(self.x, value)
        if i in (0, len(self.x)):
            return self.y[0 if i == 0 else -1]
        share = (value - self.x[i - 1]) / (self.x[i] - self.x[i - 1])
        return self.y[i - 1] + share * (self.y[i] - self.y[i - 1])


def logistic(log_odds: float) -> float:
    """The probability; no overflow on either side."""
    return 0.5 * (1 + math.tanh(log_odds / 2))


def _mode(name: str, options: RewardModelOptions) -> Mode:
    """Outcome or process, as said or as the model's architecture tells; nothing of the model is loaded for it."""
    if options.mode != "auto":
        return options.mode
    architectures = model_config(options.model, options.revision).get("architectures") or ()
    for architecture in map(str, architectures):
        if architecture.endswith("ForTokenClassification"):
            return "process"
        if architecture.endswith("ForSequenceClassification"):
            return "outcome"
    found = ", ".join(map(str, architectures)) or "no architecture in its config.json"
    raise MissingExtra(f"verifier '{name}': '{options.model}' is no classifier ({found}); name one, or set mode to outcome or process")
