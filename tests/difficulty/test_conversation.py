"""Which text of a conversation is classified."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from difficulty.conversation import conversation_text


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_a_single_question_is_classified_as_it_is_without_its_margins() -> None:
    messages = [{"role": "system", "content": "Be brief."}, _user("  Use 4 9 10 13 to make 24.\n")]
    assert conversation_text(messages) == "Use 4 9 10 13 to make 24."


def test_a_bare_yes_carries_what_it_answers() -> None:
    messages = [_user("Prove it."), {"role": "assistant", "content": "Shall I use induction?"}, _user("yes")]
    assert conversation_text(messages) == "Prove it.\n\nyes"


def test_a_smaller_budget_keeps_fewer_of_the_earlier_turns_and_always_the_last() -> None:
    messages = [_user("a" * 40), _user("b" * 40), _user("yes")]
    assert conversation_text(messages, max_tokens=100).count("\n\n") == 2
    assert conversation_text(messages, max_tokens=12) == "b" * 40 + "\n\nyes"
    assert conversation_text(messages, max_tokens=5) == "yes"


def test_a_last_turn_over_the_budget_keeps_its_beginning_and_its_end() -> None:
    text = conversation_text([_user("BEGIN " + "x" * 5000 + " END")], max_tokens=50)
    assert text.startswith("BEGIN")
    assert text.endswith("END")
    assert len(text) <= 200


def test_text_parts_count_and_images_do_not() -> None:
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    assert conversation_text([_user(parts)]) == "What is this?"


def test_without_a_user_turn_all_text_counts() -> None:
    messages = [{"role": "system", "content": "Write a poem."}, {"role": "assistant", "content": None, "tool_calls": []}]
    assert conversation_text(messages) == "Write a poem."


_json = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text"]), inner | st.just("text")),
)
_messages = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", "system"]), "content": _json}), max_size=4)


@given(_messages, st.integers(1, 50))
def test_any_content_gives_a_text_of_bounded_length(messages: list[dict[str, Any]], max_tokens: int) -> None:
    """Hostile or odd content never raises, and never makes the probe read more than its budget."""
    assert len(conversation_text(messages, max_tokens=max_tokens)) <= 4 * max_tokens + 12 + 2 * len(messages)
