"""How long to wait after a failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.core.model import Retry

FIRST = 1.0
LONGEST = 300.0
_CALM = 600.0  # a repair so long after the last one is no repetition


class Backoff:
    """Retries by lane, doubling from one second to five minutes. Lost with the process, which costs one attempt."""

    def __init__(self) -> None:
        self._retries: dict[str, Retry] = {}
        self._repairs: dict[str, tuple[int, float]] = {}

    @property
    def retries(self) -> Mapping[str, Retry]:
        """Lane -> why and until when the next attempt waits."""
        return dict(self._retries)

    def failed(self, lane: str, reason: str, message: str, now: float) -> None:
        """An action failed."""
        attempts = self._retries[lane].attempts + 1 if lane in self._retries else 1
        self._retries[lane] = Retry(now + _delay(attempts), attempts, reason, message)

    def repaired(self, lane: str, now: float) -> None:
        """Drift was repaired; whoever breaks it again and again meets growing patience, starting at none."""
        times, last = self._repairs.get(lane, (0, 0.0))
        times = times + 1 if now - last < _CALM else 1
        self._repairs[lane] = (times, now)
        self._retries.pop(lane, None)
        if times > 3:  # noqa: PLR2004  (three at once are still an accident)
            until = now + _delay(times - 3)
            self._retries[lane] = Retry(until, times, "RepeatedDrift", f"repaired {times} times; next repair waits")

    def succeeded(self, lane: str) -> None:
        """All is well again."""
        self._retries.pop(lane, None)

    def forget_except(self, apps: Collection[str]) -> None:
        """Drop lanes of apps that are gone."""
        for lane in [lane for lane in self._retries if lane and lane.removeprefix("pull:") not in apps]:
            del self._retries[lane]
        for lane in [lane for lane in self._repairs if lane and lane.removeprefix("pull:") not in apps]:
            del self._repairs[lane]


def _delay(attempts: int) -> float:
    return min(LONGEST, FIRST * 2.0 ** (min(attempts, 20) - 1))
