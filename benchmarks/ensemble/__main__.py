"""`python -m benchmarks.ensemble`: are several models together worth more than one of them? The router's own ensembles, played
on recorded answers of real models.

Sets in which several models answered the same prompts: four sets of one answer each (`outcomes_zeroeval_*`, `outcomes_cascade_*`), and
dates of which GPT-3.5, GPT-4 and Llama 2 drew many (`samples_mot_date_*`). Everything is the service's: curves are fitted on the train
and calibrate sides (`difficulty.learn`), and each plan and policy is played on the test side through the whole pipeline
(`router.play`). Pools are chosen by rank on the sides that are learned from, not by how they do.
"""

from __future__ import annotations

from benchmarks import harness
from benchmarks.ensemble.figures import chosen, judged
from benchmarks.ensemble.page import NAME, page, picture
from benchmarks.ensemble.recorded import of_dates, of_outcomes
from benchmarks.ensemble.world import World


def main() -> None:
    """From the files to the page."""
    options = harness.parser(NAME, str(__doc__)).parse_args()
    once = ("outcomes_zeroeval_*.jsonl.gz", "outcomes_cascade_*.jsonl.gz")
    outcomes = {name: rows for pattern in once for name, rows in harness.recordings(options.data, pattern).items()}
    sets = [of_outcomes(name.removeprefix("outcomes_"), rows, options.seed) for name, rows in outcomes.items()]
    sets.append(of_dates(harness.recordings(options.data, "samples_mot_date_*.jsonl.gz"), options.seed))
    findings = {}
    for data in sets:
        world = World.learned(data, options.seed)
        pools = {label: judged(world, label, members) for label, members in data.pools.items()}
        findings[data.name] = {"prompts": len(data.test), "pools": pools, "engine": chosen(world) if data.priced else []}
    picture(findings)
    harness.publish(NAME, {"sets": findings}, page(findings))


if __name__ == "__main__":
    main()
