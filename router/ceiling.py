"""The hard limits of a request, and what a call can cost at worst under them: pure arithmetic, in US dollars and tokens.

The worst case is linear in the number of answers and in their length, so that a ceiling turns into "so many answers" and "so long"
without trial. It holds as far as token counts do: a backend that counts by estimate is bounded by estimate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from adapters.types import Backend, ChatRequest, Choice, Price, Verifier, text_of
from difficulty.frozen import frozen
from router.purse import Cost

SCORING_TOKENS = 256
"""Allowance, in and out, for what a verifier reads and writes around one answer: template, rubric, verdict."""

BYTES_PER_TOKEN = 4
"""Where only tokens of a backend are known, and a verifier's are asked for: one for each byte is the most there can be."""


Limit = Literal["cost", "deadline", "key"]
"""The money or the time of a request; or what its key may spend."""


class OutOfBudget(Exception):
    """The run may not start this call, or not end it: `cause` is the limit that forbids it. What was offered so far is the answer."""

    def __init__(self, cause: Limit) -> None:
        super().__init__(f"the {cause} limit of this request is reached")
        self.cause: Limit = cause


@frozen
class Limits:
    """Hard limits of one request. Infinity where there is none."""

    cost_usd: float = float("inf")
    latency_s: float = float("inf")


@frozen
class Tariff:
    """The worst cost of `n` answers of `tokens` tokens: `once_usd + n * (each_usd + tokens * token_usd)`."""

    once_usd: float
    each_usd: float
    token_usd: float

    def cost_usd(self, n: int, tokens: float) -> float:
        """What `n` answers of `tokens` tokens cost at worst."""
        return self.once_usd + n * (self.each_usd + tokens * self.token_usd)

    def affordable(self, left_usd: float, n: int, tokens: float) -> int:
        """How many of `n` answers of `tokens` tokens `left_usd` pays for."""
        one = self.each_usd + tokens * self.token_usd
        if left_usd >= self.cost_usd(n, tokens):
            return n
        return int(max(0, min(n, (left_usd - self.once_usd) / one + 1e-9))) if one > 0 else 0

    def longest(self, left_usd: float, n: int, tokens: int) -> int:
        """How long `n` answers may be, `tokens` at most, for `left_usd` to pay for them."""
        if self.cost_usd(n, tokens) <= left_usd or self.token_usd == 0:
            return tokens
        return int(max(0, min(tokens, (left_usd - self.once_usd - n * self.each_usd) / (n * self.token_usd) + 1e-9)))


@frozen
class Terms:
    """What answers of one backend to one request cost, and how long they may and use to be, in tokens."""

    tariff: Tariff
    tokens_in: int
    longest: int
    usual: int

    def cost(self, n: int, longest: int) -> Cost:
        """Of `n` answers: dollars at worst, tokens as usual, for a rate is settled soon after."""
        return Cost(self.tariff.cost_usd(n, longest), n * (self.tokens_in + min(self.usual, longest)))


def answer_tariff(backend: Backend, tokens_in: int, verifier: Verifier | None) -> Tariff:
    """Of answers by `backend` to a prompt of `tokens_in` tokens; with a verifier, of its verdict on each as well."""
    read_usd, token_usd = backend.price.cost_usd(tokens_in, 0), backend.price.cost_usd(0, 1)
    once_usd, each_usd = (read_usd, 0.0) if backend.features.native_n else (0.0, read_usd)
    if verifier is not None:
        each_usd += verifier.price.cost_usd(tokens_in * BYTES_PER_TOKEN + SCORING_TOKENS, SCORING_TOKENS)
        token_usd += verifier.price.cost_usd(BYTES_PER_TOKEN, 0)
    return Tariff(once_usd, each_usd, token_usd)


def scoring_usd(price: Price, request: ChatRequest, choices: Sequence[Choice]) -> float:
    """What a verdict on each of `choices` costs at worst."""
    prompt = sum(len(text_of(message).encode()) for message in request.messages)
    read = sum(len(choice.text.encode()) + prompt + SCORING_TOKENS for choice in choices)
    return price.cost_usd(read, SCORING_TOKENS * len(choices))
