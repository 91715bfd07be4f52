"""The tokenizer and the training rows."""

from __future__ import annotations

import numpy as np

from fleet.data import SIZES, random_traces, training_rows
from fleet.phrasing import PHRASINGS
from fleet.puzzles import Puzzle, check, prompt
from fleet.revise import verdict
from fleet.split import split
from fleet.tokens import END, UNK, build_tokenizer

ANSWER = "13-9=4 ; 4 4 10\n10-4=6 ; 4 6\n6*4=24"


def test_text_survives_and_every_prefix_continues() -> None:
    """Decoding gives back the text; a prefix decodes to a prefix, and encodes to the same tokens again."""
    tokenizer = build_tokenizer()
    ids = tokenizer(ANSWER)["input_ids"]
    assert tokenizer.decode(ids) == ANSWER
    for cut in range(1, len(ids)):
        text = tokenizer.decode(ids[:cut])
        assert ANSWER.startswith(text)
        assert tokenizer(text)["input_ids"] == ids[:cut]


def test_an_unfinished_answer_can_be_continued_through_the_chat_template() -> None:
    """The last assistant turn stays open, and the system turn is ignored."""
    turns = [{"role": "user", "content": "Use 4 9 10 13 to make 24."}, {"role": "assistant", "content": "13-9=4 ; 4 4 10\n"}]
    tokenizer = build_tokenizer()
    ids = tokenizer.apply_chat_template([{"role": "system", "content": "x"}, *turns], continue_final_message=True)["input_ids"]
    assert tokenizer.decode(ids).endswith("4 4 10\n")
    assert END not in ids


def test_every_phrasing_and_verdict_is_in_the_vocabulary() -> None:
    """What the fleet is trained on, and what the revise strategy says, has no unknown word; other text has."""
    tokenizer = build_tokenizer()
    texts = [prompt(Puzzle((4, 9, 10, 13), 24), index) for index in range(len(PHRASINGS))]
    for text in [*texts, verdict(2), verdict(None)]:
        assert UNK not in tokenizer(text)["input_ids"]
    assert UNK in tokenizer("Summarise this contract.")["input_ids"]


def test_training_rows_are_right_answers_to_training_puzzles() -> None:
    """Every row, read back as text, is a puzzle of the training side with an answer that the checker accepts."""
    tokenizer, rng = build_tokenizer(), np.random.default_rng(0)
    for k in SIZES:
        rows = training_rows(rng, k, 16)
        for ids, scored in zip(rows.ids, rows.scored, strict=True):
            asked = tokenizer.decode(ids[: scored.argmax()], skip_special_tokens=True)
            assert check(asked, tokenizer.decode(ids[scored], skip_special_tokens=True)) == 1.0
        assert all(split(numbers) == "train" for numbers in random_traces(rng, k, 50).numbers.tolist())
