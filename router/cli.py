"""The command line. Each command imports what it needs when it runs, so that `outlay --help` is quick and a light router starts light.

What goes wrong for a reason that the user can change is one line on standard error and exit code 2, never a traceback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.errors import AdapterError
from adapters.shell import outlay
from difficulty.errors import DifficultyError
from router.errors import ConfigError, EventError, RouterError

cli = typer.Typer(
    name="outlay",
    help="An OpenAI-compatible router that spends inference where it pays.",
    epilog='Start with: outlay ask "Use 4 9 10 13 to make 24."',
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NO_TERMINAL = (10_000, 0)
"""Columns and lines where there is neither a terminal nor COLUMNS: a pipe or a file takes lines of any length."""

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML; unset: ./outlay.yaml if there is one, else the fleet.", show_default=False)
]
ModelOption = Annotated[str, typer.Option("--model", "-m", help="auto, outlay/<policy>, or a backend's name.")]
UrlOption = Annotated[str | None, typer.Option(help="Of a running gateway, such as http://127.0.0.1:8080.", show_default=False)]
LogOption = Annotated[Path, typer.Option(help="What `outlay collect` wrote.", exists=True)]
FreshOption = Annotated[
    bool,
    typer.Option(
        "--fresh",
        help="You vouch that the fit saw no group of the log; unset: only what `outlay fit` kept for its report is used.",
    ),
]
PolicyOption = Annotated[str | None, typer.Option("--policy", "-p", help="Short for --model outlay/<policy>.", show_default=False)]


def main(argv: list[str] | None = None) -> None:
    """Entry point of the command `outlay`."""
    try:
        cli(argv)
    except (ConfigError, EventError, RouterError, AdapterError, DifficultyError) as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)


def _fail(error: Exception) -> None:
    for line in str(error).replace("`outlay ", f"`{outlay()} ").splitlines():
        print(f"outlay: {line}", file=sys.stderr)
    sys.exit(2)


def _path(config: Path | None) -> Path:
    from router.config import default_path

    return config or default_path()


def _quietly() -> None:
    """No progress bar of a download between a question and its answer."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _model(model: str, policy: str | None) -> str:
    return f"outlay/{policy}" if policy else model


@cli.command(epilog="Examples:  outlay serve   |   outlay serve --config configs/openai.yaml --port 9000")
def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="server.host, 127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.", show_default="server.port, 8080")
    ] = None,
) -> None:
    """Start the gateway."""
    from router.serve import serve as run

    with contextlib.suppress(KeyboardInterrupt):
        run(_path(config), typer.echo, host, port)
    typer.echo("stopped")


@cli.command(epilog='Examples:  outlay ask "Use 4 9 10 13 to make 24."   |   outlay ask --stream --url http://127.0.0.1:8080 "..."')
def ask(
    prompt: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")],
    model: ModelOption = "auto",
    policy: PolicyOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Show the answer while it comes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole response, decision block included.")] = False,
    url: UrlOption = None,
    key: Annotated[str | None, typer.Option(envvar="OUTLAY_API_KEY", help="Of the gateway, if it wants one.", show_default=False)] = None,
    config: ConfigOption = None,
) -> None:
    """Ask one question, of a running gateway (--url) or of a router started for it."""
    from router import asking

    _quietly()
    body = asking.body_of(sys.stdin.read() if prompt == "-" else prompt, _model(model, policy), stream)
    show = _silent if as_json else _show
    response = asyncio.run(asking.there(url, body, show, key) if url else asking.here(_path(config), body, show))
    if as_json:
        typer.echo(json.dumps(response, indent=2, ensure_ascii=False))
        return
    typer.echo()
    if "outlay" in response:
        typer.echo(asking.summary(response["outlay"]), err=True)


def _show(text: str) -> None:
    typer.echo(text, nl=False)


def _silent(text: str) -> None:
    """Where the response is printed whole."""


