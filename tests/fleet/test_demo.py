"""The demonstration's figures, from synthetic records; and its gateway, with scripted backends in place of models."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fleet.demo import command, files, picture, show
from fleet.demo.asking import BASELINE, CHOSEN, OFFERS, Answer, Offer, ask, charged_usd, client_of, read
from fleet.demo.figures import affordable, example, hull, quantile, rows, settled, shares, short
from fleet.demo.gateway import Gateway, GatewayFailed, free_port, started
from fleet.demo.rounds import Progress, rounds
from fleet.intervals import wilson
from fleet.puzzles import Puzzle, check, parse, solve, split
from fleet.questions import Question, questions

EASY = Question("Use 1 2 3 to make 6.", Puzzle((1, 2, 3), 6))
HARD = Question("Use 4 9 10 13 to make 24.", Puzzle((4, 9, 10, 13), 24))
SOLUTION = "13-9=4 ; 4 4 10\n10-4=6 ; 4 6\n6*4=24"


def answer(offer: str = CHOSEN.name, question: Question = EASY, **more: object) -> Answer:
    return replace(Answer(offer, question, right=True, cost_usd=1e-5, latency_s=0.5, calls=1, drawn=1), **more)


# --- figures ------------------------------------------------------------------------------------------------------------


def test_the_interval_is_wilsons() -> None:
    """As published for 81 of 263 (Newcombe 1998); it has a width where all or none are right, and stays a share."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20)[0] == 0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=5e-5)
    assert wilson(20, 20)[1] == 1
    assert wilson(20, 20)[0] == pytest.approx(1 - 0.1611, abs=5e-5)
    assert wilson(0, 0) == (0, 1)
    assert {wilson(n, n)[1] for n in range(1, 300)} == {1}
    assert {wilson(0, n)[0] for n in range(1, 300)} == {0}


def test_quantiles_lie_between_the_values() -> None:
    """By linear interpolation, whatever the order; of nothing it is nothing."""
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert quantile([], 0.5) == 0


def test_the_hull_keeps_what_no_mixture_beats() -> None:
    """A plan under the line between two others is dropped, so is one that costs more and does no better."""
    assert hull([(4, 0.9), (1, 0.3), (2, 0.4), (3, 0.8), (5, 0.85)]) == [(1, 0.3), (3, 0.8), (4, 0.9)]
    assert hull([(1, 0.3), (1, 0.5)]) == [(1, 0.5)]
    assert hull([]) == []


def test_a_row_is_the_mean_over_requests() -> None:
    """Share right with its interval, dollars for a thousand, cost as a multiple of the large backend's, calls and answers drawn."""
    large = [answer(BASELINE.name, right=right, cost_usd=2e-5) for right in (True, False)]
    chosen = [answer(cost_usd=1e-5, calls=1, drawn=4, latency_s=1.0), answer(cost_usd=2e-5, calls=3, drawn=8, latency_s=3.0)]
    first, second = rows(large + chosen)
    assert (first.offer, first.right, first.to_large) == (BASELINE.name, 0.5, 1)
    assert (second.calls, second.drawn, second.p50_s) == (2, 6, 2)
    assert (second.usd_per_1000, second.to_large) == pytest.approx((0.015, 0.75))
    assert (second.low, second.high) == wilson(2, 2)


def test_a_failed_request_is_a_wrong_answer_of_unknown_cost() -> None:
    """It counts in the share of right answers, and not in the means of cost and time; how often and how it failed is said."""
    failed = answer(right=False, cost_usd=0, latency_s=60, error="no backend", error_kind="InternalServerError")
    (row,) = rows([answer(), failed])
    assert (row.right, row.failed, row.usd_per_1000, row.p95_s) == (0.5, 1, 0.01, 0.5)
    assert show.troubles([answer(), failed]) == ["balanced: 1 requests failed and count as wrong: InternalServerError, such as: no backend"]
    assert "cut short" in show.troubles([answer(truncated_by="deadline")])[0]
    assert show.cells(rows([failed])[0])[2:] == ["–"] * 5


def test_a_run_that_was_stopped_compares_like_with_like() -> None:
    """Only questions that every offer was asked are counted, as soon as there is one."""
    whole = [answer(offer.name) for offer in OFFERS]
    begun = [answer(OFFERS[0].name, HARD)]
    assert settled(whole + begun) == whole
    assert settled(begun) == begun


def test_a_plan_has_the_share_of_requests_that_ran_it() -> None:
    """Once for each request, by its short name; other offers do not count."""
    key = "best_of_n(small, n=16, verifier=reward)"
    one, two = answer(actions=(key, key, "single(large)")), answer(actions=(key,))
    assert shares([one, two, answer(BASELINE.name, actions=("single(large)",))]) == {"best_of_n(small)": 1.0, "single(large)": 0.5}
    assert short("single(large)") == "single(large)"


