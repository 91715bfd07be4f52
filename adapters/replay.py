"""Recorded answers served as a backend: policies and strategies run offline on what real models said, at what it cost.

Of a request only the last user message, `n` and the seed count; a recording obeys no stop string, token limit or temperature. How the
files look is in `recordings.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from adapters.errors import BackendRefused
from adapters.options import BY_FILE, Options, PriceOption
from adapters.pricing import estimate_input_tokens
from adapters.recordings import Draw, normalised, read_recording
from adapters.types import Call, ChatRequest, Choice, Delta, Features, Price


class ReplayOptions(Options):
    """Which recording, and what of it."""

    kind: Literal["replay"] = "replay"
    path: Annotated[Path, BY_FILE] = Field(description="of a .jsonl or .jsonl.gz file, from the working directory")
    model_key: str | None = Field(None, description="whose answers; may be left out for samples of a single model")
    price: PriceOption | None = Field(None, description="unset: the recorded cost, where there is one, else nothing")
    when_exhausted: Literal["wrap", "refuse"] = Field("wrap", description="more answers asked for than there are: begin again, or refuse")
    real_time: bool = Field(False, description="answer after the recorded latency instead of at once")


class ReplayBackend:
    """Serves draws without replacement, in an order that the seed decides.

    Neighbouring seeds walk through one order, so that a strategy that counts its seeds up from batch to batch does not see an answer
    twice before it has seen all; without a seed, the calls for one prompt walk on from each other.
    """

    def __init__(self, name: str, options: ReplayOptions, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Reads the whole file, some ten milliseconds for a megabyte; MissingExtra if there is nothing in it to serve."""
        self.name, self.price, self.features = name, options.price or Price(), Features(native_n=True)
        self._options, self._sleep = options, sleep
        self._draws = read_recording(options.path, options.model_key)
        self._correct = {(p, normalised(d.text)): d.correct for p, draws in self._draws.items() for d in reversed(draws)}
        self._served: Counter[str] = Counter()

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """`request.n` recorded answers; BackendRefused with the code `not_recorded` for an unknown prompt."""
        async for _ in self.stream(request, call):
            pass

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, each answer in one piece: how it came is not recorded."""
        draws = self._next(request)
        call.input_tokens = draws[0].input_tokens if draws[0].input_tokens is not None else self.count_tokens(request)
        call.estimated = draws[0].input_tokens is None
        if self._options.real_time:
            await self._sleep(max(draw.latency_s or 0 for draw in draws))
        for index, draw in enumerate(draws):
            call.output_tokens += draw.output_tokens
            call.estimated |= not draw.counted
            if self._options.price is None and draw.cost_usd is not None:
                call.reported_usd = (call.reported_usd or 0) + draw.cost_usd
            call.choices.append(Choice(draw.text))
            yield Delta(draw.text, index, "stop")

    def count_tokens(self, request: ChatRequest) -> int:
        """An estimate: about four bytes a token."""
        return estimate_input_tokens(request)

    def prompts(self) -> Sequence[str]:
        """All prompts that have an answer, white space normalised."""
        return tuple(self._draws)

    def correct(self, prompt: str, text: str) -> float | None:
        """How right this answer was judged when it was recorded, in [0, 1]; None for what was not recorded. For evaluation only."""
        return self._correct.get((normalised(prompt), normalised(text)))

    async def aclose(self) -> None:
        """Nothing to release."""

    def _next(self, request: ChatRequest) -> list[Draw]:
        prompt = normalised(request.prompt)
        draws = self._draws.get(prompt)
        if draws is None:
            raise BackendRefused(self.name, "no answer is recorded for this prompt", code="not_recorded")
        start = self._served[prompt] if request.seed is None else request.seed % len(draws)
        asked = request.n + (start if request.seed is None else 0)
        if asked > len(draws) and self._options.when_exhausted == "refuse":
            raise BackendRefused(self.name, f"{asked} answers asked for, {len(draws)} recorded", code="recording_exhausted")
        if request.seed is None:
            self._served[prompt] += request.n
        order = _order(len(draws), prompt, (request.seed or 0) // len(draws))
        return [draws[order[(start + i) % len(draws)]] for i in range(request.n)]


def _order(length: int, prompt: str, round_: int) -> list[int]:
    """A permutation of the draws of a prompt, another one for each round of seeds."""
    return random.Random(f"{round_}/{prompt}").sample(range(length), length)
