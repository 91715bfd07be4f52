"""A chain of attempts: each sees the ones before and what the verifier held against them; the best of the chain is kept.

Source: Snell et al. 2024, "Scaling LLM test-time compute optimally", section 6. The best is kept, not the last, because a model that
revises also breaks right answers. The fleet's small model is trained on the very words of `verdict_text`.
"""

from __future__ import annotations

from collections.abc import Sequence

from adapters.types import ChatRequest, Message
from policies.plans import Revise
from router.candidates import Candidate
from router.run import Run, Scored
from router.strategies.answers import buy, more, top

ATTEMPTS_SHOWN = 3
"""How many of the last attempts a new one sees, so that the prompt does not grow with the chain."""

FIRST_STEP_BASELINE = 0.2
"""What the first step is compared with, having none before it: it looks wrong below half of this."""


async def revise(spec: Revise, request: ChatRequest, run: Run) -> Candidate:
    """The best of up to `spec.rounds` attempts. Without a score it stops: revising blindly is a waste."""
    chain: list[Candidate] = []
    for _ in range(spec.rounds):
        again = request.but(n=1, messages=(*request.messages, *_history(chain)))
        attempt = await more(spec, run, chain, buy(spec, again, run, asked=request))
        chain += attempt
        if not attempt or attempt[0].score is None or not run.next_draws(run.pool):
            break
    return top(chain)


def verdict_text(scored: Scored | Candidate) -> str:
    """What the model is told of an attempt. Names the first step (from 1) that lost half of the score before it, else the lowest."""
    if not scored.steps:
        return "That looks wrong. Try again."
    before = (FIRST_STEP_BASELINE, *scored.steps)
    fallen = (i for i, score in enumerate(scored.steps) if score < before[i] / 2)
    lowest = scored.steps.index(min(scored.steps))
    return f"Step {next(fallen, lowest) + 1} looks wrong. Try again."


def _history(chain: Sequence[Candidate]) -> list[Message]:
    """The last attempts, each followed by its verdict, as turns of the conversation."""
    turns: list[Message] = []
    for attempt in chain[-ATTEMPTS_SHOWN:]:
        turns += [{"role": "assistant", "content": attempt.text}, {"role": "user", "content": verdict_text(attempt)}]
    return turns
