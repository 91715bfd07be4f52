"""The command in a hint can be copied, wherever this program was installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from adapters.shell import outlay


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment in `.venv`, with its working directory beside it, and nothing on the PATH."""
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    for name in ("python", "outlay"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_newcomer_is_told_the_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working directory, where it is below that; else whole."""
    assert outlay() == ".venv/bin/outlay"
    monkeypatch.chdir("/")
    assert outlay() == str(installed / "outlay")


def test_the_name_is_enough_where_the_shell_finds_this_very_program(
    installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through a link to it; another one of that name is not it."""
    monkeypatch.setenv("PATH", str(installed))
    assert outlay() == "outlay"
    links = tmp_path / "links"
    links.mkdir()
    (links / "outlay").symlink_to(installed / "outlay")
    monkeypatch.setenv("PATH", str(links))
    assert outlay() == "outlay"
    (links / "outlay").unlink()
    (links / "outlay").write_text("#!/bin/sh\n")
    (links / "outlay").chmod(0o755)
    assert outlay() == ".venv/bin/outlay"


def test_without_the_script_the_module_is_called(installed: Path) -> None:
    """As in a checkout that was not installed."""
    (installed / "outlay").unlink()
    assert outlay() == ".venv/bin/python -m router.cli"


def test_a_path_with_a_blank_is_one_word(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is copied is what is called."""
    (installed.parent).rename(tmp_path / "my venv")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "my venv" / "bin" / "python"))
    assert outlay() == "'my venv/bin/outlay'"
