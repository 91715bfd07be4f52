"""The fitted probe on disk, and every way in which it can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from difficulty.artifact import ProbeCard, load_probe, open_probe, save_probe
from difficulty.encoders import View, open_encoder
from difficulty.errors import ArtifactError
from difficulty.probe import EncoderProbe, LinearProbe
from tests.difficulty.doubles import SIGNAL, SignalEncoder

WEIGHTS, BIAS = np.arange(20.0).reshape(2, 10), np.array([0.1, 0.2])
HEAD = LinearProbe(SIGNAL, ("small", "large"), WEIGHTS, BIAS, slope=np.array([1.0, 0.9]), shift=np.array([0.0, 0.3]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_probe(tmp_path / "probe", HEAD, SignalEncoder(), data_digest="d" * 64, seed=3, figures={"test": {"auroc": 0.8}})
    return tmp_path / "probe"


def test_what_is_loaded_estimates_as_what_was_saved(saved: Path) -> None:
    head, card = load_probe(saved)
    for text in ("one", "another prompt"):
        assert EncoderProbe(SignalEncoder(), head).estimate([text]) == EncoderProbe(SignalEncoder(), HEAD).estimate([text])
    assert (card.seed, card.data_digest, card.figures) == (3, "d" * 64, {"test": {"auroc": 0.8}})


def test_saving_twice_writes_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    save_probe(tmp_path / "again", HEAD, SignalEncoder(), data_digest="d" * 64, seed=3, figures={"test": {"auroc": 0.8}})
    for name in ("probe.npz", "probe.json"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def _card(folder: Path, **changes: object) -> None:
    path = folder / "probe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _flip_a_byte(folder: Path) -> None:
    data = bytearray((folder / "probe.npz").read_bytes())
    data[-40] ^= 1
    (folder / "probe.npz").write_bytes(data)


def _pickle(folder: Path) -> None:
    import hashlib
    import io

    stream = io.BytesIO()
    np.savez(stream, weights=np.array([print], dtype=object), bias=np.zeros(2), slope=np.zeros(2), shift=np.zeros(2))
    (folder / "probe.npz").write_bytes(stream.getvalue())
    _card(folder, arrays_digest=hashlib.sha256(stream.getvalue()).hexdigest())


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip_a_byte, "digest .* but probe.json says"),
        (_pickle, "not the arrays of a probe"),
        (lambda folder: _card(folder, width=7), "'weights' has shape .* expected finite"),
        (lambda folder: _card(folder, format=2), "reads format 1"),
        (lambda folder: _card(folder, surprise=1), "surprise"),
        (lambda folder: (folder / "probe.json").write_text("{"), "run `outlay fit` again"),
        (lambda folder: (folder / "probe.npz").unlink(), "No such file"),
        (lambda folder: (folder / "probe.json").unlink(), "`outlay fit` writes it"),
    ],
)
def test_a_damaged_artifact_is_refused_with_what_to_do(saved: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(saved)
    with pytest.raises(ArtifactError, match=says):
        load_probe(saved)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_probe(tmp_path, replace(HEAD, bias=np.array([np.nan, 0.0])), SignalEncoder(), data_digest="d")
    with pytest.raises(ArtifactError, match="'bias'"):
        load_probe(tmp_path)


def _fitted_on(model: Path, folder: Path) -> ProbeCard:
    view = View(1, "last")
    head = LinearProbe(view, ("small",), np.ones((1, 18)), np.zeros(1), np.ones(1), np.zeros(1))
    return save_probe(folder, head, open_encoder(str(model)), data_digest="d")


def test_a_probe_opens_on_the_encoder_that_it_was_fitted_on(tiny_causal: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fitted_on(tiny_causal, tmp_path / "probe")
    monkeypatch.chdir(tmp_path)
    (estimate,) = open_probe("probe").estimate(["w1 w2"])
    assert (estimate.source, estimate.input_tokens, estimate.tokens_read) == ("probe", 4, 4)
    assert 0 < estimate.p_correct["small"] < 1


def test_another_encoder_is_one_option_away_and_refused_if_its_weights_differ(tiny_causal: Path, tiny_bert: Path, tmp_path: Path) -> None:
    _fitted_on(tiny_causal, tmp_path)
    assert open_probe(str(tmp_path), str(tiny_causal)).backends == ("small",)
    with pytest.raises(ArtifactError, match="run `outlay fit` with this encoder"):
        open_probe(str(tmp_path), str(tiny_bert))


def test_max_tokens_bounds_what_the_opened_probe_reads(tiny_causal: Path, tmp_path: Path) -> None:
    _fitted_on(tiny_causal, tmp_path)
    (estimate,) = open_probe(str(tmp_path), max_tokens=5, threads=1).estimate(["w1 " * 20])
    assert (estimate.input_tokens, estimate.tokens_read) == (22, 5)


def test_a_folder_without_a_probe_is_named_with_where_it_was_looked_for() -> None:
    with pytest.raises(ArtifactError, match=r"no probe\.json in \./nowhere"):
        open_probe("nowhere")


def test_an_encoder_of_another_width_is_refused_when_it_reads() -> None:
    narrow = replace(HEAD, weights=HEAD.weights[:, :-3])
    with pytest.raises(ArtifactError, match="gives 8 numbers a prompt, the probe was fitted on 5"):
        EncoderProbe(SignalEncoder(), narrow).estimate(["x"])