@cli.command(epilog="Examples:  outlay models   |   outlay models --config configs/mixed.yaml")
def models(config: ConfigOption = None) -> None:
    """List the names that a client may put in `model`."""
    from router.config import load
    from router.splits import shown

    found = load(_path(config))
    rows = [("auto", f"outlay/{found.default_policy}")]
    rows += [(f"outlay/{name}", policy.description or f"{len(policy.all_plans)} plans") for name, policy in found.policies.items()]
    rows += [(f"outlay/{name}", f"split, {shown(shares)}") for name, shares in found.splits.items()]
    rows += [(name, f"backend, {getattr(options, 'model', options.kind)}") for name, options in found.backends.items()]
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        typer.echo(f"{name:{width}}  {about}")


@cli.command(epilog="Examples:  outlay check configs/fleet.yaml   |   outlay check configs/openai.yaml --tokens 3000")
def check(
    config: Annotated[Path | None, typer.Argument(help="YAML; unset: as for serve.", show_default=False)] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Length of the prompt; unset: of the example that a backend reads, else 200.", show_default=False),
    ] = None,
) -> None:
    """Validate a configuration, run its policy tests (*_test.yaml), and print what every plan costs and takes at the 95th percentile."""
    from router.check import check as run

    raise typer.Exit(run(_path(config), tokens=tokens))


@cli.command(epilog="Example:  outlay reference --schema > outlay.schema.json")
def reference(
    schema: Annotated[bool, typer.Option("--schema", help="As JSON Schema, for editors that check and complete.")] = False,
) -> None:
    """Print every key of a configuration: its type, its default, and what it says."""
    from router.reference import editor_schema, page

    typer.echo(editor_schema() if schema else page())


@cli.command(epilog='Example:  outlay explain "Use 4 9 10 13 to make 24." --policy balanced')
def explain(
    prompt: Annotated[str, typer.Argument(help="The question.")],
    model: ModelOption = "auto",
    policy: PolicyOption = None,
    config: ConfigOption = None,
) -> None:
    """Show the estimate, what every plan is expected to give, and why the winner won; nothing is generated."""
    _quietly()
    typer.echo(asyncio.run(_explained(_path(config), prompt, _model(model, policy))))


@cli.command(epilog="Example:  outlay collect --prompts puzzles.jsonl --truth exact --out log.jsonl")
def collect(
    prompts: Annotated[Path, typer.Option(help='JSON lines with "prompt", and "gold" and "group" where there are.', exists=True)],
    out: Annotated[Path, typer.Option(help="The log; rows are appended, and what it holds is not asked again.")] = Path("collected.jsonl"),
    truth: Annotated[str | None, typer.Option(help="Verifier that marks answers; unset: the gold answer does.", show_default=False)] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draws of the backend that most plans use.")] = 16,
    samples_dear: Annotated[int, typer.Option(min=1, help="Draws of each other backend.")] = 4,
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at once.")] = 4,
    max_cost_usd: Annotated[
        float, typer.Option(min=0, help="Of the whole log, earlier runs included: no prompt is begun that may not fit.")
    ] = float("inf"),
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.", show_default=False)] = None,
    config: ConfigOption = None,
) -> None:
    """Run labelled prompts through all plans and log what was seen, for `outlay fit`.

    The same command goes on where it was stopped, and asks again what failed; the exit code is 1 where something did.
    """
    from router.learning import Collection, run_collect

    if not run_collect(Collection(_path(config), prompts, out, samples, samples_dear, truth, concurrency, max_cost_usd, limit)):
        raise typer.Exit(1)


