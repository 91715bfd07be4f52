"""Why a request gets no answer. Raised by the pipeline and by `wire.py`, rendered by `app.py` in OpenAI's shape.

RouterError
├── InvalidRequest      the request must be changed; `param` says where                         400
├── TooLarge            the body is over the server's limit                                     413
├── HeadersTooLarge     the headers are                                                     431
├── Unauthorized        no API key, or one that is not known                                    401 invalid_api_key
├── Forbidden           the key is not for this model, backend or endpoint                      403
├── NoAdmin             /admin, where there is no admin key                                     404
├── Changed             the configuration is not the one that If-Match names                    412
├── Unusable            the configuration that was sent cannot be used                          422
├── RateLimited         too many requests or tokens of the key in this window                   429 rate_limit_exceeded
├── OverQuota           the key's budget does not pay for this                                  429 insufficient_quota
├── LedgerDown          nobody knows what the key has left, and the server is told to refuse    503
├── UnknownModel        no policy and no backend of this name                                   404
├── UnknownDecision     no decision of this id is remembered                                    404
├── OverBudget          not even the cheapest plan fits the ceiling                             400 budget_exceeded
├── BudgetSpent         the policy's budget of this hour or day is gone                         429 insufficient_quota
├── DeadlineExceeded    the deadline passed before there was any answer                         504
├── Overloaded          too many requests waiting                                               503
└── BackendFailed       every backend that the policy allows failed                             502, 503, 504

ConfigError, for whoever starts the router: what in the configuration is wrong, and what would be right. Never seen by a client.
EventError, for whoever reads a decision log. Neither by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TypeGuard

from adapters.errors import AdapterError, BackendError, BackendRefused, BackendTimeout, BackendUnavailable


class RouterError(Exception):
    """A request that gets no answer. `message` is for the caller: what was found, and what would be right."""

    status: int = 500
    type: str = "server_error"
    code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s
        self.decision_id: str | None = None
        """Where the request was worked on before: what was decided for it, and what became of that, is remembered under this id."""


class InvalidRequest(RouterError):
    """The request must be changed."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class TooLarge(InvalidRequest):
    """The body is over the server's limit."""

    status = 413
    code = "request_too_large"


class HeadersTooLarge(TooLarge):
    """The headers are over the server's limit."""

    status = 431


class Unauthorized(InvalidRequest):
    """No API key, or one that is not known."""

    status = 401
    code = "invalid_api_key"


class Forbidden(InvalidRequest):
    """The key is not for this model, backend or endpoint."""

    status = 403
    code = "permission_denied"


class NoAdmin(InvalidRequest):
    """There is nobody whom the endpoint would be for."""

    status = 404
    code = "not_found"


class Changed(InvalidRequest):
    """The configuration is not the one that `If-Match` names."""

    status = 412
    code = "precondition_failed"


class Unusable(InvalidRequest):
    """The configuration that was sent cannot be used; the message says where and why."""

    status = 422
    code = "invalid_configuration"


class RateLimited(RouterError):
    """Too many requests or tokens of the key in this window; `kind` says which, as OpenAI does."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, kind: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.type = kind


class OverQuota(RouterError):
    """The key's budget does not pay for this. OpenAI's status and code for it; asking again at once is of no use."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class LedgerDown(RouterError):
    """Nobody knows what the key has left, and the server is told to refuse then."""

    status = 503
    code = "ledger_unavailable"


class UnknownModel(InvalidRequest):
    """No policy and no backend of this name."""

    status = 404
    code = "model_not_found"

    def __init__(self, model: str, have: Iterable[str]) -> None:
        super().__init__(f"no model '{model}'; {have_instead(model, have)}", param="model")


class UnknownDecision(InvalidRequest):
    """No decision of this id is remembered."""

    status = 404
    code = "decision_not_found"


class OverBudget(InvalidRequest):
    """Not even the cheapest plan fits the ceiling. The message names the smallest one that would have done."""

    code = "budget_exceeded"

    def __init__(self, reason: str, ceiling_usd: float, enough_usd: float, *, asked: bool) -> None:
        whose = "max_cost_usd of the request" if asked else "the policy's limits.cost_usd"
        message = f"no plan may run: {reason}; the ceiling is ${ceiling_usd:g} ({whose}), and ${rounded_up(enough_usd)} would be enough"
        super().__init__(message, param="outlay.max_cost_usd" if asked else None)
        self.enough_usd = enough_usd


class BudgetSpent(RouterError):
    """The policy's budget of this hour or day is gone; a new one comes with the next."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"


class DeadlineExceeded(RouterError):
    """The deadline passed before there was any answer."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"


class Overloaded(RouterError):
    """Too many requests are waiting."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"


class FeedbackUnavailable(RouterError):
    """The memory of past decisions, shared with other replicas, does not answer."""

    status = 503
    code = "feedback_unavailable"


class BackendFailed(RouterError):
    """Every backend that the policy allows failed. 503: worth another try; 504: too slow; 502: answered, but with no answer."""

    status = 502
    type = "backend_error"
    code = "backend_failed"

    def __init__(self, message: str, *, status: int = 502, code: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.status = status


class ConfigError(Exception):
    """The configuration cannot be used. One line for each problem, each with its file, its key and what would be right."""


class EventError(Exception):
    """A decision log cannot be read; the message says where, what was found, and what would be right."""


def rounded_up(usd: float) -> str:
    """Three significant digits, never below the amount: who sends them gets what they were said to buy."""
    if usd <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(usd))
    return f"{math.ceil(usd * 10**digits) / 10**digits:.{max(0, digits)}f}"


CALLERS_OWN = frozenset({400, 413, 415, 422})
"""Statuses of a provider that speak of the request; its 401, 403 and 404 speak of our configuration, which no caller can change."""


def is_callers_own(error: AdapterError) -> TypeGuard[BackendRefused]:
    """Whether a backend refused what the request says."""
    return isinstance(error, BackendRefused) and error.status in CALLERS_OWN


def from_backend(error: BackendError, others: Iterable[AdapterError] = ()) -> RouterError:
    """What a backend's failure is to the caller, who is also told of others that failed for the same request."""
    message = "; ".join(dict.fromkeys(map(str, (*others, error))))
    if is_callers_own(error):
        return InvalidRequest(message, code=error.code)
    if isinstance(error, BackendUnavailable):
        return BackendFailed(message, status=503, code="backend_unavailable", retry_after_s=error.retry_after_s)
    if isinstance(error, BackendTimeout):
        return BackendFailed(message, status=504, code="backend_timeout")
    return BackendFailed(message, status=502)


def have_instead(name: str, have: Iterable[str]) -> str:
    """The end of every "no such name" message: `have 'small', 'large'; did you mean 'small'?`."""
    names = sorted(set(have))
    listed = "have " + ", ".join(f"'{n}'" for n in names) if names else "there are none"
    close = get_close_matches(name, names, n=1, cutoff=0.6)
    return f"{listed}; did you mean '{close[0]}'?" if close else listed
