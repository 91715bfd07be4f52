"""The fleet's tokenizer: whole numbers and whole words, in transformers' own class and files.

One token a number keeps arithmetic a lookup, which is what makes 150,000 parameters enough. Text decodes back as people write
it ("13-9=4 ; 4 4 10"), a decoded prefix is a prefix of the decoded whole (so streams only ever append), and the text of an
unfinished answer encodes to the tokens it came from (so a search can continue it).

Not here: what a puzzle is (`puzzles.py`) and how training rows are laid out (`data.py`).
"""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

LARGEST_NUMBER = 200
SPECIAL = ("<pad>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")
PAD, UNK, USER, ASSISTANT, END = range(len(SPECIAL))
FIRST_NUMBER = len(SPECIAL)
MARKS = ("\n", "+", "-", "*", "/", "=", ";", ".", ",", ":", "?", "!", "(", ")")
_WORDS = """
a above again an and answer are as arithmetic at be by calculate can combine compute could do each equal equals exactly example find
for from game get give given gives goal has have hello help hey hi how i in into is it just left like look looks make me must my need
number numbers of on once one only operations out please problem puzzle reach result same show solution solve step steps take target
thank thanks that the them then these this those to total try use using want way we what with would wrong yes you your
"""
WORDS = tuple(_WORDS.split())

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>{{ message['content'] }}"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|end|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Token to id: specials, then the numbers 0..200 in order, then marks and words."""
    numbers = [str(value) for value in range(LARGEST_NUMBER + 1)]
    ordered = [*SPECIAL, *numbers, *MARKS, *sorted(set(WORDS))]
    return {token: index for index, token in enumerate(ordered)}


def number_id(value: int) -> int:
    """The id of a number's token; the layout is fixed so that arrays of numbers become arrays of ids by adding."""
    return FIRST_NUMBER + value


def _normalizer() -> Any:
    signs = [normalizers.Replace(found, put) for found, put in (("×", "*"), ("÷", "/"), ("−", "-"), ("·", "*"))]
    return normalizers.Sequence([normalizers.Lowercase(), *signs])


def _decoder() -> Any:
    """Spaces between words, none around operators and line ends."""
    tight = [("\n", "\n")] + [(mark, mark) for mark in "+-*/="]
    before = [decoders.Replace(" " + found, put) for found, put in tight]
    after = [decoders.Replace(found + " ", put) for found, put in tight]
    stops = [decoders.Replace(" " + mark, mark) for mark in ".,:?!)"] + [decoders.Replace("( ", "(")]
    return decoders.Sequence([decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), *before, *after, *stops])


def build_tokenizer(max_length: int = 1024) -> PreTrainedTokenizerFast:
    """The tokenizer that every model of the fleet is saved with."""
    core = Tokenizer(WordLevel(vocabulary(), unk_token="<unk>"))
    core.normalizer = _normalizer()
    word = Regex(r"<\|[a-z]+\|>|\d+|\n|[a-z]+|[^\sa-z\d]")
    core.pre_tokenizer = pre_tokenizers.Split(word, behavior="removed", invert=True)
    core.decoder = _decoder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        model_max_length=max_length,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
