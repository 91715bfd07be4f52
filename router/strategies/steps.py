"""How an answer is drawn step by step: by continuing its beginning where the backend can, else by asking for the next step.

The hard part is to tell a step that ended at the separator from an answer that came to its end, because a server may say "stop" in both
cases. Backends that continue a beginning mostly name the stop string that ended them; once one of their answers did, the absence of a
name means the end. Elsewhere nothing more to say is the end: an empty continuation, or the word that the prompt asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from adapters.types import ChatRequest, Choice, Features

DONE = "[done]"
"""What a model that cannot continue a beginning is asked to say when there is no next step."""

NEXT_STEP = f"Continue the solution above with the next step only, as one piece. If it is already complete, say only {DONE}"
TO_THE_END = "Continue the solution above to its end. Do not repeat what is already there."


@dataclass(frozen=True, slots=True)
class Prefix:
    """An answer as far as it goes; between steps it ends with the separator."""

    text: str = ""
    ended: str | None = None
    """The finish reason of a finished answer; None while there is more to come."""

    @property
    def choice(self) -> Choice:
        """As verifiers read it: an unfinished one counts as cut off by length."""
        return Choice(self.text, self.ended or "length")


class Steps(Protocol):
    """One way of going on from a beginning."""

    def next_step(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        """What to ask for the next step."""

    def rest(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        """What to ask for all that is missing."""

    def grown(self, drawn: Sequence[tuple[Prefix, Choice]]) -> list[Prefix]:
        """The beginnings with what was drawn for each of them."""


@dataclass(slots=True)
class Continued:
    """For backends that go on from the last character of an unfinished answer."""

    separator: str
    names_stops: bool = False
    """This backend was seen to say which stop string ended a choice."""

    def next_step(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        return self.rest(request, prefix).but(stop=(*request.stop, self.separator))

    def rest(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        if not prefix.text:
            return request
        return request.but(messages=(*request.messages, {"role": "assistant", "content": prefix.text}), continue_final=True)

    def grown(self, drawn: Sequence[tuple[Prefix, Choice]]) -> list[Prefix]:
        self.names_stops |= any(choice.stopped_by is not None for _, choice in drawn)
        return [self._grown(prefix, choice) for prefix, choice in drawn]

    def _grown(self, prefix: Prefix, choice: Choice) -> Prefix:
        text = prefix.text + choice.text
        if choice.stopped_by == self.separator:
            return Prefix(text + self.separator)
        if choice.finish_reason != "stop":
            return Prefix(text, choice.finish_reason)
        if choice.text and not self.names_stops:
            return Prefix(text + self.separator)
        return Prefix(text if choice.text else text.removesuffix(self.separator), "stop")


@dataclass(frozen=True, slots=True)
class Prompted:
    """For backends that answer whole turns only: the next step is asked for in words, and appended."""

    separator: str

    def next_step(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        return self._asking(request, prefix, NEXT_STEP).but(stop=(*request.stop, self.separator))

    def rest(self, request: ChatRequest, prefix: Prefix) -> ChatRequest:
        return self._asking(request, prefix, TO_THE_END)

    def grown(self, drawn: Sequence[tuple[Prefix, Choice]]) -> list[Prefix]:
        return [self._grown(prefix, choice) for prefix, choice in drawn]

    def _asking(self, request: ChatRequest, prefix: Prefix, instruction: str) -> ChatRequest:
        if not prefix.text:
            return request
        turns = ({"role": "assistant", "content": prefix.text}, {"role": "user", "content": instruction})
        return request.but(messages=(*request.messages, *turns))

    def _grown(self, prefix: Prefix, choice: Choice) -> Prefix:
        step = choice.text.strip()
        if choice.finish_reason != "stop":
            return Prefix(prefix.text + choice.text, choice.finish_reason)
        if step.endswith(DONE) or not step:
            return Prefix((prefix.text + step.removesuffix(DONE).strip()).removesuffix(self.separator), "stop")
        return Prefix(prefix.text + step + self.separator)


def steps_for(features: Features, separator: str) -> Steps:
    """The better of the two ways that this backend can go."""
    return Continued(separator) if features.continues_prefix else Prompted(separator)
