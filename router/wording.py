"""What a question says, word by word: enough to tell two questions apart that an encoder takes for one.

An encoder hardly sees a number, a name, a `not`, or who did what to whom. So words are read into kinds. What must be the same in both texts
(numbers, units, quotations, negations, opposites, instructions, the time and the person spoken of) is `strict`, in its order; names and the
order of all other words are compared by `differing`, which also tells the words that only one of the two has: how near those are to
each other is for an encoder to say. The lists are of English, so only what reads as English is compared at all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from router.word_lists import KINDS, NUMBERS, PHRASES, UNITS

_TOKEN = re.compile(
    r"""(?P<quote>```.*?```|`[^`]*`|"[^"]*")"""
    r"""|(?P<code>https?://\S+|[\w.+-]{1,64}@[\w-]{1,64}\.\w+|\w*[/\\]\w[\w/\\.]*|\w+(?:[_.]\w+)+(?=\W|$)|\w+\(\)|--?[a-z][\w-]+)"""
    r"""|(?P<number>\.?\d+(?:[.,:]\d+)*[^\W_]*)"""
    r"""|(?P<word>[^\W\d_]+(?:'(?!s\b)[^\W\d_]+)?(?:-[^\W\d_]+)*\d*)"""
    r"""|(?P<sign>[][(){}$€£¢°%+*/=<>^&|~#@\\-]|(?<=\d)!|(?<!\w)'|'(?!\w))""",
    re.VERBOSE | re.DOTALL,
)
_OWNER = re.compile(r"\b([^\W\d_]+)'s\s+(?!(?:the|a|an|it|there|this|that|my|your)\b)([^\W\d_]+)")
_SPOKEN = re.compile(r"\b(what|who|where|when|how|why|that|it|there|here|he|she|let)'s\b", re.IGNORECASE)
_LONG = {"can't": "can not", "won't": "will not", "cannot": "can not", "n't": " not"} | {
    f"i'{short}": f"I {long}" for short, long in {"d": "would", "ve": "have", "m": "am", "ll": "will"}.items()
}
_SHORT = re.compile(r"(?i)\bcan't\b|\bwon't\b|\bcannot\b|n't\b|\bi'(?:d|ve|m|ll)\b")
_TYPED = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "."})
_HOW = re.compile(r"(?i)\bhow (?:(?:can|could|do|does) (?:i|you|one|we|people)|to)\b")
_BEST = re.compile(r"(?i)\b(?:what|which) (\w+) is (?:the )?(most \w+|\w+est|best|worst)\b")
_ASIDE = re.compile(
    r"(^|[.!?:\n]\s*)(?:(?:hi|hello|hey)(?: there)?(?=[,.!])|(?:so|ok|okay|well)(?=,)|please|kindly|calculate|compute|determine|find"
    r"|(?:can|could|would|will) you(?! (?:be|have|ever|still|not)\b)|i(?: am| was)? wonder(?:ing)?|let me know"
    r"|(?:tell|give|show) me(?: about)?|(?:do you|i (?:want|need|would like) to) know"
    r"|i (?:want|need|would like) (?:you )?to)\b(?: (?:if|whether)\b)?(?:\s*[,.!:])?\s*",
    re.IGNORECASE,
)
"""What only leads up to a question, at the beginning of a sentence."""
_FOREIGN = re.compile(r"[^\x00-\x7f€£¢°]")
_PREFIXES = ("un", "in", "im", "ir", "il", "dis", "non", "non-", "mis", "de", "anti", "re", "pre", "post", "over", "under")
MIN_ENGLISH = 0.25
"""Share of a text's words that are in the lists: below it, it is not taken for English."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word that matters: its kind, what it stands for, and whether it is written as a name."""

    kind: str
    form: str
    text: str
    name: bool = False


@dataclass(frozen=True)
class Wording:
    """A text, read."""

    words: tuple[Word, ...]
    english: bool

    @cached_property
    def strict(self) -> tuple[tuple[str, str], ...]:
        """What another text must have too, in this order, to be asking the same."""
        return tuple((word.kind, word.form) for word in self.words if word.kind != "word")


@dataclass(frozen=True, slots=True)
class Differing:
    """What only one of two texts says; `guard` names the rule by which they ask different things, whatever an encoder thinks."""

    mine: str = ""
    theirs: str = ""
    guard: str = ""


def read(text: str) -> Wording:
    """The words of a text that matter."""
    plain = _plain(text)
    words = tuple(_words(plain))
    said = re.findall(r"[^\W\d_]+", plain.lower())
    known = sum(word in PHRASES or word in KINDS for word in said)
    return Wording(words, bool(said) and not _FOREIGN.search(plain) and known >= MIN_ENGLISH * len(said))


def differing(mine: Wording, theirs: Wording) -> Differing:
    """Compares two texts, of which `strict` must be equal for them to ask the same."""
    for (kind, form), (other_kind, other_form) in zip(_padded(mine, theirs), _padded(theirs, mine), strict=True):
        if (kind, form) != (other_kind, other_form):
            return Differing(guard=kind or other_kind)
    ours, others = Counter(word.form for word in mine.words), Counter(word.form for word in theirs.words)
    rests = _only(mine, ours - others), _only(theirs, others - ours)
    if any(word.name for rest in rests for word in rest):
        return Differing(guard="name")
    if any(_negates(a.form, b.form) for a in rests[0] for b in rests[1]):
        return Differing(guard="negation")
    if _shared(mine, ours & others) != _shared(theirs, ours & others):
        return Differing(guard="order")
    if bool(rests[0]) != bool(rests[1]):
        return Differing(guard="more")
    return Differing(*(" ".join(word.text for word in rest) for rest in rests))


def _padded(one: Wording, other: Wording) -> list[tuple[str, str]]:
    return [*one.strict, *[("", "")] * (len(other.strict) - len(one.strict))]


def _only(wording: Wording, more: Counter[str]) -> list[Word]:
    """The words that it has more often than the other text."""
    left, found = Counter(more), []
    for word in wording.words:
        if left[word.form] > 0:
            left[word.form] -= 1
            found.append(word)
    return found


def _shared(wording: Wording, shared: Counter[str]) -> list[str]:
    left, found = Counter(shared), []
    for word in wording.words:
        if left[word.form] > 0:
            left[word.form] -= 1
            found.append(word.form)
    return found


def _negates(one: str, other: str) -> bool:
    """Whether one word is the other with a syllable before it that may turn it around."""
    return any(one == prefix + other or other == prefix + one for prefix in _PREFIXES)


# --- reading ------------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Typed plainly, short forms written out, `X's Y` as `Y of X`, and without what only leads up to the question."""
    typed = "\n".join(" ".join(line.split()) for line in text.translate(_TYPED).splitlines() if line.strip())
    plain = _SHORT.sub(lambda found: _LONG[found[0].lower()], _SPOKEN.sub(r"\1 is", typed))
    plain = _OWNER.sub(r"\2 of \1", plain)
    for _ in range(3):
        plain = _ASIDE.sub(r"\1", plain)
    return _BEST.sub(r"\2 \1", _HOW.sub("how", plain))