@cli.command(epilog="Example:  outlay fit --log log.jsonl --out fleet/probe")
def fit(
    out: Annotated[Path, typer.Option(help="Folder for probe, curves and report.")],
    log: Annotated[Path | None, typer.Option(help="What `outlay collect` wrote.", exists=True, show_default=False)] = None,
    events: Annotated[
        str | None,
        typer.Option(help="The decision log, with prompts and feedback: a file, a folder, or redis://host:6379/0.", show_default=False),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Unset: probe.encoder of the configuration.", show_default=False)] = None,
    seed: int = 0,
    config: ConfigOption = None,
) -> None:
    """Learn the probe, the verifiers' calibration and the plans' curves from logs, and report how good they are."""
    from router.learning import run_fit

    run_fit(_path(config), log, events, out, encoder, seed)


@cli.command(epilog="Example:  outlay evaluate --log log.jsonl --out evaluation")
def evaluate(
    log: LogOption,
    out: Annotated[Path, typer.Option(help="Folder for tables and picture.")] = Path("evaluation"),
    policy: Annotated[list[str] | None, typer.Option("--policy", "-p", help="May be given again; unset: all.", show_default=False)] = None,
    against: Annotated[
        str | None, typer.Option(help="The reference; unset: `baseline`, else the dearest backend.", show_default=False)
    ] = None,
    fresh: FreshOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare policies with every baseline on prompts that no fit saw: what each gives, and what it costs."""
    from router.evaluate import run_evaluate

    run_evaluate(_path(config), log, out, policy or [], against, fresh)


@cli.command(epilog="Example:  outlay replay --events decisions.jsonl --policy thorough")
def replay(
    events: Annotated[str, typer.Option(help="The decision log: a file, a folder, or redis://host:6379/0?stream=name.")],
    policy: Annotated[str, typer.Option("--policy", "-p", help="What is to be tried.")],
    config: ConfigOption = None,
) -> None:
    """Show what another policy would have decided on logged requests, and estimate what that would have been worth."""
    from router.replay import run_replay

    run_replay(events, _path(config), policy)


@cli.command(epilog="Example:  outlay compare --events decisions.jsonl")
def compare(
    events: Annotated[str, typer.Option(help="The decision log: a file, a folder, or redis://host:6379/0?stream=name.")],
    examples: Annotated[int, typer.Option(min=0, help="Decision ids shown for each kind of disagreement.")] = 2,
) -> None:
    """Show what was tried on live traffic: the arms of each split, and what policies in shadow would have done."""
    from router.compare import run_compare

    run_compare(events, examples)


@cli.command(epilog="Example:  outlay certify --log log.jsonl --policy balanced --against large --epsilon 0.02")
def certify(
    log: LogOption,
    epsilon: Annotated[float, typer.Option(min=0, max=1, help="How far quality may lie below the reference.")] = 0.02,
    delta: Annotated[float, typer.Option(min=0.0001, max=0.5, help="Chance of being wrong about that.")] = 0.1,
    policy: Annotated[str | None, typer.Option("--policy", "-p", help="Unset: the default one.", show_default=False)] = None,
    against: Annotated[
        str | None, typer.Option(help="The reference; unset: `baseline`, else the dearest backend.", show_default=False)
    ] = None,
    mean_cost_usd: Annotated[float | None, typer.Option(min=0, help="Also prove this cap on the mean cost.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Unset: certificate.POLICY.json beside the probe.", show_default=False)] = None,
    fresh: FreshOption = False,
    config: ConfigOption = None,
) -> None:
    """Prove which settings of a policy lose at most epsilon against a backend, and write a certificate that the service holds to."""
    from router.certify import Terms, run_certify

    if not run_certify(_path(config), log, out, policy, Terms(epsilon, delta, against or "", mean_cost_usd), fresh):
        raise typer.Exit(1)


keys = typer.Typer(help="API keys: who may use the gateway, and what they may spend.", no_args_is_help=True)
cli.add_typer(keys, name="keys")

FileOption = Annotated[
    Path | None, typer.Option("--file", "-f", help="Of keys; unset: keys.path of the configuration.", show_default=False)
]


@keys.command("create", epilog="Example:  outlay keys create web --usd-day 5 --requests-minute 600 --policy balanced")
def keys_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    usd_minute: Annotated[float | None, typer.Option(help="Budget in US dollars.", show_default=False)] = None,
    usd_day: Annotated[float | None, typer.Option(help="The same for a day (UTC).", show_default=False)] = None,
    usd_month: Annotated[float | None, typer.Option(help="The same for a calendar month (UTC).", show_default=False)] = None,
    requests_minute: Annotated[int | None, typer.Option(help="Requests.", show_default=False)] = None,
    tokens_minute: Annotated[int | None, typer.Option(help="Tokens, in and out.", show_default=False)] = None,
    policy: Annotated[str | None, typer.Option(help="What `auto` means for it.", show_default=False)] = None,
    model: Annotated[list[str] | None, typer.Option(help="All that it may name: outlay/<policy> or a backend.", show_default=False)] = None,
    backend: Annotated[list[str] | None, typer.Option(help="All that it may spend on.", show_default=False)] = None,
    tenant: Annotated[str | None, typer.Option(help="Keys of one tenant share cache and decisions.", show_default=False)] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may use /admin too.")] = False,
    file: FileOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a key, and print it: this once, for the file holds only its digest."""
    from router.keys import new_key
    from router.keys_file import added, file_of

    secret, key = new_key(
        name, budget_usd={"minute": usd_minute, "day": usd_day, "month": usd_month}, requests={"minute": requests_minute},
        tokens={"minute": tokens_minute}, policy=policy, models=model, backends=backend, tenant=tenant, admin=admin,
    )  # fmt: skip
    path = file_of(file, config)
    added(path, key)
    typer.echo(secret)
    typer.echo(f"key {key.id} is in {path}; this is the only time that it is shown", err=True)


@keys.command("list")
def keys_list(file: FileOption = None, config: ConfigOption = None) -> None:
    """Show every key by its id, and what it may spend."""
    from router.keys import read_keys
    from router.keys_file import file_of, line_of

    for key in read_keys(file_of(file, config)).keys:
        typer.echo(line_of(key))


@keys.command("revoke")
def keys_revoke(
    id: Annotated[str, typer.Argument(help="As `outlay keys list` shows it.")], file: FileOption = None, config: ConfigOption = None
) -> None:
    """Take a key back. A gateway that runs notices within a second."""
    from router.keys_file import file_of, revoked

    revoked(file_of(file, config), id)
    typer.echo(f"key {id} is revoked")


artifacts = typer.Typer(
    help="Versions of what was fitted: list them, put one into use, go back.", no_args_is_help=True, rich_markup_mode=None
)
cli.add_typer(artifacts, name="artifacts")

ArtifactArgument = Annotated[Path, typer.Argument(help="Folder that `outlay fit --out` wrote to.", exists=True, file_okay=False)]
NEXT = "a running gateway takes it within seconds (server.reload_s)"


@artifacts.command("list", epilog="Example:  outlay artifacts list learned")
def list_artifacts(folder: ArtifactArgument) -> None:
    """Every version, newest first, with the one in use marked."""
    from datetime import datetime

    from difficulty.versions import versions

    for version in versions(folder):
        made = datetime.fromtimestamp(version.made_s).isoformat(" ", "seconds")
        typer.echo(f"{'*' if version.current else ' '} {version.digest}  {made}  labels {version.data}  {', '.join(version.backends)}")


@artifacts.command(epilog="Example:  outlay artifacts promote learned 1a2b3c")
def promote(
    folder: ArtifactArgument, digest: Annotated[str, typer.Argument(help="Of the version; its first digits, if they are its alone.")]
) -> None:
    """Put a version into use, if it loads."""
    from difficulty.versions import promote as run

    typer.echo(f"{run(folder, digest).current} is in use; {NEXT}")


@artifacts.command(epilog="Example:  outlay artifacts rollback learned")
def rollback(folder: ArtifactArgument) -> None:
    """Put the version before into use again."""
    from difficulty.versions import rollback as run

    typer.echo(f"{run(folder).current} is in use again; {NEXT}")


@cli.command(epilog="Example:  outlay feedback --config outlay.yaml")
def feedback(config: ConfigOption = None) -> None:
    """Show what feedback has taught: shifts of each backend by domain, and how well each verifier agrees with the labels."""
    from rich.console import Console

    from router.config import load
    from router.lessons_shown import lessons

    Console().print(asyncio.run(lessons(load(_path(config)).feedback)))


@cli.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def demo(context: typer.Context) -> None:
    """Send held-out puzzles through every plan of the embedded fleet, and compare what they give and cost."""
    import runpy

    sys.argv = ["outlay demo", *context.args]
    runpy.run_module("fleet.demo", run_name="__main__")


async def _explained(config: Path, prompt: str, model: str) -> str:
    from router import asking
    from router.explain import explain as run

    async with asking.opened(config) as router:
        return await run(router, asking.ask_of(prompt, model), shutil.get_terminal_size(NO_TERMINAL).columns)


if __name__ == "__main__":
    main()
