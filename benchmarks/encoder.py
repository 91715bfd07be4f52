"""`python -m benchmarks.encoder`: what int8 on ONNX Runtime costs in accuracy, and saves in time, against the same weights on torch.

The probe is fitted anew on the states of each runtime and judged on the same prompts that it never saw, paired.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.encodings import ENCODER, HALFWAY
from benchmarks.general_probe import labels, read_as
from benchmarks.harness import command, interval, parser, publish, recordings, table
from difficulty.encoders import ONNX, Encoder, Encoding, TransformersEncoder, View, open_encoder
from difficulty.fit import FittedProbe, fit_probe
from difficulty.labels import TEST
from difficulty.metrics import auroc, difference, figure, resamples

LENGTHS = (20, 100, 250)
SEEDS = range(3)
FP32, BF16, INT8 = "torch fp32", "torch bf16", "ONNX Runtime int8"


class Read:
    """What one runtime made of the prompts, for several fits."""

    views = (HALFWAY,)

    def __init__(self, encoder: Encoder, texts: Sequence[str]) -> None:
        self.name, self.digest = encoder.name, encoder.digest
        self._place = {text: i for i, text in enumerate(texts)}
        self.all = encoder.encode(texts, self.views)

    def encode(self, texts: Sequence[str], views: Sequence[View]) -> Encoding:
        """From memory."""
        return self.all.rows(np.array([self._place[text] for text in texts]))


def main() -> None:
    """Read by each runtime, fit, judge, publish."""
    form = parser("encoder", (__doc__ or "").strip())
    form.add_argument("--pattern", default="outcomes_routellm_gsm8k.jsonl.gz")
    args = form.parse_args()
    rows, _ = labels(recordings(args.data, args.pattern))
    texts = list(dict.fromkeys(read_as(row.prompt) for row in rows))
    found: dict[str, Any] = {}
    read: dict[str, Read] = {}
    fitted: dict[str, list[FittedProbe]] = {}
    for name, encoder in runtimes().items():
        found[name] = {"ms_by_tokens": {str(n): milliseconds(encoder, n) for n in LENGTHS}}
        read[name] = Read(encoder, texts)
        fitted[name] = [fit_probe(rows, read[name], seed=args.seed + seed) for seed in SEEDS]
    for name in found:
        a, b = (r.all.states[HALFWAY] for r in (read[name], read[FP32]))
        found[name]["cosine"] = float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).mean())
        found[name] |= {tier: judged(fitted[name], fitted[FP32], tier) for tier in ("weak", "strong")}
    publish("encoder", {"prompts": len(texts), "runtimes": found}, page(found, len(texts)))


def runtimes() -> dict[str, Encoder]:
    """The same weights three times."""
    half = TransformersEncoder(ENCODER.removeprefix(ONNX), max_tokens=256)
    half._loaded.body.bfloat16()
    return {FP32: TransformersEncoder(ENCODER.removeprefix(ONNX), max_tokens=256), BF16: half, INT8: open_encoder(ENCODER)}


def milliseconds(encoder: Encoder, tokens: int, times: int = 10) -> float:
    """CPU time of one prompt of about so many tokens, the best of some."""
    text, best = "the " * (tokens - 2), float("inf")
    for _ in range(times + 1):
        began = time.process_time()
        encoder.encode([text], [HALFWAY])
        best = min(best, time.process_time() - began)
    return best * 1e3


def judged(ours: Sequence[FittedProbe], reference: Sequence[FittedProbe], tier: str) -> dict[str, Any]:
    """AUROC over the test sides of all seeds, and what it differs from the reference on the same prompts."""
    parts = [_tested(fit, other, tier) for fit, other in zip(ours, reference, strict=True)]
    p, q, k, n = (np.concatenate([part[i] for part in parts]) for i in range(4))
    samples = resamples([group for part in parts for group in part[4]], 500, 0)
    return {"auroc": figure(auroc, p, k, n, samples), "more": difference(auroc, p, q, k, n, samples)}


def _tested(fit: FittedProbe, other: FittedProbe, tier: str) -> tuple[Any, ...]:
    m, on = fit.head.backends.index(tier), fit.side == TEST
    groups = [group for group, tested in zip(fit.table.groups, on, strict=True) if tested]
    p, q = (f.head.p_correct(np.column_stack(list(f.out_of_fold.values())))[on, m] for f in (fit, other))
    return p, q, fit.table.successes[tier][on], fit.table.draws[tier][on], groups


def page(found: Mapping[str, Any], prompts: int) -> str:
    """docs/benchmarks/encoder.md."""
    head = ("runtime", *(f"ms, {n} tokens" for n in LENGTHS), "cosine", "AUROC weak", "less or more", "AUROC strong", "less or more")
    rows = [
        [name, *(f"{ms:.1f}" for ms in f["ms_by_tokens"].values()), f"{f['cosine']:.4f}"]
        + [interval(f[tier][key]) for tier in ("weak", "strong") for key in ("auroc", "more")]
        for name, f in found.items()
    ]
    return f"""# The probe's encoder: int8 on ONNX Runtime against torch

{command("encoder")}

MiniLM-L6's third layer on the {prompts:,} prompts of GSM8K; a probe fitted on the states of each runtime, judged on prompts it never
saw, three splits, 95 % intervals from a bootstrap over groups. Time is CPU time of one prompt on one thread. ONNX Runtime stops at the
third layer, torch runs all six. Cosine and differences are against torch fp32.

{table(head, rows)}"""


if __name__ == "__main__":
    main()
