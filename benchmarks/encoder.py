"""`python -m benchmarks.encoder`: what int8 on ONNX Runtime costs in accuracy, and saves in time, against the same weights on torch.

The probe is fitted anew on the states of each runtime and judged on the same prompts that it never saw, paired. Where there is a GPU, it
is measured too how many times more prompts a second the service reads in micro-batches, 32 asked at once, than one by one.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.encodings import ENCODER, HALFWAY
from benchmarks.general_probe import labels, read_as
from benchmarks.harness import command, interval, parser, prose, publish, recordings, table
from difficulty.encoders import ONNX, Encoder, Encoding, TransformersEncoder, View, open_encoder
from difficulty.fit import FittedProbe, fit_probe
from difficulty.labels import TEST
from difficulty.metrics import auroc, difference, figure, resamples
from difficulty.probe import EncoderProbe, Probe
from difficulty.service import ProbeService, ProbeServiceOptions

LENGTHS = (20, 100, 250)
SEEDS = range(3)
AT_ONCE, ROUNDS = 32, 10
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
    form.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="for micro-batches; auto: only a GPU, if there is one"
    )
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
    batched = on_device(args.device, fitted[FP32][0], texts)
    publish("encoder", {"prompts": len(texts), "runtimes": found, "batching": batched}, page(found, len(texts), batched))


def runtimes() -> dict[str, Encoder]:
    """The same weights three times, on the CPU."""
    full, half = _on("cpu"), _on("cpu")
    half._loaded.body.bfloat16()
    return {FP32: full, BF16: half, INT8: open_encoder(ENCODER)}


def _on(device: str) -> TransformersEncoder:
    encoder = TransformersEncoder(ENCODER.removeprefix(ONNX), max_tokens=256)
    encoder._loaded.body.to(device)
    return encoder


def on_device(device: str, fit: FittedProbe, texts: Sequence[str]) -> dict[str, Any] | None:
    """What micro-batches gain there; None, and a line that says so, where a GPU is wanted and there is none."""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        print("no GPU: what micro-batches gain on one is not measured; --device cpu measures it here", file=sys.stderr)
        return None
    on, name = ("cpu", "CPU, one thread") if device == "cpu" else ("cuda", torch.cuda.get_device_name())
    return {"device": name, **gain(EncoderProbe(_on(on), fit.head), texts)}


def gain(probe: Probe, texts: Sequence[str]) -> dict[str, float]:
    """Prompts a second through the service, AT_ONCE asked at once: read one by one, in micro-batches, and the ratio. The best of three."""
    asyncio.run(_read(probe, texts[:AT_ONCE], AT_ONCE))  # the first forward pays for loading
    single, batched = (max(asyncio.run(_read(probe, texts, size)) for _ in range(3)) for size in (1, AT_ONCE))
    return {"one_by_one_per_s": single, "batched_per_s": batched, "gain": batched / single}


async def _read(probe: Probe, texts: Sequence[str], max_batch: int) -> float:
    """Each of AT_ONCE callers asks its next prompt when it has its last; no prompt is asked twice."""
    service = ProbeService(probe, ProbeServiceOptions(max_batch=max_batch, memo=0, timeout_s=600))
    waiting = iter(texts[: AT_ONCE * ROUNDS])

    async def caller() -> int:
        return len([await service.estimate(text) for text in waiting])

    began = time.perf_counter()
    done = sum(await asyncio.gather(*(caller() for _ in range(AT_ONCE))))
    took_s = time.perf_counter() - began
    await service.aclose()
    return done / took_s


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


def batching(found: Mapping[str, Any] | None) -> str:
    """What the page says of micro-batches."""
    if found is None:
        return prose(
            f"""How much micro-batches gain on a GPU, {AT_ONCE} prompts asked at once, is not measured yet, for want of a GPU; the aim is
            five times as many prompts a second. Where there is one, this benchmark measures it."""
        )
    single, batched = found["one_by_one_per_s"], found["batched_per_s"]
    return prose(
        f"""{found["device"]}, torch fp32, {AT_ONCE} prompts asked at once of the probe's service: {single:,.0f} prompts a second read one
        by one, {batched:,.0f} in micro-batches, {found["gain"]:.1f} times as many."""
    )


def page(found: Mapping[str, Any], prompts: int, batched: Mapping[str, Any] | None) -> str:
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

{table(head, rows)}

{batching(batched)}"""


if __name__ == "__main__":
    main()
