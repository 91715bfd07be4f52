"""All questions, in rounds: each round asks some of them of every offer, one offer after the other, so that whenever it ends the offers
were asked the same, and each had the gateway to itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from openai import AsyncOpenAI

from fleet.demo.asking import OFFERS, Answer, Offer, ask
from fleet.demo.figures import affordable
from fleet.demo.gateway import Gateway
from fleet.questions import Question


@dataclass
class Progress:
    """What was done so far; whoever shows it reads it while it grows."""

    total: int
    """Questions that each offer will be asked."""
    planned: int
    answers: list[Answer] = field(default_factory=list)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def requests(self) -> int:
        """All that will be asked."""
        return self.total * len(OFFERS)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest will take at the pace so far; None before the first answer."""
        done = len(self.answers)
        return (time.monotonic() - self.began_s) / done * (self.requests - done) if done else None


def rounds(asked: Sequence[Question], size: int) -> list[Sequence[Question]]:
    """The questions in portions."""
    return [asked[start : start + size] for start in range(0, len(asked), size)]


async def warm_up(client: AsyncOpenAI, question: Question) -> None:
    """Every offer once, unmeasured: first calls pay for what is loaded at first use."""
    for offer in OFFERS:
        await ask(client, offer, question)


async def run(
    gateway: Gateway,
    client: AsyncOpenAI,
    portions: Sequence[Sequence[Question]],
    progress: Progress,
    *,
    concurrency: int,
    budget_s: float,
    say: Callable[[str], None],
) -> None:
    """Asks everything; after the first round only as many as fit into the budget. Raises GatewayFailed if the gateway dies."""
    begin = time.monotonic()
    number = len(portions)
    for index, portion in enumerate(portions):
        if index == number:
            break
        for offer in OFFERS:
            gateway.check()
            await _ask_all(client, offer, portion, progress, concurrency)
        if index == 0:
            number = affordable(number, time.monotonic() - begin, budget_s)
            progress.total = sum(map(len, portions[:number]))
        say(f"round {index + 1} of {number}")


async def _ask_all(client: AsyncOpenAI, offer: Offer, portion: Sequence[Question], progress: Progress, concurrency: int) -> None:
    places = asyncio.Semaphore(concurrency)

    async def one(question: Question) -> None:
        async with places:
            progress.answers.append(await ask(client, offer, question))

    async with asyncio.TaskGroup() as group:
        for question in portion:
            group.create_task(one(question))
