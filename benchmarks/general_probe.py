"""`python -m benchmarks.general_probe`: fit the probe that is shipped in `difficulty/general`, from real outcomes, with its report.

Two tiers are learned: `weak`, models of about Mixtral 8x7B's class, and `strong`, of about GPT-4 Turbo's. Only recordings are used whose
licence allows it, and only those that hold outcomes of both tiers; so nothing here is code, and the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.encodings import ENCODER, Kept
from benchmarks.harness import ROOT, groups, parser, recordings
from benchmarks.marks import Rows, regraded
from difficulty.artifact import save_probe
from difficulty.conversation import conversation_text
from difficulty.encoders import open_encoder
from difficulty.fit import fit_probe
from difficulty.labels import Labelled
from difficulty.report import summary, write_report
from difficulty.tiers import TIERS

DRAWS = 4
"""Most labels of a tier on one prompt: more models on the same prompt say little more about another one."""


@dataclass(frozen=True, slots=True)
class Source:
    """A recording, and which of its models stand for the tiers."""

    file: str
    origin: str
    licence: str
    weak: tuple[str, ...]
    strong: tuple[str, ...]

    def models(self, tier: str) -> tuple[str, ...]:
        """Of one tier."""
        return self.weak if tier == "weak" else self.strong


MIXTRAL, GPT4 = ("mistralai/Mixtral-8x7B-Instruct-v0.1",), ("gpt-4-1106-preview",)
_WEAK = ("Mixtral-8x7B-Instruct-v0.1", "gpt-3.5-turbo-0125", "Meta-Llama-3-8B-Instruct", "Yi-1.5-9B-Chat", "Qwen2-7B-Instruct")
_STRONG = ("gpt-4-turbo-2024-04-09", "gpt-4o-2024-05-13", "claude-3-opus-20240229", "Mistral-Large-2", "Meta-Llama-3.1-70B-Instruct")
SOURCES = (
    Source("outcomes_routellm_gsm8k", "lm-sys/RouteLLM, GSM8K", "Apache-2.0", MIXTRAL, GPT4),
    Source("outcomes_routellm_mmlu_even", "lm-sys/RouteLLM, MMLU (29 subjects)", "Apache-2.0", MIXTRAL, GPT4),
    Source("outcomes_routellm_mtbench", "lm-sys/RouteLLM, MT-Bench", "Apache-2.0", MIXTRAL, GPT4),
    Source("outcomes_zeroeval_gsm", "WildEval/ZeroEval, GSM8K", "Apache-2.0", _WEAK, _STRONG),
    Source("outcomes_zeroeval_math_l5", "WildEval/ZeroEval, MATH level 5", "Apache-2.0", _WEAK, _STRONG),
)


def main() -> None:
    """Read, fit, report, save."""
    form = parser("general_probe", (__doc__ or "").strip())
    form.add_argument("--out", type=Path, default=ROOT / "difficulty" / "general")
    args = form.parse_args()
    files = recordings(args.data, "outcomes_*.jsonl.gz")
    rows, _ = labels(files)
    encoder = Kept(open_encoder(ENCODER))
    fitted = fit_probe(rows, encoder, seed=args.seed)
    report = write_report(fitted, args.out)
    save_probe(
        args.out,
        fitted.head,
        encoder,
        data_digest=fitted.table.digest,
        seed=args.seed,
        figures=summary(fitted, report),
        sources=[described(source, files.get(source.file, ())) for source in SOURCES],
        tiers=True,
    )
    print(args.out / "report.md")


def described(source: Source, rows: Rows) -> str:
    """For the card: where the labels come from, and how many of them were put right."""
    changed = sum(n for model, n in regraded(rows)[1].items() if model in source.weak + source.strong)
    said = f", {changed} marks put right that were wrong for the notation" if changed else ""
    return f"{source.origin} ({source.licence}){said}"


def labels(files: Mapping[str, Rows]) -> tuple[list[Labelled], dict[str, set[str]]]:
    """Labels of both tiers from the sources that are there, near-duplicates grouped across all of them; and each source's groups."""
    have = [(source, row) for source in SOURCES for row in regraded(files.get(source.file, ()))[0]]
    group = [str(g) for g in groups([read_as(row["prompt"]) for _, row in have])]
    found: list[Labelled] = []
    of_source: dict[str, set[str]] = {}
    for (source, row), g in zip(have, group, strict=True):
        found += _labelled(source, row, g)
        of_source.setdefault(source.file, set()).add(g)
    return found, of_source


def read_as(prompt: str) -> str:
    """A prompt as the probe reads it."""
    return conversation_text([{"role": "user", "content": prompt}])


def _labelled(source: Source, row: Mapping[str, Any], group: str) -> Iterator[Labelled]:
    for tier in TIERS:
        marks = [row["outcomes"][model]["correct"] for model in source.models(tier) if model in row["outcomes"]]
        if marks:
            draws = 1 if marks in ([0], [1]) else DRAWS
            yield Labelled(row["prompt"], tier, round(draws * sum(marks) / len(marks)), draws, group)


if __name__ == "__main__":
    main()
