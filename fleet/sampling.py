"""Batched sampling from a fleet model, for the recipe's rollouts and figures.

Prompts of one length run together, so no padding and no mask; rows that have ended are dropped as soon as a quarter has. Serving
(dynamic batching, streaming, cancellation) is the local backend's business and not here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fleet.tokens import END, PAD

LONGEST_ANSWER = 64


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch's own types are not read
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    n: int,
    seed: int,
    temperature: float = 1.0,
    batch: int = 512,
    label: str = "sampling",
) -> list[list[list[int]]]:
    """n answers to each prompt, as token ids that end with <|end|> where the model ended; temperature 0 is greedy."""
    model.eval()
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    answers: list[list[list[int]]] = [[] for _ in prompts]
    for rows in tqdm(list(_batches(prompts, n, batch)), desc=label, leave=False):
        ids = torch.tensor([list(prompts[row]) for row in rows], device=device)
        for row, answer in zip(rows, _sample_batch(model, ids, generator, temperature), strict=True):
            answers[row].append(answer)
    return answers


def _batches(prompts: Sequence[Sequence[int]], n: int, batch: int) -> Any:
    """Lists of prompt indices, each repeated n times, all of one length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_length[len(prompt)] += [index] * n
    for rows in by_length.values():
        yield from (rows[start : start + batch] for start in range(0, len(rows), batch))


def _sample_batch(model: Any, ids: Tensor, generator: torch.Generator, temperature: float) -> list[list[int]]:
    answers = torch.full((len(ids), LONGEST_ANSWER), PAD, device=ids.device)
    alive = torch.arange(len(ids), device=ids.device)
    cache, feed = None, ids
    for position in range(LONGEST_ANSWER):
        output = model(input_ids=feed, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        tokens = _draw(output.logits[:, -1].float(), generator, temperature)
        answers[alive, position] = tokens
        going = tokens != END
        if not going.any():
            break
        keep = going if going.float().mean() < 0.75 else torch.ones_like(going)
        if not keep.all():
            cache.batch_select_indices(keep.nonzero().flatten())
        alive, feed = alive[keep], tokens[keep, None]
    return [_until_end(row) for row in answers.tolist()]


def _draw(logits: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    noise = torch.rand(logits.shape, generator=generator, device=logits.device).clamp_min(1e-20)
    return (logits / temperature - (-noise.log()).log()).argmax(dim=-1)


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(END) + 1] if END in row else row
