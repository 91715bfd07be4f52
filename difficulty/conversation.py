"""Which text is classified: the user's side of the conversation, because a bare "yes" is as hard as what it answers.

Fitting and serving both go through here, so that a probe is asked about the kind of text that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHARACTERS_PER_TOKEN = 4
"""A rough rate; only how much context is read depends on it."""

_CUT = "\n[…]\n"


def conversation_text(messages: Sequence[Mapping[str, Any]], *, max_tokens: int = 512) -> str:
    """The last user turns in order, as many as fit into about `max_tokens`; the very last always, cut in its middle if it must be.

    Messages are in OpenAI's shape. Without a user turn the text of all messages counts.
    """
    turns = [text for m in messages if m.get("role") == "user" and (text := _text(m))] or [text for m in messages if (text := _text(m))]
    left = max_tokens * CHARACTERS_PER_TOKEN
    kept: list[str] = []
    for turn in reversed(turns):
        if kept and len(turn) > left:
            break
        kept.append(_clipped(turn, left))
        left -= len(turn)
    return "\n\n".join(reversed(kept))


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message: its string content, or its text parts; anything else has none."""
    content = message.get("content")
    if isinstance(content, str):
        return content.strip()
    parts = content if isinstance(content, Sequence) else ()
    return "".join(str(p.get("text") or "") for p in parts if isinstance(p, Mapping) and p.get("type") == "text").strip()


def _clipped(text: str, limit: int) -> str:
    """At most `limit` characters: the beginning says what is asked and the end how, so the middle goes."""
    if len(text) <= limit:
        return text
    keep = max(limit - len(_CUT), 2)
    return text[: keep - keep // 2] + _CUT + text[-(keep // 2) :]
