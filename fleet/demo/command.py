"""The command: options in, everything in order, files out. Ctrl-C at any time gives the table of what was done, and its files a folder of
their own, so that those of the last whole run stay."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live as LiveDisplay

from fleet.demo import files, picture, show
from fleet.demo.asking import client_of
from fleet.demo.figures import rows, settled
from fleet.demo.gateway import Gateway, GatewayFailed, started
from fleet.demo.rounds import Progress, rounds, run, warm_up
from fleet.questions import SIZES, questions

ROOT = Path(__file__).parents[2]
ROUND = 20
"""Questions of a round: five of each size."""

STOPPED = "stopped"
"""Folder below that of the results, for a run that was stopped."""

EXAMPLES = """examples:
  python -m fleet.demo                                   200 puzzles: some minutes on two cores
  python -m fleet.demo --puzzles 40                      a quick look
  python -m fleet.demo --config my.yaml                  other backends named small and large, verifier reward, policy balanced
  python -m fleet.demo --url http://127.0.0.1:8080       a gateway that runs already
  python -m fleet.demo --publish                         also write docs/frontier.* and the table of README.md"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point."""
    options = parse(argv)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended politely, the gateway ends too
    try:
        demonstrate(options, console)
    except GatewayFailed as error:
        sys.exit(f"outlay demo: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        "python -m fleet.demo",
        description="Ask held-out puzzles of every fixed plan and of a policy, and show what each got right for how much money.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--puzzles", type=_puzzles, default=200, metavar="N", help="a multiple of 4 (default: 200)")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests under way at once (default: 8)")
    parser.add_argument("--minutes", type=float, default=8.0, help="ask fewer puzzles if all would take longer (default: 8)")
    parser.add_argument("--seed", type=int, default=24, help="of the puzzles; the models draw their own")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fleet.yaml", help="of the gateway (default: the embedded fleet)")
    parser.add_argument("--url", help="ask this running gateway and start none")
    parser.add_argument("--out", type=Path, default=Path("outlay-demo"), metavar="DIR", help="for the picture and results.json")
    parser.add_argument("--publish", action="store_true", help="also write docs/frontier.* and the table of README.md")
    return parser.parse_args(argv)


def _puzzles(text: str) -> int:
    if not text.isdigit() or int(text) < len(SIZES) or int(text) % len(SIZES):
        raise argparse.ArgumentTypeError(f"{text} is no multiple of {len(SIZES)}; the sizes are asked equally often")
    return int(text)


def demonstrate(options: argparse.Namespace, console: Console) -> None:
    """Ask, show, save. Raises GatewayFailed if there is nothing to show."""
    progress, whole = Progress(options.puzzles, options.puzzles), False
    with _gateway(options) as gateway:
        try:
            asyncio.run(_ask(options, gateway, progress, console))
            whole = True
        except KeyboardInterrupt:
            console.print("\nstopped; this is what was done so far", style="yellow")
            if not progress.answers:
                raise
        except GatewayFailed as error:
            if not progress.answers:
                raise
            console.print(f"\n{error}", style="red", markup=False)
    _report(options, progress, console, whole)


@contextmanager
def _gateway(options: argparse.Namespace) -> Iterator[Gateway]:
    if options.url:
        yield Gateway(options.url.rstrip("/").removesuffix("/v1"))
        return
    with started(options.config) as gateway:
        yield gateway


async def _ask(options: argparse.Namespace, gateway: Gateway, progress: Progress, console: Console) -> None:
    portions = rounds(questions(options.puzzles, options.seed), ROUND)
    await _wait(gateway, console)
    async with client_of(gateway.url) as client:
        with console.status("every plan once, to warm up ..."):
            await warm_up(client, portions[0][0])
        progress.began_s = time.monotonic()
        with _shown(progress, console) as say:
            await run(
                gateway, client, portions, progress, concurrency=options.concurrency, budget_s=60 * options.minutes, say=say
            )  # fmt: skip


async def _wait(gateway: Gateway, console: Console) -> None:
    """Until the gateway is up; says how long that took, and whether something is missing."""
    began = time.monotonic()
    with console.status(f"waiting for the gateway at {gateway.url} ..."):
        state = await gateway.ready()
    console.print(f"The gateway at {gateway.url} is {state}, after {time.monotonic() - began:.1f} s.", highlight=False)


@contextmanager
def _shown(progress: Progress, console: Console) -> Iterator[Callable[[str], None]]:
    """The table that grows on a terminal; a line for each round where the output is a file."""

    def say(line: str) -> None:
        console.print(f"{line}; {show.pace(progress)}", highlight=False)

    if not console.is_terminal:
        yield say
        return
    with LiveDisplay(show.Live(progress), console=console, refresh_per_second=4, transient=True):
        yield lambda line: None


def _report(options: argparse.Namespace, progress: Progress, console: Console, whole: bool) -> None:
    answers, folder = settled(progress.answers), options.out if whole else options.out / STOPPED
    show.outcome(console, answers, progress.planned)
    show.worked(console, answers)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"puzzles": progress.total, "seed": options.seed, "concurrency": options.concurrency, "config": Path(options.config).name}
    files.save_results(answers, settings, folder)
    picture.save(rows(answers), folder)
    if options.publish and whole:
        files.publish(rows(answers), folder, ROOT)
    show.farewell(console, folder, options.out if folder != options.out and (options.out / files.RESULTS).exists() else None)
