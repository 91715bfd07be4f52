"""`python -m benchmarks.semantic_cache`: which similarity lets one question's answer stand for another's, and how often that is wrong.

Pairs that ask the same and pairs that only look so come from questions written by hand, and from recorded tasks changed in one place: a
number, a name, a unit, a negation, what is asked for. Calibration writes the table that the router reads (`router/similar.json`): for
each threshold a 95 % upper bound on the share of look-alikes that would be taken for the same, of the source where it is highest. The
page is about questions that were in no calibration, by hand those of a file that was written after the guards were finished.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from benchmarks.harness import PAGES, command, groups, parser, publish, recordings, sides, table
from difficulty.encoders import Encoder, Floats, open_encoder
from difficulty.sentences import read as read_sentences
from fleet.phrasing import PHRASINGS, render
from router.options import SemanticOptions
from router.similar import CALIBRATION, calibrated, similarity
from router.wording import differing, read

PAIRS = Path(__file__).parent / "pairs"
THRESHOLDS = [round(0.5 + 0.01 * i, 2) for i in range(50)]
RATES = (0.01, 0.02, 0.05)
USUAL, CAREFUL = 0.9, 0.97
"""Of a plain cosine: thresholds that semantic caches are run with, and above those."""
TASKS, PUZZLES = 600, 400
SAME = "same"
Random = random.Random


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, another one, and whether it asks the same: `kind` is SAME or how it differs."""

    source: str
    kind: str
    question: str
    other: str
    calibrates: bool = False


@dataclass(frozen=True, slots=True)
class Scored:
    """A pair with the plain cosine, and with the similarity that the router sees."""

    pair: Pair
    cosine: float
    similarity: float


def main() -> None:
    """Make pairs, score them, calibrate, write the page."""
    form = parser("semantic_cache", (__doc__ or "").strip())
    form.add_argument("--encoder", default=SemanticOptions().encoder, help="calibrate another one; the table of the router is rewritten")
    args = form.parse_args()
    files = recordings(args.data, "tasks_gsm8k.jsonl.gz") | recordings(args.data, "outcomes_*mmlu_even.jsonl.gz")
    encoder = open_encoder(args.encoder)
    memo: dict[str, Floats | None] = {}
    pairs = [*by_hand("calibrate"), *by_hand("test"), *tasks(files["tasks_gsm8k"], args.seed), *puzzles(args.seed)]
    pairs += choices(files["outcomes_routellm_mmlu_even"], args.seed)
    scored = [found for pair in pairs if (found := score(pair, encoder, memo)) is not None]
    rows = calibration([s for s in scored if s.pair.calibrates])
    said = {"encoder": args.encoder, "digest": encoder.digest, "recipe": "python -m benchmarks.semantic_cache", "rows": rows}
    CALIBRATION.write_text(json.dumps(said, indent=1) + "\n")
    figures = report(scored, said)
    publish("semantic_cache", figures, page(figures))
    picture([s for s in scored if not s.pair.calibrates], PAGES / "semantic_cache.png")


def score(pair: Pair, encoder: Encoder, memo: dict[str, Floats | None]) -> Scored | None:
    """None for a pair that the router would not compare: not English, or longer than the encoder reads."""
    mine, theirs = read(pair.question), read(pair.other)
    difference = differing(mine, theirs)
    texts = [pair.question, pair.other, *([difference.mine, difference.theirs] if difference.mine else [])]
    if fresh := [text for text in dict.fromkeys(texts) if text not in memo]:
        memo |= read_sentences(encoder, fresh)
    one, other, *rests = [memo[text] for text in texts]
    if one is None or other is None or not (mine.english and theirs.english):
        return None
    return Scored(pair, float(one @ other), similarity(float(one @ other), difference, rests))


# --- pairs --------------------------------------------------------------------------------------------------------------


def by_hand(name: str) -> Iterator[Pair]:
    """Each look-alike and each other phrasing of a question, against every phrasing of it."""
    for block in re.split(r"\n{2,}", (PAIRS / f"{name}.txt").read_text().strip()):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        asked = [lines[0], *(line[2:] for line in lines if line.startswith("+ "))]
        frame = Pair("everyday", SAME, "", "", name == "calibrate")
        yield from (replace(frame, question=one, other=other) for i, one in enumerate(asked) for other in asked[i + 1 :])
        for kind, _, other in (line[2:].partition(": ") for line in lines if line.startswith("- ")):
            yield from (replace(frame, kind=kind, question=one, other=other) for one in asked)


