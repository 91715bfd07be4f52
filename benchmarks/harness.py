"""What every benchmark on recorded data shares: its command line, finding the files, groups and splits, paired bootstrap, and the report.

A benchmark is a module with a `main` that asks `options` for its arguments, reads `recordings`, and ends in `publish`. Recorded data is
no part of this repository: where a benchmark finds none it says which files it wants and where they come from, and stops with code 0.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import date
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfVectorizer

from policies import optimise

ROOT = Path(__file__).parents[1]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "benchmarks"
DRAWS = 2000
SHARES = (0.4, 0.2, 0.4)
TRAIN, CALIBRATE, TEST = 0, 1, 2
Array = NDArray[np.float64]
Ints = NDArray[np.int64]


def parser(name: str, about: str) -> argparse.ArgumentParser:
    """A command line with what all benchmarks take; add to it what one takes alone."""
    form = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about, formatter_class=form)
    found.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of recorded outcomes (*.jsonl.gz)")
    found.add_argument("--seed", type=int, default=0)
    return found


def recordings(data: Path, pattern: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every file that fits the pattern, by file name without its endings. Stops the program politely where there is none."""
    paths = sorted(data.glob(pattern)) if data.is_dir() else []
    if not paths:
        print(
            f"no {pattern} in {data}: this benchmark reads recorded outcomes of real models, gzipped JSON Lines in the format that\n"
            "docs/benchmarks/README.md describes. They are not part of this repository; name their folder with --data DIR.",
            file=sys.stderr,
        )
        sys.exit(0)
    return {path.name.removesuffix(".jsonl.gz"): read(path) for path in paths}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of one gzipped file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


# --- splits -------------------------------------------------------------------------------------------------------------


def groups(prompts: Sequence[str], alike: float = 0.8, block: int = 1000) -> Ints:
    """A number for each prompt, the same for near-duplicates: those whose tf-idf vectors (words and pairs) have a cosine of `alike`,
    linked transitively. A word that nearly all prompts share (a template) weighs little. Shape [N]."""
    vectors = csr_matrix(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+").fit_transform(prompts))
    links = []
    for start in range(0, len(prompts), block):
        near = (vectors[start : start + block] @ vectors.T).tocoo()
        keep = near.data >= alike
        links.append(np.column_stack([near.row[keep] + start, near.col[keep]]))
    pairs = np.concatenate(links)
    graph = csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(prompts), len(prompts)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def sides(group: ArrayLike, seed: int, shares: Sequence[float] = SHARES) -> Ints:
    """TRAIN, CALIBRATE or TEST for each row, whole groups on one side, shape [N]."""
    names, place = np.unique(np.asarray(group), return_inverse=True)
    drawn = np.random.default_rng(seed).random(len(names))
    return np.asarray(np.searchsorted(np.cumsum(shares)[:-1], drawn, side="right")[place], dtype=np.int64)


# --- intervals ----------------------------------------------------------------------------------------------------------


def bootstrap(statistic: Callable[[Ints], float], group: ArrayLike, draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high): 95 % interval of a statistic of rows, whole groups resampled. A comparison within the statistic is paired."""
    _, place, size = np.unique(np.asarray(group), return_inverse=True, return_counts=True)
    by_group, start = np.argsort(place.ravel(), kind="stable"), np.cumsum(size) - size
    rng = np.random.default_rng(seed)

    def drawn() -> Ints:
        groups = rng.integers(0, len(size), len(size))
        here, end = size[groups], np.cumsum(size[groups])
        return np.asarray(by_group[np.repeat(start[groups] - end + here, here) + np.arange(end[-1])])

    low, high = np.quantile([statistic(drawn()) for _ in range(draws)], [0.025, 0.975])
    return float(statistic(np.arange(len(by_group)))), float(low), float(high)


def mean_of(values: Array) -> Callable[[Ints], float]:
    """The statistic for `bootstrap` that is the mean of some rows' values."""
    return lambda rows: float(values[rows].mean())


# --- the report ---------------------------------------------------------------------------------------------------------


def engine_with(settings: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """While it lasts, these constants of `policies.optimise` are others."""
    return patch.multiple(optimise, **settings) if settings else nullcontext()


def publish(name: str, figures: Mapping[str, Any], page: str) -> None:
    """Writes benchmarks/results/NAME.json and docs/benchmarks/NAME.md, and prints the figures as one line of JSON. Pictures are the
    benchmark's own: docs/benchmarks/NAME.png."""
    whole = {"benchmark": name, "date": date.today().isoformat(), "machine": machine(), **figures}
    RESULTS.mkdir(parents=True, exist_ok=True)
    PAGES.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    (PAGES / f"{name}.md").write_text(page.rstrip() + "\n")
    print(json.dumps(whole))


def machine() -> str:
    """What it ran on, for the head of a page."""
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def command(name: str) -> str:
    """The first line of a page: what made it, when and where."""
    return f"`python -m benchmarks.{name}`, {date.today().isoformat()}, {machine()}."


def table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [list(head), ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def prose(*paragraphs: str) -> str:
    """Paragraphs with figures set into them, wrapped as the pages are."""
    return "\n\n".join(fill(" ".join(text.split()), 140, break_long_words=False, break_on_hyphens=False) for text in paragraphs)


def interval(value: Sequence[float], form: str = ".3f") -> str:
    """`0.512 (0.498 to 0.526)`."""
    return f"{value[0]:{form}} ({value[1]:{form}} to {value[2]:{form}})"
