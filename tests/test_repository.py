"""The repository as a newcomer meets it: what README, docs and examples say is run or validated, so that it cannot rot."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import adapters
from fleet.demo import command as demo
from fleet.demo.files import MARK, between_marks
from fleet.demo.gateway import started
from fleet.puzzles import check_result
from router import check as checking
from router.cli import cli
from router.config import load

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("**/*.md"))]
CONFIGS = [path for path in sorted((ROOT / "configs").glob("*.yaml")) if not path.stem.endswith("_test")]
TARGETS = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def command_lines(text: str) -> Iterator[list[str]]:
    """The commands of a shell block as words; what follows a pipe, and what has a place to fill in, is left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if "<" not in line and "..." not in line and (words := shlex.split(line, comments=True)):
            yield words[: next((i for i, word in enumerate(words) if word in ("|", "&&", ">", "&")), None)]


def wrong_with(words: list[str]) -> str:
    """Why a documented command cannot be run; empty if it can, or if it is none of ours."""
    program, *rest = words
    if program == "make":
        return "" if rest[0] in TARGETS else f"no target {rest[0]}"
    if program.endswith("python") and rest[0] == "-m":
        return _demo(rest[2:]) if rest[1] == "fleet.demo" else "" if importlib.util.find_spec(rest[1]) else f"no module {rest[1]}"
    return _outlay(rest) if program.endswith("outlay") else ""


def _outlay(words: list[str]) -> str:
    name, *options = words
    if name == "demo":
        return _demo(options)
    asked = CliRunner().invoke(cli, [*words, "--help"])  # with --help, options are read and nothing is run
    missing = [word for word in options if word.startswith("configs/") and not (ROOT / word).exists()]
    return asked.output if asked.exit_code else f"no file {missing[0]}" if missing else ""


def _demo(options: list[str]) -> str:
    try:
        demo.parse(options)
    except SystemExit as end:
        return f"python -m fleet.demo {shlex.join(options)} is refused" if end.code else ""
    return ""


# --- pages --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_of_a_page_can_be_run(page: Path) -> None:
    """Targets of make, modules, and outlay's commands with their options and files, are all there."""
    lines = [words for block in blocks(page, "(?:bash|sh|shell)") for words in command_lines(block)]
    assert [f"{shlex.join(words)}: {wrong}" for words in lines if (wrong := wrong_with(words))] == []


def test_a_command_that_is_not_there_is_noticed() -> None:
    """The test above would fail for a wrong target, module, command, option or file."""
    ours = ["outlay sing", "outlay serve --loud", "outlay check configs/none.yaml", "outlay demo --loud"]
    wrong = ["make tea", "python -m fleet.nothing", "python -m fleet.demo --loud", *ours]
    assert all(wrong_with(shlex.split(line)) for line in wrong)
    assert not wrong_with(["outlay", "serve", "--config", "configs/fleet.yaml"])


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    """Files and folders that it names by a relative link are in the repository."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_configuration_of_a_page_is_valid(page: Path, tmp_path: Path) -> None:
    """A block of YAML can be read; one that is a whole configuration is loaded as one."""
    for number, block in enumerate(blocks(page, "ya?ml")):
        found = yaml.safe_load(block)
        if isinstance(found, dict) and {"backends", "policies"} <= found.keys():
            path = tmp_path / f"{number}.yaml"
            path.write_text(block)
            assert load(path).policies


def test_every_page_is_in_the_index() -> None:
    """A page that nobody finds is not read."""
    index = ROOT / "docs" / "README.md"
    pages = [named(page).removeprefix("docs/") for page in PAGES if page not in (README, index)]
    assert [page for page in pages if page not in index.read_text()] == []


def test_the_figures_of_the_readme_have_their_place() -> None:
    """`python -m fleet.demo --publish` finds its two marks."""
    assert f"{MARK}\nnew\n{MARK}" in between_marks(README.read_text(), "new")


def test_the_python_of_the_readme_runs() -> None:
    """Word for word against the embedded fleet: it prints an answer that reads as steps, and why each plan was bought."""
    (script,) = blocks(README, "python")
    with started(ROOT / "configs" / "fleet.yaml") as gateway:
        asyncio.run(gateway.ready())
        said = run_script(script.replace("http://127.0.0.1:8080", gateway.url))
    assert "stop because" in said
    answer = said[: said.index(" because ")].rpartition("\n")[0]
    assert "is no step" not in check_result("Use 4 9 10 13 to make 24.", answer).reason


def run_script(script: str) -> str:
    """What it prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- configurations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=named)
