"""An encoder on ONNX Runtime: the states of the model that it was written from, without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from difficulty.encoders import View, open_encoder
from difficulty.errors import EncoderError
from difficulty.onnx_encoder import OnnxEncoder

pytest.importorskip("onnxruntime")
MEAN = View(1, "mean")


@pytest.fixture
def both(tiny_bert: Path) -> tuple[OnnxEncoder, object]:
    """The same weights on ONNX Runtime and on torch."""
    on_runtime = open_encoder(f"onnx:{tiny_bert}")
    assert isinstance(on_runtime, OnnxEncoder)
    return on_runtime, open_encoder(str(tiny_bert))


def test_states_are_those_of_torch_up_to_rounding(both: tuple[OnnxEncoder, OnnxEncoder]) -> None:
    """Lengths agree exactly and the directions of the states within a few degrees, for short, long and empty texts."""
    texts = ["w1 w2 w3", "w7", "w5 w4 " * 30, "unknown words only", ""]
    ours, theirs = (encoder.encode(texts, [MEAN]) for encoder in both)
    a, b = ours.states[MEAN], theirs.states[MEAN]
    assert ((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) > 0.99).all()
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    assert not ours.nll.any()


def test_a_text_reads_the_same_alone_and_in_company(both: tuple[OnnxEncoder, OnnxEncoder]) -> None:
    """Estimates do not depend on who else asks."""
    alone, company = both[0].encode(["w1 w2"], [MEAN]), both[0].encode(["w9 " * 40, "w1 w2"], [MEAN])
    assert (alone.states[MEAN][0] == company.states[MEAN][1]).all()


def test_it_reads_no_more_than_the_model_was_trained_to(both: tuple[OnnxEncoder, OnnxEncoder], tiny_bert: Path, tmp_path: Path) -> None:
    """`max_seq_length` of a sentence encoder bounds what is read, and what is charged; the length of the prompt stays known."""
    assert both[0].encode(["w1 " * 30], [MEAN]).tokens_read.tolist() == [30]
    for file in tiny_bert.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 8}))
    read = open_encoder(f"onnx:{tmp_path}").encode(["w1 " * 30], [MEAN])
    assert (read.tokens.tolist(), read.tokens_read.tolist()) == ([30], [8])


def test_the_rounding_is_part_of_the_digest(both: tuple[OnnxEncoder, OnnxEncoder]) -> None:
    """A probe fitted on torch's states is refused here, and the other way round."""
    assert both[0].digest != both[1].digest


@pytest.mark.parametrize("view", [View(1, "last"), View(2, "mean"), View(0, "mean")])
def test_a_view_that_it_does_not_have_is_refused(both: tuple[OnnxEncoder, OnnxEncoder], view: View) -> None:
    """It has means of the layers that are there."""
    with pytest.raises(EncoderError, match="it has the mean of layers 1 to 1"):
        both[0].encode(["w1"], [view])


def test_a_model_of_another_kind_is_refused_with_what_to_do(tiny_causal: Path) -> None:
    """Only BERTs; others run on torch."""
    with pytest.raises(EncoderError, match="type llama; `onnx:` reads BERTs, leave it out"):
        open_encoder(f"onnx:{tiny_causal}").encode(["w1"], [MEAN])


def test_without_its_libraries_it_says_what_to_install(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not at the first request."""
    monkeypatch.setattr("difficulty.onnx_encoder.find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(EncoderError, match=r"needs onnxruntime: pip install '\.\[general\]'"):
        open_encoder(f"onnx:{tiny_bert}")


def test_it_starts_without_torch(tiny_bert: Path) -> None:
    """Neither torch nor transformers is imported on this path: they cost seconds and hundreds of megabytes."""
    code = (
        "import sys; from difficulty.encoders import View, open_encoder; "
        f"open_encoder({f'onnx:{tiny_bert}'!r}).encode(['w1'], [View(1, 'mean')]); "
        "sys.exit(len({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
