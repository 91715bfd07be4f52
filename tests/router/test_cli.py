"""The command line: what each command prints, where it prints it, and what a user sees when something is wrong."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.asking import summary
from router.cli import main
from router.config import parse
from router.serve import greeting
from router.yaml_errors import parse_yaml
from tests.adapters.stub_server import free_port
from tests.router.doubles import exploding

SCRIPTED = """
backends:
  small: {kind: scripted, answers: ["four steps in all"], price: {input_usd_per_mtok: 10, output_usd_per_mtok: 10}}
  large: {kind: scripted, answers: ["large"], price: {input_usd_per_mtok: 99, output_usd_per_mtok: 99}}
  broken: {kind: scripted, fail_every: 1}
policies:
  balanced: {rules: [{otherwise: {single: {backend: small}}}], description: the small one}
  dear: {rules: [{otherwise: {single: {backend: large}}}]}
"""
ONE_POLICY = "policies: {one: {rules: [{otherwise: {single: {backend: small}}}]}}"


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration with scripted backends."""
    path = tmp_path / "outlay.yaml"
    path.write_text(SCRIPTED)
    return str(path)


Captured = pytest.CaptureFixture[str]


def outlay(*argv: str) -> int:
    """Run a command as the shell does; its exit code."""
    with pytest.raises(SystemExit) as done:
        main(list(argv))
    return int(done.value.code or 0)


# --- ask ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_ask_prints_the_answer_and_below_it_what_it_cost(config: str, stream: list[str], capsys: Captured) -> None:
    """The answer alone is on standard output, so that it can be piped; plan, cost and time are on standard error."""
    assert outlay("ask", "why?", "--config", config, *stream) == 0
    out, err = capsys.readouterr()
    assert out == "four steps in all\n"
    assert re.match(r"single\(small\)  ·  \$0\.0000\d\d \(baseline \$0\.\d+\)  ·  \d+ ms  ·  dec_", err)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--policy", "dear"], "large\n"),
        (["--model", "large"], "large\n"),
        ([], "four steps in all\n"),
    ],
)
def test_ask_takes_a_policy_or_a_model(config: str, options: list[str], answer: str, capsys: Captured) -> None:
    """--policy and --model say who answers."""
    assert outlay("ask", "why?", "-c", config, *options) == 0
    assert capsys.readouterr().out == answer


def test_ask_prints_the_whole_response_as_json(config: str, capsys: Captured) -> None:
    """--json is for programs: the completion with its decision block, and nothing else."""
    assert outlay("ask", "why?", "-c", config, "--json") == 0
    body = json.loads(capsys.readouterr().out)
    assert body["choices"][0]["message"]["content"] == "four steps in all"
    assert body["outlay"]["plan"] == "single(small)"


