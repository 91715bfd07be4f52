"""The process reward model: at the end of every step, the chance that this prefix ends right.

Labels are the outcomes of rollouts, an unbiased Monte-Carlo estimate of that chance for the sampling model (Wang et al., 2024,
Math-Shepherd, with one rollout a prefix). It reads prompt and answer, never earlier attempts. The raw logit is calibrated by a monotone,
piecewise linear map, kept as JSON beside the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaForTokenClassification

from fleet.data import SIZES, Ints, Rows, prompt_ids, stack_rows
from fleet.fitting import BatchSource
from fleet.phrasing import PHRASINGS
from fleet.puzzles import prompt
from fleet.rollouts import Group, chat_ids
from fleet.tokens import END, PAD, build_tokenizer, vocabulary

Floats = NDArray[np.float64]
NEWLINE = vocabulary()["\n"]


@dataclass(frozen=True)
class Pool:
    """Marked answers to puzzles of one size, as arrays: numbers (n, k), target (n,), answers (n, length) padded, correct (n,)."""

    numbers: Ints
    target: Ints
    answers: Ints
    correct: NDArray[np.bool_]


def pools(groups: Sequence[Group]) -> dict[int, Pool]:
    """Flatten groups into one pool for each size."""
    return {k: _pool([group for group in groups if len(group.numbers) == k]) for k in SIZES}


def _pool(groups: list[Group]) -> Pool:
    flat = [(group, answer, right) for group in groups for answer, right in zip(group.answers, group.correct, strict=True)]
    ids = encode_answers([answer for _, answer, _ in flat])
    return Pool(
        np.array([group.numbers for group, _, _ in flat]),
        np.array([group.target for group, _, _ in flat]),
        ids,
        np.array([right for _, _, right in flat]),
    )


def encode_answers(answers: Sequence[str]) -> Ints:
    """Answers with <|end|>, padded on the right."""
    encoded = [[*row, END] for row in build_tokenizer()(list(answers))["input_ids"]]
    ids = np.full((len(encoded), max(map(len, encoded))), PAD)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = tokens
    return ids


def reward_rows(rng: np.random.Generator, pool: Pool, n: int, phrasings: int = 4) -> Rows:
    """n random answers of a pool under fresh phrasings and number orders, scored at every step's end."""
    chosen = rng.integers(0, len(pool.target), n)
    blocks = []
    for part in np.array_split(chosen, phrasings):
        numbers = rng.permuted(pool.numbers[part], axis=1)
        phrasing = PHRASINGS[rng.integers(len(PHRASINGS))]
        blocks.append((prompt_ids(phrasing, numbers, pool.target[part]), pool.answers[part]))
    return step_rows(stack_rows(blocks).ids, pool.correct[chosen])


def step_rows(ids: Ints, correct: NDArray[np.bool_]) -> Rows:
    """Rows whose scored tokens are the step ends, labelled with the answer's outcome."""
    return Rows(ids, (ids == NEWLINE) | (ids == END), correct.astype(np.float32))


def reward_batches(by_size: dict[int, Pool], per_size: int = 96) -> BatchSource:
    """Training batches over pools, sizes mixed evenly."""
    return lambda rng: [reward_rows(rng, pool, per_size) for pool in by_size.values()]


def step_loss(model: Any, ids: Tensor, scored: Tensor, labels: Tensor | None) -> Tensor:
    """Summed binary cross-entropy over the step ends."""
    assert labels is not None, "reward rows carry labels"
    logits = model(input_ids=ids).logits[..., 0][scored]
    wanted = labels[:, None].expand(ids.shape)[scored]
    return nn.functional.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")


def new_reward(base: LlamaForCausalLM) -> LlamaForTokenClassification:
    """A token classifier with one label whose body starts as the language model's."""
    config = type(base.config)(**{**base.config.to_dict(), "num_labels": 1, "tie_word_embeddings": False})
    model = LlamaForTokenClassification(config)
    model.model.load_state_dict(base.model.state_dict())
    return model


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch's own types are not read
def step_logits(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[str], batch: int = 512) -> list[Floats]:
    """Raw logits at the step ends of each answer, one array an answer."""
    device = next(model.parameters()).device
    rows = [[*prompt, *answer, END] for prompt, answer in zip(prompts, build_tokenizer()(list(answers))["input_ids"], strict=True)]
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    found: list[Floats] = [np.zeros(0)] * len(rows)
    for start in range(0, len(rows), batch):
        part = order[start : start + batch]
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[row]) for row in part], batch_first=True, padding_value=PAD)
        logits = model(input_ids=ids.to(device)).logits[..., 0].float().cpu().numpy()
        ends = ((ids == NEWLINE) | (ids == END)).numpy()
        for index, row in enumerate(part):
            found[row] = logits[index][ends[index]].astype(np.float64)
    return found


def scored_steps(model: Any, groups: Sequence[Group], seed: int = 0) -> tuple[list[Floats], list[NDArray[np.bool_]]]:
    """Logits at every step end of every answer of the groups, and the answer's outcome repeated beside them."""
    tokenizer, rng = build_tokenizer(), np.random.default_rng(seed)
    flat = [(group, answer, right) for group in groups for answer, right in zip(group.answers, group.correct, strict=True)]
    prompts = [chat_ids(tokenizer, prompt(group.puzzle, int(rng.integers(len(PHRASINGS))))) for group, _, _ in flat]
    logits = step_logits(model, prompts, [answer for _, answer, _ in flat])
    return logits, [np.full(len(row), right) for row, (_, _, right) in zip(logits, flat, strict=True)]


@dataclass(frozen=True)
class Calibration:
    """A monotone piecewise linear map from logit to probability; flat outside its knots."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, logits: Floats) -> Floats:
        """Probabilities, same shape."""
        return np.interp(logits, self.x, self.y)


def calibrate(logits: Floats, correct: NDArray[np.bool_], knots: int = 24) -> Calibration:
    """Isotonic regression, reduced to the means of equally filled bins so that the file stays small and the map smooth."""
    order = np.argsort(logits)
    bins = np.array_split(order, knots)
    x = np.array([logits[part].mean() for part in bins])
    y = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(x, np.array([correct[part].mean() for part in bins]))
    return Calibration(tuple(x.round(4).tolist()), tuple(y.clip(0.001, 0.999).round(4).tolist()))


def auc(scores: Floats, correct: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; NaN where only one class occurs."""
    return float(roc_auc_score(correct, scores)) if 0 < correct.mean() < 1 else float("nan")


def calibration_error(probabilities: Floats, correct: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error over equally filled bins."""
    parts = np.array_split(np.argsort(probabilities), bins)
    gaps = [abs(probabilities[part].mean() - correct[part].mean()) * len(part) for part in parts]
    return float(sum(gaps) / len(probabilities))