def test_every_example_configuration_is_valid(path: Path) -> None:
    """It loads, and the commands in its comments can be run."""
    assert load(path).policies
    said = [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#   ")]
    lines = [words for line in said for words in command_lines(re.split(r"\s{3,}", line)[0])]
    assert [wrong for words in lines if (wrong := wrong_with(words))] == []


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.with_name(f"{path.stem}_test.yaml").exists()], ids=named)
def test_the_policies_of_the_examples_pass_their_own_tests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `outlay check` runs them."""
    for name in re.findall(r"os\.environ/(\w+)", path.read_text()):
        monkeypatch.setenv(name, "none")
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert checking.check(path) == 0, said.getvalue()


# --- the repository itself ----------------------------------------------------------------------------------------------


def test_the_package_adapters_is_ours() -> None:
    """Another project uses that name; what is imported must be this folder."""
    assert Path(adapters.__file__).parent == ROOT / "adapters"


def test_folders_import_whom_they_may() -> None:
    """The contracts in pyproject.toml hold."""
    command = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_no_folder_escapes_the_contracts() -> None:
    """Every package that is installed, and the benchmarks beside them, is type-checked and under the import contracts."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    installed = {pattern.rstrip("*") for pattern in tool["setuptools"]["packages"]["find"]["include"]}
    packages = {name for name in installed if (ROOT / name / "__init__.py").exists()}
    assert packages | {"benchmarks"} == set(tool["importlinter"]["root_packages"]) == set(tool["mypy"]["packages"])


def test_make_has_its_targets() -> None:
    """Each is explained by `make help`, which is what plain `make` shows, and its recipe can be expanded."""
    assert {"help", "setup", "demo", "test", "check", "train", "clean"} <= set(TARGETS)
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in shown for target in TARGETS)
    subprocess.run(["make", "--dry-run", *TARGETS], cwd=ROOT, capture_output=True, check=True)


def test_set_up_says_which_python_it_needs(tmp_path: Path) -> None:
    """Where there is none that is new enough, nothing is created and the message says what to do."""
    old = tmp_path / "python2"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 2.7.18" && exit\nexit 1\n')
    old.chmod(0o755)
    command, env = [ROOT / "scripts" / "setup", tmp_path / "venv"], {"PYTHON": str(old), "PATH": "/usr/bin:/bin"}
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (found.returncode, (tmp_path / "venv").exists()) == (1, False)
    assert "3.11 or newer; found Python 2.7.18" in found.stderr
    assert "make setup PYTHON=" in found.stderr


# --- setting up ---------------------------------------------------------------------------------------------------------

PYTHON = """#!/usr/bin/env bash
case "$*" in
  --version) echo Python 3.11 ;;
  "-m venv"*) mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" ;;
  *torch*)
    echo "  Downloading torch-2.whl (800 MB)"
    for _ in $(seq 600); do grep -q "so far; Downloading" "$SAID" && break; sleep 0.1; done ;;
  *.\\[dev]*) echo "no space left"; exit 3 ;;
esac
"""


def test_setting_up_says_what_is_under_way_and_why_it_fails(tmp_path: Path) -> None:
    """Minutes of pip are not silent, also where no terminal is; a line for each stage, and of one that fails the end of what it said."""
    python, said = tmp_path / "python3", tmp_path / "said"
    python.write_text(PYTHON)
    python.chmod(0o755)
    with said.open("w") as out:
        environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(python), "SIGN_OF_LIFE_S": "1", "SAID": str(said)}
        command = [ROOT / "scripts" / "setup", tmp_path / "venv"]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=100, check=False)
    lines = [re.sub(" +", " ", line).strip() for line in said.read_text().splitlines()]
    assert any(re.fullmatch(r"PyTorch \(torch==.*\): \d+ s so far; Downloading torch-2.whl \(800 MB\)", line) for line in lines)
    assert [re.sub(r"(==\S+\)|\d+ s$)", "_", line) for line in lines[1:] if "so far" not in line] == [
        "virtual environment _",
        "PyTorch (torch_ _",
        "Outlay, its libraries and the tools of its tests failed after _",
        "no space left",
    ]
    assert done.returncode == 1