def test_fewer_puzzles_are_asked_where_all_would_take_too_long() -> None:
    """As many rounds as the budget allows at the pace of the first, and never less than that one."""
    assert affordable(10, first_s=30, budget_s=480) == 10
    assert affordable(10, first_s=120, budget_s=480) == 4
    assert affordable(10, first_s=900, budget_s=480) == 1


def test_the_example_is_a_hard_puzzle_that_was_solved() -> None:
    """Most numbers first, then more than one action; a wrong answer or another offer's is no example."""
    long = answer(question=HARD, actions=("a", "b"))
    wrong = answer(question=Question("Use 1 2 3 4 5 6 to make 7.", Puzzle((1, 2, 3, 4, 5, 6), 7)), right=False)
    assert example([answer(), answer(question=HARD, actions=("a",)), long, wrong, answer(BASELINE.name, wrong.question)]) == long
    assert example([wrong]) is None


# --- what is asked ------------------------------------------------------------------------------------------------------


def test_questions_are_held_out_different_and_even() -> None:
    """Every one is a solvable puzzle of the test side, sizes take turns, and the seed decides which."""
    found = questions(24, seed=3)
    assert len(set(found)) == 24
    assert [question.size for question in found[:8]] == [3, 4, 5, 6, 3, 4, 5, 6]
    assert all(split(parse(question.prompt).numbers) == "test" for question in found)
    assert solve(parse(found[0].prompt))
    assert found == questions(24, seed=3) != questions(24, seed=4)
    assert [len(portion) for portion in rounds(found, 20)] == [20, 4]


def test_the_number_of_puzzles_is_a_multiple_of_the_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    """Else the sizes would not be asked equally often; the option says so."""
    assert command.parse(["--puzzles", "40"]).puzzles == 40
    for wrong in ("0", "42", "many"):
        with pytest.raises(SystemExit):
            command.parse(["--puzzles", wrong])
    assert "multiple of 4" in capsys.readouterr().err


BLOCK = {
    "cost_usd": 7e-6,
    "truncated_by": None,
    "estimate": {"p_correct": {"small": 0.3, "large": 0.6}},
    "decisions": [{"reason": "worth it"}, {"reason": "enough"}],
    "actions": [{"plan": "best_of_n(small, n=4)"}],
    "calls": [
        {"kind": "estimate", "n": 1, "cost_usd": 1e-6},
        {"kind": "generate", "n": 4, "cost_usd": 5e-6},
        {"kind": "score", "n": 4, "cost_usd": 1e-6},
    ],
}


def test_a_record_is_read_from_the_decision_block() -> None:
    """Calls to backends and answers drawn are counted; the answer is checked here, whatever the gateway thought of it."""
    found = read(CHOSEN, HARD, SOLUTION, 0.2, BLOCK, "dec_1")
    assert (found.right, found.calls, found.drawn, found.p_small, found.reasons) == (True, 1, 4, 0.3, ("worth it", "enough"))
    assert not read(CHOSEN, EASY, SOLUTION, 0.2, BLOCK, "dec_1").right


def test_a_fixed_plan_is_not_charged_for_an_estimate() -> None:
    """It needs none; the policy does, and pays."""
    assert charged_usd(CHOSEN, BLOCK) == pytest.approx(7e-6)
    assert charged_usd(BASELINE, BLOCK) == pytest.approx(6e-6)


# --- what is left behind ------------------------------------------------------------------------------------------------