def tasks(rows: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Word problems, changed in one place; near-duplicates on one side."""
    rng = Random(seed)
    chosen = rng.sample([str(row["prompt"]) for row in rows], TASKS)
    side = sides(groups(chosen), seed, (0.5, 0.0, 0.5))
    for text, half in zip(chosen, side, strict=True):
        for kind, change in CHANGES.items():
            if (other := change(text, rng)) is not None and other != text:
                yield Pair("word problems", kind, text, other, half == 0)


def puzzles(seed: int) -> Iterator[Pair]:
    """The fleet's puzzles: each in two phrasings, and with another number or target."""
    rng = Random(seed)
    for i in range(PUZZLES):
        numbers, target = [rng.randint(1, 13) for _ in range(4)], rng.choice([24, *range(10, 60)])
        one, other = rng.sample(PHRASINGS, 2)
        question = render(numbers, target, one)
        frame = Pair("puzzles", SAME, question, render(numbers, target, other), i % 2 == 0)
        changed = [*numbers[:2], numbers[2] + 1, numbers[3]]
        yield frame
        yield replace(frame, kind="number", other=render(changed, target, one))
        yield replace(frame, kind="number", other=render(changed, target, other))
        yield replace(frame, kind="target", other=render(numbers, target + 1, one))


def choices(rows: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Pair]:
    """Multiple choice: the question that shares most words in its subject, and the same one with its options in another order."""
    rng = Random(seed)
    chosen = rng.sample([(str(row["subject"]), str(row["prompt"])) for row in rows], 2 * TASKS)
    group = groups([text for _, text in chosen])
    side = sides(group, seed, (0.5, 0.0, 0.5))
    for i, (subject, text) in enumerate(chosen):
        frame = Pair("multiple choice", "same subject", text, "", side[i] == 0)
        rivals = [t for j, (s, t) in enumerate(chosen) if s == subject and side[j] == side[i] and t != text]
        if rivals:
            yield replace(frame, other=max(rivals, key=lambda rival: _overlap(text, rival)))
        options = re.findall(r"^[A-D]\. (.*)$", text, re.MULTILINE)
        if len(set(options)) == 4:
            turned = iter(options[1:] + options[:1])
            yield replace(frame, kind="options", other=re.sub(r"(?m)^([A-D]\. ).*$", lambda found: found[1] + next(turned), text))  # noqa: B023


def _overlap(one: str, other: str) -> float:
    mine, theirs = set(one.lower().split()), set(other.lower().split())
    return len(mine & theirs) / len(mine | theirs)


# --- changes of a text, each in one place -------------------------------------------------------------------------------

_NAMES = ("Olivia", "Marcus", "Priya", "Henrik", "Chloe", "Dmitri")
_UNITS = {"dollars": "euros", "$": "€", "hours": "minutes", "minutes": "hours", "days": "weeks", "weeks": "months", "miles": "kilometers"}
_UNITS |= {"pounds": "ounces", "feet": "inches", "years": "months", "inches": "feet", "cups": "gallons"}
_TURNED = {"more": "fewer", "less": "more", "first": "last", "before": "after", "total": "average", "each": "some", "buys": "sells"}
_TURNED |= {
    "left": "gone",
    "older": "younger",
    "sells": "buys",
    "gives": "takes",
    "twice": "half",
    "spent": "earned",
    "every": "every other",
}
_NOT = {
    " is ": " is not ",
    " are ": " are not ",
    " can ": " cannot ",
    " was ": " was not ",
    " has ": " does not have ",
    " will ": " will not ",
}
_SAID = {
    "dollars": "bucks",
    "$": "USD ",
    "three": "3",
    "two": "2",
    "does not": "doesn't",
    "is not": "isn't",
    "hours": "hrs",
    "percent": "%",
}


def _number(text: str, rng: Random) -> str | None:
    found = list(re.finditer(r"\d+", text))
    if not found:
        return None
    one = rng.choice(found)
    return text[: one.start()] + str(int(one[0]) + rng.randint(1, 3)) + text[one.end() :]


def _names_of(text: str) -> list[str]:
    words = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", text)
    return [word for word in dict.fromkeys(words) if word != "The"]


def _name(text: str, rng: Random) -> str | None:
    names = _names_of(text)
    return re.sub(rf"\b{names[0]}\b", rng.choice(_NAMES), text) if names else None


def _roles(text: str, _: Random) -> str | None:
    """The first two names change places."""
    names = _names_of(text)[:2]
    if len(names) < 2:
        return None
    places = dict(zip(names, names[::-1], strict=True))
    return re.sub("|".join(rf"\b{name}\b" for name in names), lambda found: places[found[0]], text)


def _one_of(places: Mapping[str, str]) -> Callable[[str, Random], str | None]:
    """The change of one of these words, chosen among those that are there."""

    def change(text: str, rng: Random) -> str | None:
        found = [match for word in places for match in re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)" if word != "$" else r"\$", text)]
        if not found:
            return None
        one = rng.choice(found)
        return text[: one.start()] + places[one[0]] + text[one.end() :]

    return change


def _asked(text: str, rng: Random) -> str | None:
    """The question is about something else that the text names."""
    asked = re.search(r"(?i)\bhow many ([a-z]+s)\b", text)
    others = [word for word in dict.fromkeys(re.findall(r"\b[a-z]{3,}s\b", text)) if asked and word != asked[1]]
    others = [word for word in others if word not in ("has", "was", "does", "his", "this", "always", "times")]
    return text[: asked.start(1)] + rng.choice(others) + text[asked.end(1) :] if asked and others else None


def _dressed(text: str, rng: Random) -> str:
    return rng.choice(("Please {}", "Hi! {}", "Can you tell me: {}", "{} Please.", " {} ")).format(text)


CHANGES: Mapping[str, Callable[[str, Random], str | None]] = {
    SAME: lambda text, rng: _dressed(_one_of(_SAID)(text, rng) or text, rng),
    "number": _number,
    "name": _name,
    "roles": _roles,
    "negation": _one_of(_NOT),
    "unit": _one_of(_UNITS),
    "opposite": _one_of(_TURNED),
    "asked for": _asked,
}


# --- calibration --------------------------------------------------------------------------------------------------------


def look_alikes(scored: Sequence[Scored], of: Callable[[Scored], float]) -> dict[str, list[float]]:
    """By source: for each question that only looks the same, the most similar phrasing of what it would be taken for."""
    worst: dict[tuple[str, str], float] = {}
    for found in scored:
        key = (found.pair.source, found.pair.other)
        if found.pair.kind != SAME:
            worst[key] = max(worst.get(key, 0.0), of(found))
    by_source: dict[str, list[float]] = {}
    for (source, _), value in worst.items():
        by_source.setdefault(source, []).append(value)
    return by_source


def calibration(scored: Sequence[Scored]) -> list[dict[str, float]]:
    """For each threshold the bound on false hits, of the source where it is highest, and the share of paraphrases by hand that hit."""
    alike = look_alikes(scored, lambda found: found.similarity)
    bounds = {t: max(upper(values, t) for values in alike.values()) for t in THRESHOLDS}
    return [{"threshold": t, "false_hits_at_most": bound, "hits": hits(scored, t)} for t, bound in bounds.items()]


def upper(values: Sequence[float], threshold: float) -> float:
    """Clopper and Pearson's one-sided 95 % bound on the share of values that reach the threshold."""
    reached = sum(value >= threshold for value in values)
    return round(float(beta.ppf(0.95, reached + 1, len(values) - reached)), 5)


def hits(scored: Sequence[Scored], threshold: float) -> float:
    """Of the paraphrases written by hand."""
    same = [found.similarity for found in scored if found.pair.source == "everyday" and found.pair.kind == SAME]
    return round(float(np.mean([value >= threshold for value in same])), 4)


# --- the page -----------------------------------------------------------------------------------------------------------


def report(scored: Sequence[Scored], said: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of the page, on the test side."""
    test = [found for found in scored if not found.pair.calibrates]
    threshold = calibrated(SemanticOptions(encoder=said["encoder"], max_false_hits=RATES[0]), said["digest"], said)
    cosines = look_alikes([found for found in scored if found.pair.calibrates], lambda found: found.cosine)
    plain = {t: max(upper(values, t) for values in cosines.values()) for t in (*THRESHOLDS, 0.995, 0.999)}
    kinds = sorted({(found.pair.source, found.pair.kind) for found in test}, key=lambda key: (key[1] != SAME, key))
    rows = []
    for source, kind in kinds:
        found = [s for s in test if (s.pair.source, s.pair.kind) == (source, kind)]
        rules = {
            "usual": [s.cosine >= USUAL for s in found],
            "careful": [s.cosine >= CAREFUL for s in found],
            "threshold alone": [s.cosine >= threshold for s in found],
            "guarded": [s.similarity >= threshold for s in found],
        }
        rows.append({"source": source, "kind": kind, "pairs": len(found), **{name: share(hit) for name, hit in rules.items()}})
    alike = look_alikes(test, lambda s: s.similarity)
    together = {source: share([value >= threshold for value in values]) for source, values in alike.items()}
    wrong = [[s.pair.question, s.pair.other] for s in test if s.pair.kind != SAME and s.similarity >= threshold]
    figures: dict[str, Any] = {"rates": [_at(rate, said) for rate in RATES], "look_alikes": together, "wrong": wrong[:20]}
    best = min(plain, key=lambda t: (plain[t], t))
    same = [s.cosine >= best for s in test if s.pair.source == "everyday" and s.pair.kind == SAME]
    figures |= {"least_rate": min(row["false_hits_at_most"] for row in said["rows"])}
    figures |= {"plain": {"threshold": best, "false_hits_at_most": plain[best], "hits": share(same)}}
    return {"threshold": threshold, **figures, "rows": rows}


def _at(rate: float, said: Mapping[str, Any]) -> dict[str, float]:
    row = min((row for row in said["rows"] if row["false_hits_at_most"] <= rate), key=lambda row: float(row["threshold"]))
    return {"max_false_hits": rate, **row}


def share(hit: Sequence[bool]) -> list[float]:
    """How many, of how many, with the 95 % interval of the share."""
    n, k = len(hit), sum(hit)
    low, high = (beta.ppf(0.025, k, n - k + 1) if k else 0.0), (beta.ppf(0.975, k + 1, n - k) if k < n else 1.0)
    return [k, n, round(float(low), 4), round(float(high), 4)]


HOW_FAR = """## How far this goes

Everyday questions were written by hand, in two files: with the first the guards were made and the threshold found, the second was written
afterwards. What was changed since makes the guards stricter, and none of it came from the second file. Both are of one author and in
English, and much harder than traffic: in it most neighbours are not made to deceive. Word problems are GSM8K's, multiple choice MMLU's,
each changed by rule. Paraphrases of *word problems* are changed by rule too (a greeting, `3` for `three`), and say little of how people
rephrase.
"""


def page(figures: Mapping[str, Any]) -> str:
    """The page, in Markdown."""

    def cell(found: Sequence[float]) -> str:
        k, n, low, high = found
        return f"{k / n:.1%} ({low:.1%}–{high:.1%})"

    def lines(same: bool) -> list[list[str]]:
        rows = [row for row in figures["rows"] if (row["kind"] == SAME) == same]
        names = ("usual", "careful", "threshold alone", "guarded")
        return [[f"{row['source']}: {row['kind']}", str(row["pairs"]), *(cell(row[name]) for name in names)] for row in rows]

    t = figures["threshold"]
    head = ["pairs", f"cosine ≥ {USUAL}", f"cosine ≥ {CAREFUL}", f"cosine ≥ {t}", "with guards"]
    rates = [[f"{row['max_false_hits']:.0%}", f"{row['threshold']:.2f}", f"{row['hits']:.1%}"] for row in figures["rates"]]
    sources = ", ".join(f"{source} {k} of {n} (at most {high:.1%})" for source, (k, n, _, high) in figures["look_alikes"].items())
    least, plain = figures["least_rate"], figures["plain"]
    wrong = "\n".join(f"- *{one}* / *{other}*" for one, other in figures["wrong"]) or "- none"
    return f"""# The semantic cache: hits and false hits

{command("semantic_cache")}

A **hit** is a pair that is taken for the same question. Pairs of the kind *same* ask the same; all others differ in one thing and should
never hit. The first columns are a plain cosine of MiniLM. The last is what the router does: guards, and {t} for the lower of two cosines,
of the whole texts and of what only one of them says. Shares with 95 % intervals, on questions that were in no calibration.

The least bound on false hits that a plain cosine reaches on calibration is {plain["false_hits_at_most"]:.1%}, at {plain["threshold"]}:
there {cell(plain["hits"])} of the everyday paraphrases hit.

![hits against false hits](semantic_cache.png)

## Pairs that ask the same

{table(["source", *head], lines(True))}

## Pairs that only look so

{table(["source: what differs", *head], lines(False))}

`lower` is another thing in lower case, `wish` another wish for the same thing, `swap` the same words in other roles.

Counted by question that only looks the same, whatever phrasing it is held against: {sources}.

The false hits among them:

{wrong}

## What a stated rate costs

The threshold for each `max_false_hits` is the smallest whose 95 % upper bound (Clopper and Pearson, by question) keeps it on the
calibration side of *every* source; hits are of the paraphrases written by hand there. With so many pairs nothing below {least:.2%} can
be shown.

{table(["max_false_hits", "threshold", "hits"], rates)}

{HOW_FAR}"""


def picture(scored: Sequence[Scored], path: Path) -> None:
    """Hits against false hits of everyday questions over all thresholds, with and without guards."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    every = [found for found in scored if found.pair.source == "everyday"]
    same, other = ([s for s in every if (s.pair.kind == SAME) == wanted] for wanted in (True, False))
    figure, axes = plt.subplots(figsize=(6, 4), dpi=130)
    rules: dict[str, Callable[[Scored], float]] = {"plain cosine": lambda s: s.cosine, "with guards": lambda s: s.similarity}
    for name, of in rules.items():
        at = [(np.mean([of(s) >= t for s in other]), np.mean([of(s) >= t for s in same])) for t in np.linspace(0.4, 1.0, 121)]
        axes.plot(*zip(*at, strict=True), label=name)
    axes.set(xlabel="look-alikes that hit", ylabel="paraphrases that hit", ylim=(0, 1), xlim=(-0.01, 1))
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
