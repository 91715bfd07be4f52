"""Hidden states of local models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from difficulty import encoders
from difficulty.encoders import TransformersEncoder, View, open_encoder
from difficulty.errors import EncoderError

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w10 w11", "w1 w1"]
LAST, MEAN = View(1, "last"), View(2, "mean")


@pytest.fixture(scope="module")
def model(tiny_causal: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(tiny_causal).eval()


def _asked(words: str) -> list[int]:
    """<|user|> words <|assistant|>, as the template lays it out."""
    return [2, *(4 + int(word[1:]) for word in words.split()), 3]


def test_states_and_likelihood_are_the_models_own_with_the_answer_about_to_begin(tiny_causal: Path, model: Any) -> None:
    import torch

    encoding = open_encoder(str(tiny_causal)).encode(TEXTS, [LAST, MEAN])
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([_asked(text)])
        with torch.no_grad():
            out = model(ids, labels=ids, output_hidden_states=True)
        np.testing.assert_allclose(encoding.states[LAST][i], out.hidden_states[1][0, -1], atol=1e-5)
        np.testing.assert_allclose(encoding.states[MEAN][i], out.hidden_states[2][0].mean(0), atol=1e-5)
        assert encoding.nll[i] == pytest.approx(float(out.loss), abs=1e-4)
        assert encoding.tokens[i] == encoding.tokens_read[i] == len(ids[0])


def test_a_text_reads_the_same_alone_and_in_a_crowd(tiny_causal: Path) -> None:
    encoder = open_encoder(str(tiny_causal))
    crowd = encoder.encode(TEXTS, [LAST, MEAN])
    for i, text in enumerate(TEXTS):
        alone = encoder.encode([text], [LAST, MEAN])
        for view in (LAST, MEAN):
            np.testing.assert_allclose(alone.states[view][0], crowd.states[view][i], atol=1e-5)
        assert alone.nll[0] == pytest.approx(crowd.nll[i], abs=1e-5)


def test_a_long_list_is_read_in_pieces_and_comes_back_in_order(tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_encoder(str(tiny_causal))
    whole = encoder.encode(TEXTS, [LAST])
    monkeypatch.setattr(encoders, "MAX_FORWARD_TOKENS", 10)
    monkeypatch.setattr(encoders, "_LOGITS_AT_ONCE", 128)
    pieces = encoder.encode(TEXTS, [LAST])
    np.testing.assert_allclose(pieces.states[LAST], whole.states[LAST], atol=1e-5)
    np.testing.assert_allclose(pieces.nll, whole.nll, atol=1e-5)
    assert pieces.tokens.tolist() == whole.tokens.tolist()


def test_a_prompt_over_the_limit_is_read_from_its_end_and_still_known_to_be_long(tiny_causal: Path) -> None:
    long = " ".join(f"w{i}" for i in range(20))
    cut = open_encoder(str(tiny_causal), max_tokens=6).encode([long], [LAST])
    assert (cut.tokens[0], cut.tokens_read[0]) == (22, 6)
    # And never beyond the model's own context of 64.
    assert open_encoder(str(tiny_causal)).encode(["w1 " * 100], [LAST]).tokens_read[0] == 64


def test_threads_are_set_for_torch(tiny_causal: Path) -> None:
    import torch

    try:
        open_encoder(str(tiny_causal), threads=2).encode(["w1"], [LAST])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_views_reach_from_a_quarter_of_the_way_to_the_top(tiny_causal: Path) -> None:
    assert open_encoder(str(tiny_causal)).views == (View(1, "last"), View(1, "mean"), View(2, "last"), View(2, "mean"))


def test_a_bidirectional_model_without_a_template_has_states_and_no_likelihood(tiny_bert: Path) -> None:
    encoding = open_encoder(str(tiny_bert)).encode(["w1 w2", "", "w3"], [View(1, "mean")])
    assert encoding.states[View(1, "mean")].shape == (3, 16)
    assert encoding.nll.tolist() == [0.0, 0.0, 0.0]


def test_the_digest_follows_the_weights(tiny_causal: Path, tiny_bert: Path) -> None:
    assert open_encoder(str(tiny_causal)).digest == TransformersEncoder(str(tiny_causal)).digest
    assert open_encoder(str(tiny_causal)).digest != open_encoder(str(tiny_bert)).digest


def test_a_relative_name_is_looked_for_in_the_working_directory(tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_causal.parent)
    assert TransformersEncoder(tiny_causal.name).folder == tiny_causal


def test_a_model_that_is_nowhere_is_an_error_that_names_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: Any, **options: Any) -> str:
        raise OSError("cannot reach the hub")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    with pytest.raises(EncoderError, match=r"no model in \S*/no/such, and the hub says: cannot reach the hub"):
        open_encoder("no/such").encode(["x"], [LAST])


def test_a_hub_name_is_fetched_at_the_revision_asked_for(tiny_causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetched(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        assert not any("bin" in pattern or "pt" in pattern for pattern in allow_patterns)
        return str(tiny_causal)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert open_encoder("org/model", revision="abc").encode(["w1"], [LAST]).tokens[0] == 3
    assert asked == [("org/model", "abc")]


def test_a_folder_that_holds_no_usable_model_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(EncoderError, match="cannot be loaded"):
        open_encoder(str(tmp_path)).encode(["x"], [LAST])
    with pytest.raises(EncoderError, match=r"no \*\.safetensors"):
        _ = open_encoder(str(tmp_path)).digest
