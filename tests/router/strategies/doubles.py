"""Doubles for strategies: a verifier that plays a script, and a run around the shipped scripted backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from adapters.errors import VerifierError
from adapters.scripted import ScriptedBackend, scripted
from adapters.types import Call, ChatRequest, Choice, Price, Verdict
from router.run import Limits, Run

ASKED = ChatRequest(({"role": "user", "content": "Use 1 2 3 to make 6."},))


class ScriptedVerifier:
    """Scores by a function of the text; `read` holds all texts it was shown, in order."""

    scores_prefixes = True

    def __init__(
        self,
        judge: Callable[[str], float | Verdict | None] = lambda text: 0.5,
        *,
        name: str = "reward",
        price: Price | None = None,
        fails_from: int | None = None,
        never: bool = False,
    ) -> None:
        self.name, self.price = name, price or Price()
        self.asked = asyncio.Event()
        self.read: list[str] = []
        self.prompts: list[str] = []
        self.finish_reasons: list[str] = []
        self._judge, self._fails_from, self._never, self._calls = judge, fails_from, never, 0

    async def score(self, request: ChatRequest, choices: Sequence[Choice], call: Call) -> list[Verdict]:
        self._calls += 1
        self.asked.set()
        self.read += [choice.text for choice in choices]
        self.finish_reasons += [choice.finish_reason for choice in choices]
        self.prompts.append(request.prompt)
        call.input_tokens += sum(len(choice.text.split()) for choice in choices)
        await asyncio.sleep(0)
        if self._never:
            await asyncio.Event().wait()
        if self._fails_from is not None and self._calls >= self._fails_from:
            raise VerifierError(self.name, "scripted failure")
        return [self._verdict(choice) for choice in choices]

    def _verdict(self, choice: Choice) -> Verdict:
        judged = self._judge(choice.text)
        return judged if isinstance(judged, Verdict) else Verdict(judged)

    async def aclose(self) -> None: ...


def by_line(step_scores: dict[str, float], default: float = 0.5) -> Callable[[str], Verdict]:
    """A process reward model that knows each line's score by heart; the answer's score is its last line's."""

    def judge(text: str) -> Verdict:
        steps = tuple(step_scores.get(line, default) for line in text.split("\n") if line)
        return Verdict(steps[-1] if steps else 0.0, steps)

    return judge


def a_run(backend: ScriptedBackend | None = None, verifier: Any = None, *, limits: Limits | None = None, **options: Any) -> Run:
    """A run with one backend, `small`, and one verifier, `reward`."""
    return Run(
        {"small": backend or scripted("small", "6")},
        {"reward": verifier or ScriptedVerifier()},
        limits or Limits(),
        **options,
    )


async def yielding(seconds: float) -> None:
    """In place of a sleep: lets everyone else run first, and takes no time."""
    for _ in range(3):
        await asyncio.sleep(0)


def stalls_after(sleeps: int) -> Callable[[float], Awaitable[None]]:
    """In place of a sleep: so many return at once, the next one and all after it never."""
    left = [sleeps]

    async def sleep(seconds: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            await asyncio.Event().wait()

    return sleep
