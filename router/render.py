"""The way out: an `Outcome` as a chat completion, as the chunks of a stream, and as headers; errors in OpenAI's shape.

Pure: time comes in as an argument. `usage` sums all calls that were made for the request; what each of them was is in the `outlay` block.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.accounts import UNITS
from adapters.fast_json import dumps as dumps  # how everything here is written: imported from here
from adapters.types import Choice, Delta
from router.candidates import Candidate
from router.errors import RouterError
from router.lessons import Given, Judged
from router.pipeline_types import Ask, ModelCard, Outcome
from router.purse import Purse

DONE = b"data: [DONE]\n\n"

WORD = re.compile(r"\S+\s*|\s+")


def comment(text: str) -> bytes:
    """An SSE comment: clients skip it, proxies see a living connection."""
    return f": {header_value(text)}\n\n".encode()


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + dumps(value) + b"\n\n"


# --- a whole answer -----------------------------------------------------------------------------------------------------


def completion(outcome: Outcome, created: int) -> dict[str, Any]:
    """The body of a plain answer."""
    return {
        "id": completion_id(outcome.id),
        "object": "chat.completion",
        "created": created,
        "model": outcome.model,
        "system_fingerprint": outcome.digest,
        "choices": [_choice(i, candidate) for i, candidate in enumerate(outcome.candidates)],
        "usage": usage(outcome),
        "outlay": decision_block(outcome),
    }


def completion_id(decision_id: str) -> str:
    """The same random part under OpenAI's prefix, so that either id leads to the other."""
    return "chatcmpl-" + decision_id.removeprefix("dec_")


def usage(outcome: Outcome) -> dict[str, Any]:
    """Tokens of all calls."""
    total = outcome.input_tokens + outcome.output_tokens
    return {
        "prompt_tokens": outcome.input_tokens,
        "completion_tokens": outcome.output_tokens,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": outcome.cached_tokens},
    }


def decision_block(outcome: Outcome) -> dict[str, Any]:
    """What was bought, what it cost, and why."""
    return {
        **outcome.decision,
        "id": outcome.id,
        "policy": outcome.policy,
        "digest": outcome.digest,
        "plan": outcome.plan,
        "backend": outcome.model,
        "cost_usd": outcome.cost_usd,
        "baseline_usd": outcome.baseline_usd,
        "latency_s": round(outcome.latency_s, 6),
        "overhead_s": round(outcome.overhead_s, 6),
        "cached": outcome.cached,
        "truncated_by": outcome.truncated_by,
        "degraded": list(outcome.degraded),
    }


def _choice(index: int, candidate: Candidate) -> dict[str, Any]:
    choice = candidate.choice
    return {
        "index": index,
        "message": message(choice),
        "logprobs": logprobs(choice),
        "finish_reason": finish_reason(choice.finish_reason),
        "outlay": _provenance(candidate),
    }


def message(choice: Choice) -> dict[str, Any]:
    """The assistant's message: the backend's own where it sent more than text."""
    if choice.message is None:
        return {"role": "assistant", "content": choice.text, "refusal": None}
    return {"role": "assistant", "content": choice.text or None, "refusal": None, **choice.message}


def finish_reason(reason: str) -> str:
    """OpenAI's word; an answer cut off at a limit of ours is one that ended for its length."""
    return "length" if reason == "cancelled" else reason


def logprobs(said: Choice | Delta) -> dict[str, Any] | None:
    """OpenAI's shape, as the backend sent it; where it gave figures only, a token's text is empty, and the order still holds."""
    if said.logprobs is None:
        return None
    plain: list[Any] = [{"token": "", "logprob": value, "bytes": None, "top_logprobs": []} for value in said.logprobs]
    return {"content": list(said.tokens or plain), "refusal": None}


def _provenance(candidate: Candidate) -> dict[str, Any]:
    """Where one choice comes from and what the verifier thought of it."""
    said = {"backend": candidate.backend, "plan": candidate.plan, "score": candidate.score, "votes": candidate.votes}
    return {**said, "fault": candidate.fault} if candidate.fault else said


# --- a stream -----------------------------------------------------------------------------------------------------------