def test_picture_results_and_table_hold_every_offer(tmp_path: Path) -> None:
    """The picture in both formats names each; results.json holds figures and requests; the README's table stands between its marks."""
    answers = [answer(offer.name, cost_usd=(index + 1) * 1e-6) for index, offer in enumerate(OFFERS)]
    png, svg = picture.save(rows(answers), tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert all(offer.name in svg.read_text() for offer in OFFERS)
    found = json.loads(files.save_results(answers, {"seed": 1}, tmp_path).read_text())
    assert [row["offer"] for row in found["rows"]] == [offer.name for offer in OFFERS] == [r["offer"] for r in found["requests"]]
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{files.MARK}\nold\n{files.MARK}\nafter\n")
    files.publish(rows(answers), tmp_path, tmp_path)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("\n| ") == len(OFFERS) + 2
    assert (tmp_path / "docs" / "frontier.png").read_bytes() == png.read_bytes()


def test_a_page_without_its_marks_is_left_alone() -> None:
    """What is to be replaced must be marked at both ends."""
    with pytest.raises(ValueError, match="two marks"):
        files.between_marks(f"one {files.MARK}", "new")


# --- the gateway --------------------------------------------------------------------------------------------------------

CONFIG = """
backends:
  small: {kind: scripted, answers: ["1+2=3 ; 3 3\\n3+3=6"], price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}
  large: {kind: scripted, answers: ["3*2=6 ; 1 6\\n6*1=6"], price: {input_usd_per_mtok: 9, output_usd_per_mtok: 9}}
verifiers:
  reward: {kind: python, entry: "fleet.puzzles:check"}
policies:
  balanced: {rules: [{otherwise: {single: {backend: small}}}]}
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    path = tmp_path_factory.mktemp("demo") / "scripted.yaml"
    path.write_text(CONFIG)
    with started(path) as found:
        asyncio.run(found.ready())
        yield found


async def test_each_offer_is_answered_by_what_it_names(gateway: Gateway) -> None:
    """Through the openai client: a fixed plan by its own backend, the policy as it decides; cost and actions come back."""
    async with client_of(gateway.url) as client:
        fixed, chosen, four = [await ask(client, offer, EASY) for offer in (BASELINE, CHOSEN, OFFERS[1])]
    assert [a.error for a in (fixed, chosen, four)] == ["", "", ""]
    assert (fixed.actions, fixed.right, fixed.calls) == (("single(large)",), True, 1)
    assert chosen.actions == ("single(small)",)
    assert 0 < chosen.cost_usd < fixed.cost_usd
    assert four.drawn == 4
    assert four.decision_id.startswith("dec_")


async def test_an_error_is_a_record(gateway: Gateway) -> None:
    """A request that is refused, and one that nobody hears, come back as failed answers with their reason."""
    async with client_of(gateway.url) as client, client_of(f"http://127.0.0.1:{free_port()}") as deaf:
        refused = await ask(client, Offer("odd", {"sing": {"backend": "small"}}), EASY)
        unheard = await ask(deaf, CHOSEN, EASY)
    assert (refused.right, refused.error_kind) == (False, "BadRequestError")
    assert "sing" in refused.error
    assert unheard.error_kind == "APIConnectionError"


def test_the_whole_of_it(gateway: Gateway, tmp_path: Path) -> None:
    """Asks everything of a gateway that runs already, prints table, example and what failed, and leaves its files."""
    options = command.parse(["--puzzles", "4", "--url", gateway.url, "--out", str(tmp_path)])
    console = Console(record=True, width=80, file=io.StringIO())
    command.demonstrate(options, console)
    text = console.export_text()
    assert "is ready" in text
    assert "round 1 of 1" in text
    assert "4 held-out puzzles" in text
    assert all(offer.name in text for offer in OFFERS)
    assert "tree search: 4 requests failed" in text  # a scripted gateway has no verifier of beginnings
    assert len(json.loads((tmp_path / "results.json").read_text())["requests"]) == 4 * len(OFFERS)
    assert (tmp_path / "frontier.svg").exists()


@pytest.mark.parametrize("cut", [KeyboardInterrupt(), GatewayFailed("the gateway ended")])
def test_a_run_that_was_stopped_leaves_the_results_of_the_last_whole_one(
    cut: BaseException, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files stand in a folder that says so, nothing is published, and the last lines say where both are."""
    options = command.parse(["--puzzles", "4", "--url", gateway.url, "--out", str(tmp_path), "--publish"])
    published: list[Path] = []
    monkeypatch.setattr(files, "publish", lambda found, folder, root: published.append(folder))
    command.demonstrate(options, Console(file=io.StringIO()))
    before = (tmp_path / "results.json").read_bytes(), (tmp_path / "frontier.png").read_bytes()

    async def stopped(gateway: object, client: object, portions: object, progress: Progress, **how: object) -> None:
        progress.answers.append(answer())
        raise cut

    monkeypatch.setattr(command, "run", stopped)
    console = Console(record=True, width=80, file=io.StringIO())
    command.demonstrate(options, console)
    said = console.export_text().replace("\n", "")
    assert before == ((tmp_path / "results.json").read_bytes(), (tmp_path / "frontier.png").read_bytes())
    assert len(json.loads((tmp_path / "stopped" / "results.json").read_text())["requests"]) == 1
    assert published == [tmp_path]
    assert f"Saved: {tmp_path / 'stopped' / 'frontier.png'}" in said
    assert f"last whole run are still in {tmp_path}." in said


def test_a_gateway_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log is named, and the end of it quoted."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    broken = tmp_path / "broken.yaml"
    broken.write_text("backends: {}\n")
    with started(broken) as found, pytest.raises(GatewayFailed, match=r"log is .*gateway\.log:\n(.|\n)*broken\.yaml"):
        asyncio.run(found.ready())


def test_a_gateway_is_gone_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the demonstration ends, also by an interrupt while the gateway starts; and one that is killed is noticed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / "scripted.yaml"
    path.write_text(CONFIG)
    with pytest.raises(KeyboardInterrupt), started(path) as found:
        raise KeyboardInterrupt
    assert found.process is not None
    assert found.process.poll() is not None
    assert found.log is not None
    assert not found.log.exists()
    with started(path) as killed:
        assert killed.process is not None
        os.kill(killed.process.pid, signal.SIGKILL)
        killed.process.wait()
        with pytest.raises(GatewayFailed, match="ended with code -9"):
            killed.check()
    assert killed.log is not None
    assert killed.log.exists()


def test_the_checker_agrees_with_the_example() -> None:
    """The solution used above is one."""
    assert check(HARD.prompt, SOLUTION) == 1.0
