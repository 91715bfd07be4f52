"""What tells two questions apart that an encoder takes for one: each guard by itself, with pairs on both sides of it."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.phrasing import PHRASINGS, render
from router.wording import differing, read

APART = {
    "number": [
        ("Use 4 9 10 13 to make 24.", "Use 4 9 10 12 to make 24."),
        ("Use 4 9 10 13 to make 24.", "Use 4 9 10 13 to make 25."),
        ("What is 8 minus 3?", "What is 3 minus 8?"),
        ("List three causes of the war.", "List four causes of the war."),
        ("Is .5 enough for it?", "Is 5 enough for it?"),
        ("Use 4,9,10 to make it.", "Use 49,10 to make it."),
        ("Use 1,100 to make it.", "Use 1100 to make it."),
        ("Is it due at 10:30 to you?", "Is it due at 10:45 to you?"),
        ("Is it more than 10k to you?", "Is it more than 10m to you?"),
        ("Name the second king of the country.", "Name the third king of the country."),
        ("What is one-third of it?", "What is one-fourth of it?"),
    ],
    "unit": [
        ("How many miles is it to the coast?", "How many kilometers is it to the coast?"),
        ("What is the price in $?", "What is the price in €?"),
        ("Delete the files older than a week.", "Delete the files older than a month."),
    ],
    "negation": [
        ("Which countries border it?", "Which countries do not border it?"),
        ("Is it safe to drink?", "Is it unsafe to drink?"),
        ("Can they fly without wings?", "Can they fly with wings?"),
        ("Should I delete all but the last?", "Should I never delete all but the last?"),
        ("Why does it start?", "Why doesn't it start?"),
    ],
    "name": [
        ("What is the capital of France?", "What is the capital of Germany?"),
        ("When was the Louvre built by them?", "When was the Prado built by them?"),
        ("How do I back up my iPhone?", "How do I back up my iPad?"),
    ],
    "order": [
        ("Did the company that Anna founded hire Ben?", "Did the company that Ben founded hire Anna?"),
        ("The dog bit the man. Is he hurt?", "The man bit the dog. Is he hurt?"),
        ("Is Ford worth as much as Tesla?", "Is Tesla worth as much as Ford?"),
        ("Show me flights to Boston, then to Denver.", "Show me flights to Denver, then to Boston."),
    ],
    "opposite": [
        ("Is it more than that?", "Is it less than that?"),
        ("What was there before the war?", "What was there after the war?"),
        ("Who won the match?", "Who lost the match?"),
        ("Is the statement true?", "Is the statement wrong?"),
        ("Show me flights to Boston.", "Show me flights from Boston."),
        ("Which is the first of them?", "Which is the last of them?"),
        ("Do all birds fly?", "Do some birds fly?"),
    ],
    "instruction": [
        ("Return the result as JSON.", "Return the result as YAML."),
        ("Describe the plot in a sentence.", "Describe the plot in a paragraph."),
        ("Answer the question in english.", "Answer the question in french."),
        ("Summarize the letter for them.", "Translate the letter for them."),
    ],
    "quote": [
        ('What does "ephemeral" mean?', 'What does "ethereal" mean?'),
        ("What does `git pull` do?", "What does `git push` do?"),
    ],
    "code": [
        ("What is at https://a.example/x now?", "What is at https://a.example/y now?"),
        ("Is user@a.example the right address?", "Is user@b.example the right address?"),
        ("What does read_file do?", "What does write_file do?"),
        ("What is in /etc/hosts on it?", "What is in /etc/passwd on it?"),
        ("What is new in it since Python 3.1?", "What is new in it since Python 3.10?"),
        ("What is it that gpt4 can do?", "What is it that gpt3 can do?"),
        ("Solve it for x as the unknown.", "Solve it for y as the unknown."),
    ],
    "sign": [
        ("What is a + b to them?", "What is a * b to them?"),
        ("What is (2 + 3) * 4 then?", "What is 2 + (3 * 4) then?"),
        ("What is f'(x) for it?", "What is f(x) for it?"),
        ("What is 5! and why?", "What is 5 and why?"),
    ],
    "asked": [("When is the show?", "Where is the show?"), ("Who sent it?", "Why was it that he sent it?")],
    "time": [("Who is the president?", "Who was the president?"), ("Should I go to the shop?", "Can I go to the shop?")],
    "person": [
        ("What is my name?", "What is your name?"),
        ("Does he need a visa?", "Does she need a visa?"),
        ("Who am I?", "Who are you?"),
    ],
    "more": [("Are dogs allowed in the park?", "Are dogs allowed in the national park?")],
}
TOGETHER = [
    ("What is the capital of France?", "What's the capital of France?"),
    ("What is the capital of France?", "what is the capital of france"),
    ("What is France's capital?", "Tell me the capital of France."),
    ("What is France's capital?", "Tell me the capital of France."),
    ("How do I reset my password?", "Hi! Can you tell me how to reset my password?"),
    ("How do I reset my password?", "How can I reset my password, please?"),
    ("Is it bigger than a cat?", "Is it larger than a cat?"),
    ("Why isn't it working?", "Why is it not working?"),
    ("Which planet is the largest of all?", "What is the largest planet of all?"),
    ("She has three dogs. Can she have more?", "She has 3 dogs. Can she have more?"),
    ("It is twenty-five of them. Why?", "It is 25 of them. Why?"),
    ("What do “dark patterns” do?", 'What do "dark patterns" do?'),
    ("Do you know what cats eat?", "What do cats eat?"),
]


@pytest.mark.parametrize(("guard", "one", "other"), [(guard, *pair) for guard, pairs in APART.items() for pair in pairs])
def test_questions_that_differ_in_what_an_encoder_hardly_sees_are_apart(guard: str, one: str, other: str) -> None:
    """Each guard refuses its pairs, in either direction; a pair that trips two guards at once is refused by either."""
    found = {differing(read(one), read(other)).guard, differing(read(other), read(one)).guard}
    assert "" not in found
    assert guard in found


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_the_same_in_other_words_is_not_kept_apart(one: str, other: str) -> None:
    """Politeness, short forms, case, digits and genitives make no other question, and leave nothing for the encoder to judge."""
    found = differing(read(one), read(other))
    assert (found.guard, found.mine, found.theirs) == ("", "", "")
    assert read(one).strict == read(other).strict


def test_other_words_are_left_for_the_encoder() -> None:
    """A synonym cannot be told from another thing by lists: both sides' words are handed out."""
    found = differing(read("Who was scared of the dog?"), read("Who was frightened of the dog?"))
    assert (found.guard, found.mine, found.theirs) == ("", "scared", "frightened")