def _words(plain: str) -> Iterator[Word]:
    for found in _TOKEN.finditer(plain):
        group, text = found.lastgroup or "", found[0]
        if group == "word":
            yield from _word(text)
        elif group == "sign":
            yield Word("unit" if text in UNITS else "sign", UNITS.get(text, text), text)
        else:  # as it is written: 3.10 is not 3.1, and whether 4,910 is one number is not for us to say
            yield Word(group, " ".join(text.strip('`"').split()), text)


def _word(text: str) -> Iterator[Word]:
    lower = text.lower()
    kind, form = KINDS.get(lower, ("word", ""))
    if form:
        yield Word(kind, form, lower)
    elif (parts := [NUMBERS.get(part, "") for part in lower.split("-")]) and all(parts):
        yield Word("number", _compound(parts), text)
    elif lower not in PHRASES:
        symbol = len(text) == 1 or text[-1].isdigit()
        yield Word("code" if symbol else "word", text if symbol else _stem(lower), lower, name=text != lower)


def _compound(parts: list[str]) -> str:
    """`twenty-five` as 25; others (`one-third`) by their parts."""
    tens = len(parts) == 2 and parts[0] in ("20", "30", "40", "50", "60", "70", "80", "90") and len(parts[1]) == 1
    return parts[0][0] + parts[1] if tens else "-".join(parts)


def _stem(word: str) -> str:
    """Without a plural's or a gerund's ending."""
    if len(word) > 5 and word.endswith("ing"):
        word = word[:-3]
        return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word.rstrip("e")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return word.rstrip("e") if len(word) > 3 else word
