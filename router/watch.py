"""Watches for drift: which tests run on what, what an alarm says, and what it changes. The tests themselves are in `difficulty/drift.py`.

| test | sees | alarm |
| --- | --- | --- |
| `calibration:<backend or verifier>` | feedback less the chance that was believed | answers are right more, or less, often than believed |
| `quality` | the verifier's word on the answer less that on the shadow's | answers are worse than the shadow's |
| `difficulty:<source>`, `length` | what was estimated, and the prompt's tokens | prompts are not what they were |

An alarm stands until the process ends: somebody should look, fit again, and start anew. Where the configuration says `then`, an alarm that
answers are worse than believed, or than the shadow's, sends everything to that backend meanwhile; prompts that changed need do no harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from difficulty.drift import MeanTest, RankTest
from router.events import AlarmEvent
from router.options import DriftOptions

log = logging.getLogger("outlay")

SAYS: dict[str, dict[int, str]] = {
    "calibration": {1: "answers are right more often than believed", -1: "answers are right less often than believed"},
    "quality": {-1: "answers are worse than the shadow's"},
    "difficulty": {1: "prompts became easier", -1: "prompts became harder"},
    "length": {1: "prompts became longer", -1: "prompts became shorter"},
}
"""By kind of test: what it can find, above and below."""
RANKED = frozenset({"difficulty", "length"})
HARMFUL = frozenset({("calibration", -1), ("quality", -1)})


class Watch:
    """All tests of one process. Without options it sees nothing."""

    def __init__(self, options: DriftOptions | None, clock: Callable[[], float] = time.time) -> None:
        self.options, self._clock = options, clock
        self.tell: Callable[[AlarmEvent], None] | None = None
        """Who is told of an alarm, beside the log."""
        self._tests: dict[str, MeanTest | RankTest] = {}
        self.alarms: dict[str, str] = {}
        """By name of the test: what it found."""
        self.then: str | None = None
        """The backend that answers everything, now that something harmful was found."""

    def asked(self, source: str, ease: float, input_tokens: int) -> None:
        """A request was estimated: how easy it looked, and its length."""
        self._see(f"difficulty:{source}", ease)
        self._see("length", input_tokens)

    def judged(self, backend: str, verifier: str | None, chance: float, label: float) -> None:
        """Somebody said how right an answer is."""
        for name in {backend, verifier} - {None}:
            self._see(f"calibration:{name}", label - chance)

    def compared(self, answered: float, shadow: float) -> None:
        """The same verifier scored (calibrated) the answer that went out and the shadow's."""
        self._see("quality", answered - shadow)

    def _see(self, name: str, value: float) -> None:
        if self.options is None:
            return
        kind = name.partition(":")[0]
        test = self._tests.get(name) or self._tests.setdefault(name, _test(kind, self.options))
        if test.see(value):
            self._alarm(name, (kind, test.alarm), self.options)

    def _alarm(self, name: str, found: tuple[str, int], options: DriftOptions) -> None:
        message = f"{SAYS[found[0]][found[1]]}, beyond the tolerance of {options.tolerance:g}"
        if found in HARMFUL:
            self.then = options.then
        self.alarms[name] = message
        log.warning("drift, %s: %s%s", name, message, f"; '{self.then}' answers everything now" if self.then else "")
        if self.tell is not None:
            self.tell(AlarmEvent(name, self._clock(), message))


def _test(kind: str, options: DriftOptions) -> MeanTest | RankTest:
    test = MeanTest(options.tolerance, options.alpha, tuple(SAYS[kind]))
    return RankTest(test, options.reference) if kind in RANKED else test
