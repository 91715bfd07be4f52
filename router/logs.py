"""What the server writes to its log: one line for each answer, and each failure of our own with its trace. Prompts only if asked."""

from __future__ import annotations

import logging

from router.pipeline_types import Ask, Outcome

log = logging.getLogger("outlay")

PROMPT_CHARACTERS = 200


def configure(level: int = logging.INFO) -> None:
    """Log to standard error, with times."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def answered(ask: Ask, outcome: Outcome, *, with_prompt: bool) -> None:
    """One line: what was bought for this request."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields = {
        "policy": outcome.policy,
        "plan": outcome.plan,
        "cost_usd": f"{outcome.cost_usd:.6f}",
        "latency_ms": f"{outcome.latency_s * 1000:.0f}",
        "cached": outcome.cached,
        "truncated_by": outcome.truncated_by,
        "degraded": ",".join(outcome.degraded) or None,
        "prompt": ask.request.prompt[:PROMPT_CHARACTERS] if with_prompt else None,
    }
    log.info("%s %s", outcome.id, " ".join(f"{name}={value!r}" for name, value in fields.items() if value is not None))


def abandoned(ask: Ask) -> None:
    """The client went away; its work was cancelled."""
    log.info("%s abandoned by its client", ask.id)


def failed(id: str, error: Exception) -> None:
    """A failure of our own, with its trace. The caller gets the id and nothing else."""
    log.error("%s failed", id, exc_info=error)
