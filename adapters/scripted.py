"""A backend that plays a script: fixed answers, slow ones, failures, silence. Shipped, so that policies can be tried without a model.

In YAML `{kind: scripted, answers: ["5+5=10", "I do not know"]}`; in Python `scripted("small", "5+5=10", delay_s=1)`. Tokens are words.
The same seed gives the same answer; without a seed the answers come in turn.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from adapters.errors import BackendError, BackendMalformed, BackendRefused, BackendTimeout, BackendUnavailable
from adapters.options import Options, PriceOption
from adapters.types import Call, ChatRequest, Choice, Delta, Features, Price, text_of, token_entry

ERRORS: dict[str, type[BackendError]] = {
    "unavailable": BackendUnavailable,
    "timeout": BackendTimeout,
    "refused": BackendRefused,
    "malformed": BackendMalformed,
}

Script = Callable[[ChatRequest, int], str]
"""An answer made up on the spot, from the request and the number of this draw (`seed + index`, or a running count)."""


class Answer(Options):
    """One scripted answer, where there is more to say than its text."""

    text: str = Field("", description="what it says")
    finish_reason: str = Field("stop", description="as the API has it: stop, length, tool_calls")
    logprob: float | None = Field(None, le=0, description="of every token; unset: that of the backend")
    message: dict[str, Any] | None = Field(None, description="the whole message (tool calls, refusal, ...), passed on as it is")


class ScriptedOptions(Options):
    """What the script says and how it is played."""

    kind: Literal["scripted"] = "scripted"
    model: str = Field("scripted", description="a name only")
    answers: tuple[Answer, ...] | dict[str, tuple[Answer, ...]] = Field(
        (Answer(text="ok"),),
        description='answers in turn; or by a piece of the prompt, the first piece that is found in it ("" is in all)',
    )  # fmt: skip
    price: PriceOption = Price()
    delay_s: float = Field(0, ge=0, description="before the first token of a call")
    token_delay_s: float = Field(0, ge=0, description="before every token")
    never: bool = Field(False, description="never answers; waits until it is cancelled")
    fail_every: int | None = Field(None, ge=1, description="every so-many-th call fails; 1: all of them")
    fail_after_tokens: int = Field(0, ge=0, description="what a failing call produces first; a failing answer is not finished")
    error: Literal["unavailable", "timeout", "refused", "malformed"] = Field("unavailable", description="how a failing call fails")
    logprob: float | None = Field(None, le=0, description="log-probability reported for every token; unset: no logprobs")
    native_n: bool = Field(True, description="draws several answers in one call")
    continues_prefix: bool = Field(True, description="goes on from a given beginning, with an answer that has it, if there is one")
    max_context: int | None = Field(None, ge=1, description="tokens of prompt and answer; unset: no limit")

    @field_validator("answers", mode="before")
    @classmethod
    def _plain_text_is_an_answer(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _answers(some) for key, some in value.items()}
        return _answers(value)


def _answers(value: Any) -> Any:
    """A text, an answer, or a list of both, as a list of answers."""
    several = value if isinstance(value, list | tuple) else [value]
    if not several:
        raise ValueError("an empty list of answers; give one at least")
    return tuple({"text": one} if isinstance(one, str) else one for one in several)


class ScriptedBackend:
    """Plays its script to whoever asks; `requests` holds the last thousand of them, for tests."""

    def __init__(
        self,
        name: str,
        options: ScriptedOptions,
        *,
        script: Script | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.name = name
        self.price = options.price
        self.features = Features(options.continues_prefix, options.native_n, options.logprob is not None, options.max_context)
        self.requests: deque[ChatRequest] = deque(maxlen=1000)
        self._options, self._script, self._sleep = options, script, sleep
        self._calls = self._draws = 0

    async def complete(self, request: ChatRequest, call: Call) -> None:
        """`request.n` answers of the script."""
        async for _ in self.stream(request, call):
            pass

    async def stream(self, request: ChatRequest, call: Call) -> AsyncIterator[Delta]:
        """The same, word by word, one choice after the other."""
        self._calls += 1
        self.requests.append(request)
        self._check_context(request)
        if self._fails() and not self._options.fail_after_tokens:
            raise self._failure()
        call.input_tokens += self.count_tokens(request)
        if self._options.never:
            await asyncio.Event().wait()
        await self._wait(self._options.delay_s)
        left = self._options.fail_after_tokens if self._fails() else None
        for index in range(request.n):
            player = _Player(request, call, self._answer(request, index), self._options.logprob, index)
            for delta in player:
                try:
                    await self._wait(self._options.token_delay_s)
                    left = self._count_down(left)
                    player.heard(delta)
                    yield delta
                except (asyncio.CancelledError, GeneratorExit):
                    player.cut_off()
                    raise

    def count_tokens(self, request: ChatRequest) -> int:
        """Words of all messages."""
        return sum(len(text_of(message).split()) for message in request.messages)

    async def aclose(self) -> None:
        """Nothing to release."""

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await self._sleep(seconds)

    def _fails(self) -> bool:
        return self._options.fail_every is not None and self._calls % self._options.fail_every == 0

    def _failure(self) -> BackendError:
        return ERRORS[self._options.error](self.name, f"scripted failure ({self._options.error})")

    def _count_down(self, left: int | None) -> int | None:
        """One token less until the scripted failure; None where none is due."""
        if left == 0:
            raise self._failure()
        return None if left is None else left - 1

    def _check_context(self, request: ChatRequest) -> None:
        tokens, longest = self.count_tokens(request), self.features.max_context
        if longest is not None and tokens > longest:
            raise BackendRefused(self.name, f"{tokens} tokens of prompt, at most {longest} fit", code="context_length_exceeded")

    def _answer(self, request: ChatRequest, index: int) -> Answer:
        """The answer of this draw, as far as it is not in the prompt already."""
        draw = self._draws if request.seed is None else request.seed + index
        self._draws += request.seed is None
        if self._script is not None:
            return Answer(text=self._script(request, draw))
        answers = self._candidates(request)
        if not request.continue_final:
            return answers[draw % len(answers)]
        start = text_of(request.messages[-1])
        going_on = [a.model_copy(update={"text": a.text[len(start) :]}) for a in answers if a.text.startswith(start)]
        return (going_on or answers)[draw % len(going_on or answers)]

    def _candidates(self, request: ChatRequest) -> Sequence[Answer]:
        if not isinstance(self._options.answers, dict):
            return self._options.answers
        for piece, answers in self._options.answers.items():
            if piece in request.prompt:
                return answers
        known = ", ".join(repr(piece) for piece in self._options.answers)
        raise BackendRefused(self.name, f"no answer is scripted for this prompt; there are some for {known}", code="not_scripted")


class _Player:
    """The deltas of one answer, and the choice that it becomes."""

    def __init__(self, request: ChatRequest, call: Call, answer: Answer, logprob: float | None, index: int) -> None:
        self._call, self._index, self._message = call, index, answer.message
        logprob = answer.logprob if answer.logprob is not None else logprob
        self._logprob = logprob if request.logprobs else None
        self._words, self._finish_reason, self._stopped_by = _cut(answer, request)
        self._heard: list[str] = []
        self._finished = False

    def __iter__(self) -> Iterator[Delta]:
        for word in self._words:
            yield Delta(word, self._index, logprobs=self._each([word]), tokens=self._entries([word]))
        fields = {k: v for k, v in (self._message or {}).items() if k not in ("role", "content")}
        yield Delta("", self._index, self._finish_reason, fields=fields or None)

    def heard(self, delta: Delta) -> None:
        """Counts what goes out; the last delta makes the choice."""
        if delta.finish_reason is None:
            self._heard.append(delta.text)
            self._call.output_tokens += 1
        else:
            self._append(delta.finish_reason, self._stopped_by)

    def cut_off(self) -> None:
        """The caller wants no more: the part so far is kept, as cancelled, unless the answer was finished."""
        if not self._finished:
            self._append("cancelled", None)

    def _append(self, finish_reason: str, stopped_by: str | None) -> None:
        self._finished = True
        heard = self._heard
        choice = Choice("".join(heard), finish_reason, self._each(heard), self._entries(heard), self._message, stopped_by)
        self._call.choices.append(choice)

    def _each(self, words: Sequence[str]) -> tuple[float, ...] | None:
        return None if self._logprob is None else (self._logprob,) * len(words)

    def _entries(self, words: Sequence[str]) -> tuple[Mapping[str, Any], ...] | None:
        return None if self._logprob is None else tuple(token_entry(word, self._logprob) for word in words)


def _cut(answer: Answer, request: ChatRequest) -> tuple[list[str], str, str | None]:
    """The words to be said, why they end, and the stop string that ended them."""
    words = _words(answer.text)
    reason = answer.finish_reason
    if request.max_tokens is not None and len(words) > request.max_tokens:
        words, reason = words[: request.max_tokens], "length"
    text = "".join(words)
    end, stop = min(((text.find(s), s) for s in request.stop if s in text), default=(-1, None))
    return (words, reason, None) if stop is None else (_words(text[:end]), "stop", stop)


def _words(text: str) -> list[str]:
    """The tokens of a script: words with the space before them; joined, they are the text."""
    return re.findall(r"\s*\S+|\s+$", text)


def scripted(name: str, *answers: str | Answer, script: Script | None = None, **options: Any) -> ScriptedBackend:
    """A scripted backend in one line, for tests: `scripted("small", "yes", "no", price=Price(1, 2))`."""
    given = {"answers": answers} if answers else {}
    return ScriptedBackend(name, ScriptedOptions(**given, **options), script=script)
