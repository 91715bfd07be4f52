"""A conversation as the tokens that a model reads, or a clear refusal of what it cannot read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.decoding.text import Decode
from adapters.errors import BackendRefused
from adapters.types import ChatRequest, Message, text_of

CUT = "\ufdd0"
"""Marks where a special token that stands in a message is cut in two, so that it is read as the text that it is. No character: Unicode
keeps it out of texts, and so does this file."""

CONTEXT_TOKENS = 8
"""Tokens of a continued text that decide how the next one is written: its space, or the rest of a broken character."""


class ChatReader:
    """A tokenizer and its chat template. A model without a template reads the contents, joined by line ends."""

    def __init__(self, name: str, tokenizer: Any, model: str, reads: tuple[str, str] | None = None) -> None:
        """`reads`: a regular expression that some user message must match, and a prompt that does."""
        self._name, self._tokenizer, self._model = name, tokenizer, model
        self._reads = (re.compile(reads[0]), reads[1]) if reads else None
        self.ends = frozenset() if tokenizer.eos_token_id is None else frozenset({int(tokenizer.eos_token_id)})
        self.decode: Decode = _decoder(tokenizer)
        special = sorted((str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), key=len, reverse=True)
        self._special = re.compile("|".join([CUT, *map(re.escape, special)]))

    def tokens(self, request: ChatRequest) -> list[int]:
        """The prompt. BackendRefused if the template cannot put it."""
        return self._encode(self._text(request))

    def checked(self, request: ChatRequest, max_context: int | None) -> list[int]:
        """The prompt, made sure to be readable and to leave room for an answer."""
        text = self._text(request)
        if self._reads and not any(self._reads[0].search(text_of(m)) for m in request.messages if m.get("role") == "user"):
            raise self._no_prompt_of_its_kind()
        tokens = self._encode(text)
        unknown = self._tokenizer.unk_token_id
        if unknown is not None and unknown in tokens:
            raise self._unreadable(text)
        if max_context is not None and len(tokens) >= max_context:
            found = f"the prompt has {len(tokens)} tokens, and this model reads {max_context}, its answer included; shorten it"
            raise BackendRefused(self._name, found, code="context_length_exceeded")
        return tokens

    def continued(self, request: ChatRequest, tokens: Sequence[int]) -> tuple[list[int], str]:
        """The last tokens of the text to continue, and the spaces at its end; nothing where a new answer is begun."""
        prefix = text_of(request.messages[-1]) if request.continue_final else ""
        return (list(tokens[-CONTEXT_TOKENS:]), _spaces(prefix)) if prefix.strip() else ([], "")

    # --- putting it -----------------------------------------------------------------------------------------------

    def _encode(self, text: str) -> list[int]:
        has_template = self._tokenizer.chat_template is not None  # which writes the special tokens itself
        pieces = text.split(CUT)
        encoded = (self._tokenizer(piece, add_special_tokens=i == 0 and not has_template)["input_ids"] for i, piece in enumerate(pieces))
        return [token for ids in encoded for token in ids]

    def _disarmed(self, said: Any) -> Any:
        """What a caller said, with every special token in it cut after its first character: only the template may write one."""
        if isinstance(said, str):
            return self._special.sub(lambda found: found[0].replace(CUT, "")[:1] + CUT + found[0][1:], said)
        if isinstance(said, Mapping):
            return {name: self._disarmed(value) for name, value in said.items()}
        return [self._disarmed(value) for value in said] if isinstance(said, list | tuple) else said

    def _text(self, request: ChatRequest) -> str:
        if not request.messages:
            raise self._refused("there are no messages; give one at least", "missing_messages")
        messages = [self._disarmed(self._plain(message)) for message in request.messages]
        tools = self._disarmed(request.extra.get("tools"))
        template = self._tokenizer.chat_template
        if tools and "tools" not in str(template):
            raise self._refused("this model cannot call tools; leave out `tools`, or choose another backend", "tools_unsupported")
        if template is None:
            return "\n".join(text_of(message) for message in messages)
        return self._render(messages, tools, request.continue_final)

    def _render(self, messages: Sequence[Message], tools: Any, go_on: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=not go_on, continue_final_message=go_on
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise self._refused(f"the model's chat template does not take these messages: {error}", "unsupported_messages") from None
        # Some templates trim contents; a continued text is continued from its very end.
        spaces = _spaces(text_of(messages[-1])) if go_on else ""
        return text if text.endswith(spaces) else text + spaces

    def _plain(self, message: Message) -> Mapping[str, Any]:
        """The message with its text parts as one string, which is what templates of language models know."""
        content = message.get("content")
        if not isinstance(content, list | tuple):
            return message
        if other := next((part.get("type") for part in content if part.get("type") != "text"), None):
            raise self._refused(f"this model reads text only, not '{other}'; choose another backend", "unsupported_content")
        return {**message, "content": text_of(message)}

    # --- refusing -------------------------------------------------------------------------------------------------

    def _unreadable(self, text: str) -> BackendRefused:
        words = ", ".join(f"'{word}'" for word in self._unknown_words(text)) or "some words"
        return self._refused(
            f"the model '{self._model}' reads only its own small vocabulary and does not know {words}; "
            "for other prompts point a backend at a general model (see configs/)",
            "unreadable_prompt",
        )

    def _no_prompt_of_its_kind(self) -> BackendRefused:
        assert self._reads is not None
        return self._refused(
            f"the model '{self._model}' reads only prompts such as \"{self._reads[1]}\"; "
            "for other prompts point a backend at a general model (see configs/)",
            "unreadable_prompt",
        )

    def _unknown_words(self, text: str) -> list[str]:
        """The first three of them, as they were written; none where the tokenizer cannot say where a token came from."""
        if not self._tokenizer.is_fast:
            return []
        found = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        words = dict.fromkeys(text[begin:end].replace(CUT, "") for token, (begin, end) in pairs if token == self._tokenizer.unk_token_id)
        return [word for word in words if word][:3]

    def _refused(self, message: str, code: str) -> BackendRefused:
        return BackendRefused(self._name, message, code=code)


def _spaces(text: str) -> str:
    """The white space at its end."""
    return text[len(text.rstrip()) :]


def _decoder(tokenizer: Any) -> Decode:
    """Ids to text. The Rust tokenizer is asked directly where that gives the same: it is eight times as fast for a few tokens."""
    if tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces:
        return lambda ids: str(tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True))
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True))
