"""Figures on a terminal: the table, live and in the end, a worked example, and how to go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from adapters.shell import outlay
from fleet.demo.asking import CHOSEN, Answer
from fleet.demo.figures import Row, example, rows, shares, short
from fleet.demo.rounds import Progress

COLUMNS = ("plan", "right (95 %)", "$/1,000", "x large", "p50/p95 s", "calls", "drawn")
"""Narrow enough for a terminal of 80 columns."""


class Live:
    """The table and the progress bar, rendered anew each time the terminal asks."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __rich__(self) -> RenderableType:
        return Group(table(self.progress.answers), ran(self.progress.answers), _bar(self.progress))


def _bar(progress: Progress) -> RenderableType:
    done = len(progress.answers)
    line = Table.grid(padding=(0, 1))
    line.add_row(ProgressBar(progress.requests, done, width=40), f"{done} of {progress.requests} requests", pace(progress))
    return line


def pace(progress: Progress) -> str:
    """`1:05 left`, at the pace so far; and whether fewer puzzles are asked than was intended."""
    seconds = progress.left_s
    left = "" if seconds is None else f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
    fewer = f", for {progress.total} puzzles; {progress.planned} would take too long here" if progress.total < progress.planned else ""
    return left + fewer


def table(answers: Sequence[Answer]) -> Table:
    """A row for each offer; the policy's stands out."""
    found = Table(*COLUMNS, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in found.columns[1:]:
        column.justify = "right"
    for row in rows(answers):
        found.add_row(*cells(row), style="bold green" if row.offer == CHOSEN.name else "")
    return found


def cells(row: Row) -> list[str]:
    """One row as text, in the order of COLUMNS."""
    right = f"{100 * row.right:.1f} % ({100 * row.low:.0f}–{100 * row.high:.0f})"
    if row.failed == row.asked:
        return [row.offer, right] + ["–"] * (len(COLUMNS) - 2)
    return [
        row.offer,
        right,
        f"{row.usd_per_1000:.4f}",
        "" if row.to_large is None else f"{row.to_large:.2f}",
        f"{row.p50_s:.2f}/{row.p95_s:.2f}",
        f"{row.calls:.1f}",
        f"{row.drawn:.1f}",
    ]


def ran(answers: Sequence[Answer]) -> Text:
    """Which plans the policy ran, in how many of its requests."""
    parts = [f"{plan} {100 * share:.0f} %" for plan, share in shares(answers).items()]
    return Text(f"\n{CHOSEN.name} ran, in so many of its requests: " + ", ".join(parts) + "\n" if parts else "")


def outcome(console: Console, answers: Sequence[Answer], planned: int) -> None:
    """The final table, with what has to be known to read it."""
    console.print(table(answers), ran(answers))
    asked = max((row.asked for row in rows(answers)), default=0)
    few = f" of the {planned} intended" if asked < planned else ""
    console.print(
        f"{asked} held-out puzzles{few}, evenly of 3, 4, 5 and 6 numbers, checked exactly.\n"
        f"Costs hold every call to backends and verifiers, and for {CHOSEN.name} the estimate.\n"
        "One call may draw several answers. Latencies are the client's, under this load.",
        style="dim",
    )
    for line in troubles(answers):
        console.print(line, style="yellow", markup=False)


def troubles(answers: Sequence[Answer]) -> list[str]:
    """What did not go as it should: failures by their kind, with an example; answers cut short by a limit."""
    failed = [a for a in answers if a.error]
    kinds = Counter((a.offer, a.error_kind) for a in failed)
    examples = {(a.offer, a.error_kind): a.error for a in failed}
    lines = [
        f"{offer}: {n} requests failed and count as wrong: {kind}, such as: {examples[offer, kind]}" for (offer, kind), n in kinds.items()
    ]
    return lines + [f"{row.offer}: {row.truncated} answers were cut short by the policy's limits" for row in rows(answers) if row.truncated]


def worked(console: Console, answers: Sequence[Answer]) -> None:
    """One hard puzzle: what was asked, what was done about it, and why."""
    if (found := example(answers)) is None:
        return
    likely = "" if found.p_small is None else f" (one answer of small is right with chance {found.p_small:.2f}, says the estimate)"
    console.print(f"\n[bold]One of the hard ones[/bold]{likely}")
    console.print(Padding(Text(found.question.prompt, "cyan"), (0, 2)))
    for number, reason in enumerate(found.reasons):
        plan = short(found.actions[number]) if number < len(found.actions) else "stop"
        console.print(Padding(Text.assemble((f"{plan}: ", "bold"), reason), (0, 2)))
    console.print(Padding(Text(found.text, "green"), (0, 2)))
    console.print(f"  right, for ${found.cost_usd:.6f} in {found.latency_s:.2f} s; decision {found.decision_id}", highlight=False)


def farewell(console: Console, folder: Path, before: Path | None = None) -> None:
    """Where the files are, also those of an earlier run that were left alone, and what to do next."""
    console.print(f"\nSaved: {folder / 'frontier.png'}, frontier.svg and results.json (every request with its decision).", soft_wrap=True)
    if before is not None:
        console.print(f"The results of the last whole run are still in {before}.", soft_wrap=True)
    call = outlay()
    console.print(
        "\n[bold]How to go on[/bold]\n"
        f"  {call} serve                                  the same gateway, at http://127.0.0.1:8080/v1\n"
        f'  {call} ask --stream "Use 4 9 10 13 to make 24."\n'
        f'  {call} explain "Use 4 9 10 13 to make 24."    every plan as the policy sees it, and why the winner won\n'
        f"  {call} serve --config configs/openai.yaml     real backends; also anthropic.yaml, local-servers.yaml, mixed.yaml",
        highlight=False,
        soft_wrap=True,
    )