def test_ask_takes_the_configuration_of_the_working_directory(config: str, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    """Without --config, ./outlay.yaml is used."""
    monkeypatch.chdir(Path(config).parent)
    assert outlay("ask", "why?") == 0
    assert capsys.readouterr().out == "four steps in all\n"


# --- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ask", "why?", "-c", "none.yaml"], "none.yaml: cannot be read"),
        (["ask", "why?", "-c", "CONFIG", "-p", "balancd"], "no model 'outlay/balancd'"),
        (["ask", "why?", "-c", "CONFIG", "-m", "broken"], "backend 'broken'"),
        (["ask", "why?", "--url", f"http://127.0.0.1:{free_port()}"], "outlay serve`"),
        (["ask", "why?", "--url", "nowhere"], "is no address"),
        (["serve", "-c", "none.yaml"], "none.yaml: cannot be read"),
        (["models", "-c", "none.yaml"], "none.yaml: cannot be read"),
        (["check", "none.yaml"], "none.yaml: cannot be read"),
        (["explain", "why?", "-c", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_what_a_user_can_change_is_one_line(config: str, argv: list[str], message: str, capsys: Captured) -> None:
    """A file, a name, an address that is wrong: one line that says so, exit code 2, no traceback."""
    assert outlay(*(config if arg == "CONFIG" else arg for arg in argv)) == 2
    out, err = capsys.readouterr()
    assert message in out + err
    assert "Traceback" not in err


def test_each_mistake_of_a_configuration_has_its_line(tmp_path: Path, capsys: Captured) -> None:
    """All of them at once, each with its place."""
    path = tmp_path / "bad.yaml"
    path.write_text(SCRIPTED.replace("backend: small", "backend: smal").replace("backend: large", "backend: larg"))
    assert outlay("ask", "why?", "-c", str(path)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in lines] == ["policies.balanced.rules[0].then[0]", "policies.dear.rules[0].then[0]"]
    assert "did you mean 'small'?" in lines[0]


def test_a_port_that_is_taken_is_known_before_anything_is_loaded(config: str, capsys: Captured) -> None:
    """The message names the address and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert outlay("serve", "-c", config, "--port", port) == 2
    err = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "--port" in err


def test_ctrl_c_ends_quietly(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted command ends with the shell's usual code and no traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("router.asking.here", interrupted)
    assert outlay("ask", "why?", "-c", config) == 130


# --- the other commands -------------------------------------------------------------------------------------------------


def test_models_lists_what_may_stand_in_model(config: str, capsys: Captured) -> None:
    """Policies with their descriptions, backends, and what `auto` stands for."""
    assert outlay("models", "-c", config) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert lines[:2] == [["auto", "outlay/balanced"], ["outlay/balanced", "the small one"]]
    assert ["large", "backend, scripted"] in lines


def test_check_says_whether_a_configuration_holds(config: str, capsys: Captured) -> None:
    """`outlay check` ends with 0 for a good one, and shows its plans."""
    assert outlay("check", config) == 0
    assert "single(small)" in capsys.readouterr().out


def test_explain_shows_the_plans_without_generating(config: str, capsys: Captured) -> None:
    """`outlay explain` shows what would be done; no answer is made."""
    assert outlay("explain", "why?", "-c", config) == 0
    out = capsys.readouterr().out
    assert "single(small)" in out
    assert "four steps" not in out


def test_explain_shows_what_plans_are_worth_where_something_weighs_them(tmp_path: Path, config: str, capsys: Captured) -> None:
    """Rules do not, so their plans have no utility, and no column of zeros."""
    weighed = tmp_path / "weighed.yaml"
    weighed.write_text("""
    backends: {small: {kind: scripted, price: {output_usd_per_mtok: 1}}}
    policies: {balanced: {objective: {value_of_correct_usd: 0.02}, plans: [{single: {backend: small}}]}}
    """)
    heads = []
    for path in (config, str(weighed)):
        assert outlay("explain", "why?", "-c", path) == 0
        heads += [line for line in capsys.readouterr().out.splitlines() if line.startswith("plan ")]
    assert ["utility" in head for head in heads] == [False, True]


@pytest.mark.parametrize("columns", ["80", "200", None])
def test_explain_never_cuts_the_name_of_a_plan(
    columns: str | None, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a narrow terminal it stands on a line of its own, with its figures below; in a wide one and in a pipe it is one line."""
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
    name = "best_of_n(small, n=4, verifier=right, temperature=0.75)"
    path = tmp_path / "outlay.yaml"
    path.write_text("""
    backends: {small: {kind: scripted, price: {output_usd_per_mtok: 1}}, large: {kind: scripted, price: {output_usd_per_mtok: 9}}}
    verifiers: {right: {kind: regex, pattern: four}}
    policies:
      balanced:
        objective: {value_of_correct_usd: 0.02}
        limits: {cost_usd: 0.003}
        plans:
          - single: {backend: small}
          - best_of_n: {backend: small, n: 4, verifier: right, temperature: 0.75}
          - single: {backend: large}
    """)
    assert outlay("explain", "why?", "-c", str(path)) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith(name) and "->" not in line]
    dear = next(i for i, line in enumerate(lines) if line.startswith("single(large)"))
    assert "may cost" in lines[dear]
    if columns == "80":
        assert line.removesuffix("  <-") == name
        assert max(map(len, lines[3 : dear + 1])) <= 80
    else:
        assert re.match(r"[\d.]+ ", line.removeprefix(name).lstrip())


@pytest.mark.parametrize("command", ["serve", "ask", "models", "check", "explain"])
def test_every_command_shows_an_example(command: str, capsys: Captured) -> None:
    """`--help` ends with something to copy."""
    assert outlay(command, "--help") == 0
    assert f"outlay {command}" in capsys.readouterr().out.partition("Example")[2]


# --- a gateway in a process of its own ----------------------------------------------------------------------------------


@pytest.fixture
def gateway(config: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`outlay serve` on a free port, and its address as it printed it."""
    command = [sys.executable, "-m", "router.cli", "serve", "--config", config, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.search(r"listens on (http://\S+)/v1", line):
                break
        else:
            pytest.fail("".join(said))
        yield process, found[1]
        process.kill()


def test_a_gateway_serves_and_stops(gateway: tuple[subprocess.Popen[str], str], capsys: Captured) -> None:
    """`outlay serve` says where it is; `outlay ask --url` gets the same answers, streams and errors; Ctrl-C ends it cleanly."""
    process, url = gateway
    for options in ([], ["--stream"]):
        assert outlay("ask", "why?", "--url", url, *options) == 0
        out, err = capsys.readouterr()
        assert (out, err.startswith("single(small)")) == ("four steps in all\n", True)
    assert outlay("ask", "why?", "--url", url, "-p", "none") == 2
    assert "no model 'outlay/none'" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert rest.splitlines()[-1] == "stopped"
    assert "policy='balanced'" in rest


def test_what_to_try_is_a_prompt_that_the_configuration_can_answer() -> None:
    """A backend that reads puzzles only says which; any other is not sent a puzzle."""
    reads = "reads: {pattern: 'is', example: \"What's 2 + 2?\"}"
    for options, prompt in (("", "'What is the capital of Australia?'"), (reads, "'What'\"'\"'s 2 + 2?'")):
        config = parse_yaml(f"{{backends: {{small: {{kind: local, model: fleet/small, {options}}}}}, {ONE_POLICY}}}", "x")
        for keys in ({}, {"keys": {"path": "keys.yaml"}}):
            *_, line = greeting(parse(config | keys, "x"), "127.0.0.1", 80).splitlines()
            assert line.endswith(f"ask {prompt} --url http://127.0.0.1:80")
            assert ("OUTLAY_API_KEY" in line) == bool(keys)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({}, False),
        ({"cached": True, "cached_from": "dec_other"}, "cached, from dec_other"),
        ({"cached": False, "continued_from": "dec_other"}, "goes on from dec_other"),
        ({"degraded": ["verifier:judge"]}, "degraded: verifier:judge"),
    ],
)
def test_ask_says_where_an_answer_comes_from_and_what_it_lacks(block: dict[str, Any], says: str | bool) -> None:
    """One out of the cache costs nothing, and that is why; one that no judge saw is worth less."""
    line = summary({"plan": "single(small)", "cost_usd": 0.0, "latency_s": 0.01, "id": "dec_1", **block})
    assert line.partition("dec_1")[2] == (f"  ·  {says}" if says else "")


def test_what_is_tried_is_checked_and_listed(tmp_path: Path, capsys: Captured) -> None:
    """`check` says who gets which share, `models` lists a split; a wrong share is one line."""
    path, tried = tmp_path / "outlay.yaml", "splits: {main: {balanced: 0.9, dear: 0.1}}\nshadow_policies: {balanced: {dear: 0.5}}\n"
    path.write_text(SCRIPTED + tried)
    assert outlay("check", str(path)) == 0
    said = capsys.readouterr().out
    assert "splits.main: 90 % balanced, 10 % dear" in said
    assert "shadow_policies.balanced: dear decides beside 50 % of its requests" in said
    assert outlay("models", "-c", str(path)) == 0
    assert re.search(r"^outlay/main +split, 90 % balanced, 10 % dear$", capsys.readouterr().out, re.MULTILINE)
    path.write_text(SCRIPTED + tried.replace("0.9", "0.8"))
    assert outlay("check", str(path)) == 2
    assert "splits.main: the shares must add up to 1; found 0.9" in capsys.readouterr().err


def test_check_refuses_at_once_what_aliases_repeat_without_measure(tmp_path: Path, capsys: Captured) -> None:
    """In the configuration, and in the tests beside it: one line, with the file."""
    path, tests = tmp_path / "outlay.yaml", tmp_path / "outlay_test.yaml"
    for file in (tests, path):
        path.write_text(SCRIPTED)
        file.write_text(exploding())
        assert outlay("check", str(path)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file}:6: " in line
        assert "holds more than 100,000 keys and values" in line


def test_check_needs_no_secret_to_say_what_a_plan_costs(tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any key, the table is that with all of them, grades of a judge and backends of several deployments included."""
    path = tmp_path / "outlay.yaml"
    path.write_text("""
    backends:
      small: {model: openai/gpt-4.1-mini, api_key: os.environ/KEY_A}
      large: {deployments: {a: {model: openai/gpt-4.1, api_key: os.environ/KEY_B, headers: {x-org: os.environ/KEY_C}}}}
    verifiers: {judge: {kind: judge, backend: large}}
    policies:
      one: {rules: [{otherwise: {best_of_n: {backend: small, n: 4, verifier: judge}}}]}
      two: {rules: [{otherwise: {single: {backend: small}}}]}
    """)
    tables = []
    for variables in ((), ("KEY_A",), ("KEY_A", "KEY_B", "KEY_C")):
        for variable in variables:
            monkeypatch.setenv(variable, "sk-secret")
        assert outlay("check", str(path)) == 0
        *notes, table = capsys.readouterr().out.partition("cost and time")
        assert [name for name in ("KEY_A", "KEY_B", "KEY_C") if f"{name} is not set" in notes[0]] == [
            name for name in ("KEY_A", "KEY_B", "KEY_C") if name not in variables
        ]
        tables.append(table)
    assert len(set(tables)) == 1
    judged_usd, alone_usd = (float(found) for found in re.findall(r"\d\.\d{6}", tables[0]))
    assert judged_usd > 4 * alone_usd


def test_check_names_backends_of_which_something_is_not_known(tmp_path: Path, capsys: Captured) -> None:
    """Without a price no limit holds; without a length answers may be cut. What is on the price list, or said in the file, is known."""
    path = tmp_path / "outlay.yaml"
    path.write_text("""
    backends:
      listed: {model: openai/gpt-4.1-mini, api_key: x}
      free: {model: my-own, base_url: "http://127.0.0.1:1/v1"}
      short: {model: my-own, base_url: "http://127.0.0.1:1/v1", price: {output_usd_per_mtok: 1}}
      said: {model: my-own, base_url: "http://127.0.0.1:1/v1", price: {output_usd_per_mtok: 1}, max_tokens: 4096}
      context: {model: my-own, base_url: "http://127.0.0.1:1/v1", price: {output_usd_per_mtok: 1}, max_context: 8192}
    policies: {one: {rules: [{otherwise: {single: {backend: listed}}}]}}
    """)
    assert outlay("check", str(path)) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [line.split(":")[1] for line in notes] == [" backends.free", " backends.short"]
    assert "no price is known" in notes[0]
    assert "cut at 1,024 tokens" in notes[1]


def test_check_calls_its_figures_what_they_are(config: str, capsys: Captured) -> None:
    """One request in twenty may cost more than the 95th percentile, so that is no worst case."""
    assert outlay("check", config) == 0
    out = capsys.readouterr().out
    assert "at the 95th percentile" in out
    assert "worst" not in out
    assert "at most" not in out


@pytest.mark.parametrize(
    ("small", "asked", "tokens", "usd"),
    [
        ("kind: scripted", [], 200, "0.000200"),
        ("kind: scripted", ["--tokens", "3000"], 3000, "0.003000"),
        ("model: fleet/small, reads: {pattern: to, example: Use 4 9 10 13 to make 24.}", [], 11, "0.000011"),
        ("kind: local, model: ./none, reads: {pattern: to, example: Use 4 9 10 13 to make 24.}", [], 200, "0.000200"),
    ],
)
def test_check_says_for_how_long_a_prompt_its_figures_are(
    tmp_path: Path, capsys: Captured, small: str, asked: list[str], tokens: int, usd: str
) -> None:
    """As long as is asked, else as the example of what a backend reads, else 200 tokens; also where its model is not here."""
    path = tmp_path / "outlay.yaml"
    price = "price: {input_usd_per_mtok: 1, output_usd_per_mtok: 0}"
    path.write_text(f"backends: {{small: {{{small}, {price}}}}}\n{ONE_POLICY}")
    assert outlay("check", str(path), *asked) == 0
    out = capsys.readouterr().out
    assert f"cost and time of a prompt of {tokens:,} tokens" in out
    assert usd in out


def test_check_says_what_of_a_configuration_cannot_be_built(tmp_path: Path, capsys: Captured) -> None:
    """What `serve` would stop at is no valid configuration."""
    path = tmp_path / "outlay.yaml"
    path.write_text(SCRIPTED + "verifiers: {mine: {kind: python, entry: 'no_such_module:check'}}\n")
    assert outlay("check", str(path)) == 2
    said = capsys.readouterr()
    assert "No module named 'no_such_module'" in said.err
    assert "valid" not in said.out


def test_check_says_how_far_a_budget_reaches_and_what_can_be_spent_after_it(tmp_path: Path, capsys: Captured) -> None:
    """How many requests it pays for at the cheapest, what comes then, and what is under way at that moment."""
    text = """
    backends: {{small: {{kind: scripted, price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 2}}}}}}
    policies:
      a:
        objective: {{budget_usd: 5, per: day, when_spent: {end}}}
        plans: [{{single: {{backend: small}}}}]
        limits: {{cost_usd: 0.1}}
    """
    for end, says in (("cheapest", "then $0.001553 a request at the 95th percentile"), ("refuse", "then nothing")):
        (tmp_path / "b.yaml").write_text(text.format(end=end))
        assert outlay("check", str(tmp_path / "b.yaml")) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "$5 per day, enough for 3,220 requests" in out
        assert says in out
        assert "may add $0.1 each" in out


# --- what was learned ---------------------------------------------------------------------------------------------------


def test_artifacts_are_listed_promoted_and_rolled_back(tmp_path: Path, capsys: Captured) -> None:
    """The one in use is marked; what cannot be is one line on standard error."""
    from tests.difficulty.test_versions import a_version

    first, second = a_version(tmp_path, 1), a_version(tmp_path, 2)
    assert outlay("artifacts", "promote", str(tmp_path), second[:8]) == 0
    assert outlay("artifacts", "list", str(tmp_path)) == 0
    out = capsys.readouterr().out
    assert f"{second} is in use" in out
    assert f"* {second}" in out
    assert f"  {first}" in out
    assert outlay("artifacts", "rollback", str(tmp_path)) == 0
    assert f"{first} is in use again" in capsys.readouterr().out
    assert outlay("artifacts", "rollback", str(tmp_path)) == 2
    assert "no version was in use before" in capsys.readouterr().err


def test_feedback_shows_what_was_learned_from_where_it_is_kept(tmp_path: Path, capsys: Captured) -> None:
    """Shifts by domain and verifiers' health; what only the gateway knows, and what is not ours, is said."""
    from adapters.sums import FileSums
    from difficulty.feedback import Answer, counted
    from router.lessons import DAY_S, Lessons

    state, path = tmp_path / "state.json", tmp_path / "outlay.yaml"
    epoch = Lessons().fading.epoch(time.time() / DAY_S)
    cells = counted(Answer("small", 2.0, "exact", 0.9), "law", 0.0, epoch)
    asyncio.run(FileSums(state).exchange({str(cell): row for cell, row in cells.items()}))
    path.write_text(SCRIPTED + f"feedback: {{state: {state}}}\n")
    assert outlay("feedback", "-c", str(path)) == 0
    out = capsys.readouterr().out
    assert re.search(r"law +small +-0\.\d\d", out)
    assert re.search(r"exact +1 +nan +1\.00 +0\.00", out)
    assert "not applied" in out
    path.write_text(SCRIPTED)
    assert outlay("feedback", "-c", str(path)) == 2
    assert "only the gateway itself sees" in capsys.readouterr().err
    state.write_text("[]")
    path.write_text(SCRIPTED + f"feedback: {{state: {state}}}\n")
    assert outlay("feedback", "-c", str(path)) == 2
    assert "not written by Outlay" in capsys.readouterr().err