class Chunks:
    """The chunks of one stream, which share an id, a time, and whether each carries `usage: null` as OpenAI's do on request."""

    def __init__(self, ask: Ask, created: int, *, include_usage: bool = False) -> None:
        self._frame: dict[str, Any] = {
            "id": completion_id(ask.id),
            "object": "chat.completion.chunk",
            "created": created,
            "model": ask.model,
            "system_fingerprint": None,
        }
        self._include_usage = include_usage

    def role(self, index: int = 0) -> dict[str, Any]:
        """The first word of a choice: who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def delta(self, delta: Delta) -> dict[str, Any]:
        """A piece of a live answer. Its finish reason waits for the end: only there is it known that the answer stands."""
        content = {"content": delta.text} if delta.text else {}
        return self._chunk(delta.index, {**content, **(delta.fields or {})}, logprobs=logprobs(delta))

    def words(self, index: int, text: str) -> Iterator[dict[str, Any]]:
        """A text that is known, in pieces of one word."""
        for word in WORD.findall(text):
            yield self._chunk(index, {"content": word})

    def beside_text(self, index: int, choice: Choice) -> Iterator[dict[str, Any]]:
        """What a message holds beside its text, as one delta: tool calls get the index by which a client puts them together."""
        rest = {key: value for key, value in (choice.message or {}).items() if key not in ("role", "content") and value is not None}
        if isinstance(rest.get("tool_calls"), list):
            rest["tool_calls"] = [{"index": i, **call} for i, call in enumerate(rest["tool_calls"])]
        if rest:
            yield self._chunk(index, rest)

    def end(self, outcome: Outcome) -> Iterator[dict[str, Any]]:
        """The finish reason of every choice, the decision block with the last of them, and the usage if it was asked for."""
        self._frame |= {"model": outcome.model, "system_fingerprint": outcome.digest}
        last = len(outcome.candidates) - 1
        for index, candidate in enumerate(outcome.candidates):
            block = {"outlay": decision_block(outcome)} if index == last else {}
            yield self._chunk(index, {}, finish_reason(candidate.choice.finish_reason), **block)
        if self._include_usage:
            yield {**self._frame, "choices": [], "usage": usage(outcome)}

    def _chunk(
        self, index: int, delta: Mapping[str, Any], finish: str | None = None, *, logprobs: Any = None, **more: Any
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return {**self._frame, "choices": [choice], **({"usage": None} if self._include_usage else {}), **more}


# --- headers, models, errors --------------------------------------------------------------------------------------------


def first_headers(ask: Ask) -> dict[str, str]:
    """What is known before the answer is."""
    return {"x-outlay-decision-id": ask.id}


def headers(ask: Ask, outcome: Outcome) -> dict[str, str]:
    """A short set by default; more where the request asks for `verbose`."""
    found = {
        "decision-id": outcome.id,
        **({"split": split["name"], "arm": split["arm"]} if (split := outcome.decision.get("split")) else {}),
        "plan": outcome.plan,
        "model": outcome.model,
        "cost-usd": f"{outcome.cost_usd:.8f}",
        "overhead-ms": str(_ms(outcome.overhead_s)),
        "cache": _cache(outcome),
        "attempted-fallbacks": str(_attempts(outcome, "fallback") + sum(name.startswith("backend:") for name in outcome.degraded)),
        "truncated-by": outcome.truncated_by,
        "degraded": ",".join(outcome.degraded),
        **(_verbose(outcome) if ask.verbose else {}),
    }
    return {f"x-outlay-{name}": header_value(value) for name, value in found.items() if value}


def _cache(outcome: Outcome) -> str:
    if outcome.cached:
        return "semantic" if "similarity" in outcome.decision else "hit"
    return "continued" if outcome.decision.get("continued_from") else "miss"


def _verbose(outcome: Outcome) -> dict[str, str | None]:
    return {
        "policy": outcome.policy,
        "policy-digest": outcome.digest,
        "cost-multiplier": f"{budget['multiplier']:.6g}" if (budget := outcome.decision.get("budget")) else None,
        "baseline-usd": None if outcome.baseline_usd is None else f"{outcome.baseline_usd:.8f}",
        "latency-ms": str(_ms(outcome.latency_s)),
        "input-tokens": str(outcome.input_tokens),
        "output-tokens": str(outcome.output_tokens),
        "attempted-retries": str(_attempts(outcome, "retry")),
        "attempted-hedges": str(_attempts(outcome, "hedge")),
    }


def _attempts(outcome: Outcome, kind: str) -> int:
    """How many requests of this kind the calls of an answer took."""
    return sum(attempt["kind"] == kind for call in outcome.decision.get("calls", ()) for attempt in call.get("attempts", ()))


def header_value(text: str) -> str:
    """The text with control and non-ASCII characters escaped: a plan's key may hold a newline, a header may not."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return json.dumps(text)[1:-1].replace('\\"', '"')


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def model_card(card: ModelCard, created: int) -> dict[str, Any]:
    """One entry of the list of models."""
    about = {"kind": card.kind, "description": card.description}
    return {"id": card.id, "object": "model", "created": created, "owned_by": "outlay", "outlay": about}


def feedback(given: Given, judged: Judged) -> dict[str, Any]:
    """What came of a label."""
    said = {"decision_id": given.id, "candidate": given.candidate, "label": given.label}
    return {"object": "feedback", **said, "status": judged.status}


def error_body(error: RouterError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    said = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": said, **beside_error(error)}


def beside_error(error: RouterError) -> dict[str, Any]:
    """What stands in an answer's place: the id of the decision, where one was made."""
    return {"outlay": {"id": error.decision_id}} if error.decision_id else {}


def error_headers(error: RouterError) -> dict[str, str]:
    """When to come back, where that is known; who somebody has to be; and the id of the decision, where one was made."""
    headers = {"www-authenticate": "Bearer"} if error.status == 401 else {}
    headers |= {"x-outlay-decision-id": error.decision_id} if error.decision_id else {}
    return headers if error.retry_after_s is None else {**headers, "retry-after": str(max(1, math.ceil(error.retry_after_s)))}


def rate_headers(purse: Purse) -> dict[str, str]:
    """OpenAI's headers on the limits of requests and tokens: of the window that has the least left. None where there is no limit."""
    receipt, account = purse.receipt, purse.account
    headers: dict[str, str] = {}
    for unit in ("requests", "tokens") if receipt else ():
        assert receipt is not None
        index = UNITS.index(unit)
        meter = receipt.tightest(account, index)
        if (limit := account.limits[meter] if meter >= 0 else None) is None:
            continue
        left = max(0, limit - receipt.used[meter] - receipt.held[index])
        values = {"limit": limit, "remaining": left, "reset": f"{math.ceil(receipt.resets_s(meter))}s"}
        headers |= {f"x-ratelimit-{name}-{unit}": str(value) for name, value in values.items()}
    return headers
