"""Fixtures of the adapters' tests; and pytest is told to explain a failed assert of the shared suite as it does in a test file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.local import LocalBackend, LocalOptions
from tests.adapters.tiny_models import save_model

pytest.register_assert_rewrite("tests.adapters.conformance")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Llama."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
async def make(tiny_model: Path) -> AsyncIterator[Callable[..., LocalBackend]]:
    """Makes local backends, of the tiny model unless told otherwise, and closes them after the test."""
    made: list[LocalBackend] = []

    def one(**options: Any) -> LocalBackend:
        made.append(LocalBackend("tiny", LocalOptions(**{"model": str(tiny_model), **options})))
        return made[-1]

    yield one
    for backend in made:
        await backend.aclose()