@pytest.mark.parametrize(
    "text", ["Ist Paris nicht die Hauptstadt von Frankreich?", "Was heißt das?", "今日の天気は?", "def f(x): return x", "", "42"]
)
def test_what_is_not_english_is_not_read(text: str) -> None:
    """The lists hold English words; a text without them would pass every guard."""
    assert not read(text).english


numbers = st.lists(st.integers(1, 99), min_size=4, max_size=4)


@given(numbers, st.integers(1, 99), numbers, st.integers(1, 99), st.integers(0, 7), st.integers(0, 7))
def test_a_puzzle_with_other_numbers_is_another_question(
    mine: list[int], target: int, theirs: list[int], other_target: int, one: int, other: int
) -> None:
    """In whatever phrasings: what must be equal differs whenever any number, or the order of the numbers, does."""
    first, second = render(mine, target, PHRASINGS[one]), render(theirs, other_target, PHRASINGS[other])
    if re.findall(r"\d+", first) != re.findall(r"\d+", second):
        assert read(first).strict != read(second).strict
        assert differing(read(first), read(second)).guard


@given(st.text(alphabet="ab cN'.?!-\n\"`1,£not ", max_size=60), st.text(alphabet="ab cN'.?!-\n\"`1,£not ", max_size=60))
def test_whether_two_texts_are_apart_does_not_depend_on_which_comes_first(one: str, other: str) -> None:
    """And every text is together with itself."""
    mine, theirs = read(one), read(other)
    assert bool(differing(mine, theirs).guard) == bool(differing(theirs, mine).guard)
    assert differing(mine, mine).guard == ""


def test_a_long_text_is_read_in_time_that_grows_with_its_length() -> None:
    """No pattern goes back and forth over what a client sends: ten thousand of the worst characters are read at all."""
    rng = random.Random(0)
    for alphabet in ("a.", "a'", "-a", "/a\\", "a@", '"`', "a_b.", "please tell me ", "\n "):
        read("".join(rng.choice(alphabet) for _ in range(1500)))
        read(alphabet * (1500 // len(alphabet)))
