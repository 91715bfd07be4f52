"""`python -m benchmarks.two_model`: a cheap model or a dear one, decided before the first call, from the prompt alone.

On every recording with outcomes of two models or more: how much of the gap in quality is recovered for how many calls of the dear one,
by the general probe without a label of this data set, by the same probe fitted on 100, 300, 1,000 and all labels, and by what is
simpler. Five rotations of a 40/20/40 split by near-duplicate groups; figures are means over the rotations' test sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from benchmarks import general_probe
from benchmarks.encodings import ENCODER, HALFWAY, Kept
from benchmarks.harness import DRAWS, parser, publish, read, recordings
from benchmarks.marks import Rows, regraded
from benchmarks.two_model import limits, page
from benchmarks.two_model.figures import judge
from benchmarks.two_model.methods import DIFFERENCE, PROBE, score, unit
from benchmarks.two_model.pairs import Pair, pair
from difficulty.encoders import open_encoder

PATTERNS = ("outcomes_rout*.jsonl.gz", "outcomes_cascade_mmlu*.jsonl.gz")


def main() -> None:
    """Read, score by every method, judge, publish."""
    form = parser("two_model", (__doc__ or "").strip())
    form.add_argument("--pattern", nargs="+", default=PATTERNS, help="recordings to judge on")
    form.add_argument("--draws", type=int, default=DRAWS, help="of the bootstrap")
    args = form.parse_args()
    encoder = Kept(open_encoder(ENCODER))
    everything = recordings(args.data, "outcomes_*.jsonl.gz")
    counted = [row for path in sorted(args.data.glob("counts_*.jsonl.gz")) for row in read(path)]
    wanted = {name: rows for pattern in args.pattern for name, rows in recordings(args.data, pattern).items()}
    general, _ = general_probe.labels(everything)
    judged, before = dict[str, Any](), None
    for one, changed in pairs(wanted, everything):
        score(one, encoder, general, args.seed)
        found = judge(one, PROBE, args.draws, args.seed)
        if page.aim(one.name):
            found["followed"] = limits.followed(one.gain, args.seed)
        if one.name in page.AIMS:
            states = unit(encoder.encode(one.prompts, [HALFWAY]).states[HALFWAY])
            found["drawn"] = limits.drawn(one, counted, states, args.seed)
        if changed and before is not None:
            found |= {"regraded": changed, "foreseen": limits.foreseen(before, one, DIFFERENCE)}
        judged[one.name], before = found, one
        print(one.name, {name: round(method["apgr"][0], 3) for name, method in found["methods"].items()}, flush=True)
    page.picture(judged)
    publish("two_model", {"sets": judged}, page.page(judged))


def pairs(wanted: Mapping[str, Rows], everything: Mapping[str, Rows]) -> Iterator[tuple[Pair, dict[str, Any]]]:
    """Every recording's two models; once more where right answers were marked wrong, with how many of each model's that were."""
    for name, rows in wanted.items():
        yield pair(name, rows, everything), {}
        again, changed = regraded(rows)
        if any(changed.values()):
            yield replace(pair(name, again, everything), name=f"{name}{page.REGRADED}"), changed


if __name__ == "__main__":
    main()
