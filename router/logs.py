"""What the server writes to its log: one line for each answer, and each failure of our own with its trace. Prompts only if asked."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from math import inf
from typing import Literal

from router.errors import RouterError
from router.pipeline_types import Ask, Outcome
from router.redact import redacted_start

log = logging.getLogger("outlay")

PROMPT_CHARACTERS = 200
QUIET_S = 60.0
"""Of what fails again and again, so long nothing more is said."""


def configure(form: Literal["text", "json"] = "text", level: int = logging.INFO) -> None:
    """Log to standard error, with times; and spare every line what no line of ours says: where in the code, which thread and process."""
    handler = logging.StreamHandler()
    handler.setFormatter(Json() if form == "json" else Text("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging._srcfile = None  # the documented way: docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Text(logging.Formatter):
    """Lines for a person; a second's name is made once."""

    _second, _name = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """Local time to the millisecond."""
        if self._second != int(record.created):
            self._second, self._name = int(record.created), super().formatTime(record, "%Y-%m-%d %H:%M:%S")
        return f"{self._name},{record.msecs:03.0f}"

    def format(self, record: logging.LogRecord) -> str:
        """As the base class would by the template, for a line without a trace: half of what such a line cost."""
        if record.exc_info or record.exc_text or record.stack_info:
            return super().format(record)
        return f"{self.formatTime(record)} {record.levelname} {record.name}: {record.getMessage()}"


class Json(logging.Formatter):
    """One object a line: time, level, logger, message; of a request its decision's id and what was bought."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        line |= getattr(record, "outlay", {}) | ({"error": self.formatException(record.exc_info)} if record.exc_info else {})
        return json.dumps(line, ensure_ascii=False, default=str)


def answered(ask: Ask, outcome: Outcome, *, with_prompt: bool) -> None:
    """One line: what was bought for this request."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "policy": outcome.policy,
        "plan": outcome.plan,
        "cost_usd": f"{outcome.cost_usd:.6f}",
        "latency_ms": f"{outcome.latency_s * 1000:.0f}",
        "cached": outcome.cached,
        "continued_from": None if outcome.cached else outcome.decision.get("continued_from"),
        "truncated_by": outcome.truncated_by,
        "degraded": ",".join(outcome.degraded) or None,
        "prompt": redacted_start(ask.request.prompt, PROMPT_CHARACTERS) if with_prompt else None,
    }
    said = {name: value for name, value in fields.items() if value is not None}
    extra = {"outlay": {"decision_id": outcome.id, **said, "cost_usd": outcome.cost_usd, "latency_s": round(outcome.latency_s, 6)}}
    log.info("%s %s", outcome.id, " ".join(f"{name}={value!r}" for name, value in said.items()), extra=extra)


def abandoned(ask: Ask) -> None:
    """The client went away; its work was cancelled."""
    log.info("%s abandoned by its client", ask.id, extra={"outlay": {"decision_id": ask.id}})


def refused(error: RouterError) -> None:
    """An error of the server's side went out instead of an answer. Its message is the caller's: a provider may quote a prompt in it."""
    said = {"status": error.status, "code": error.code}
    if error.decision_id:
        log.warning("%s answered %d %s", error.decision_id, *said.values(), extra={"outlay": {"decision_id": error.decision_id, **said}})
    else:
        log.warning("answered %d %s", *said.values(), extra={"outlay": said})


class Outages:
    """Why backends and verifiers fail: a line for each of them and each cause at first, then for as long as it goes on one in `QUIET_S`."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[tuple[str, str, str], float] = {}
        self._unsaid: Counter[tuple[str, str, str]] = Counter()

    def tell(self, id: str, failed: Iterable[tuple[str, str, str]]) -> None:
        """One line of what failed for a request, and why (kind, name, cause), and was not spoken of lately."""
        now, told = self._clock(), dict[str, str]()
        for outage in dict.fromkeys(failed):
            if now - self._said.get(outage, -inf) < QUIET_S:
                self._unsaid[outage] += 1
                continue
            (kind, name, why), more = outage, self._unsaid.pop(outage, 0)
            why += f", and {more} more since this was last said" if more else ""
            who, self._said[outage] = f"{kind} '{name}'", now
            told[who] = f"{told[who]}; {why}" if who in told else why
        if told:
            said = "; ".join(f"{name} failed: {why}" for name, why in told.items())
            log.warning("%s %s", id, said, extra={"outlay": {"decision_id": id, "failed": told}})


def failed(id: str, error: Exception) -> None:
    """A failure of our own, with its trace. The caller gets the id and nothing else: a decision's, or one made up for the error."""
    log.error("%s failed", id, exc_info=error, extra={"outlay": {"decision_id" if id.startswith("dec_") else "error_id": id}})
