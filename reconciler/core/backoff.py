"""How long to wait after a failure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from reconciler.core.actions import app_of, drift_lane, is_restart_lane, name_lane, task_lane, upkeep_lane
from reconciler.core.memory import Retry

FIRST = 1.0
LONGEST = 300.0
_CALM = 600.0  # a repair so long after the last one is no repetition
_RESTART = 10.0  # times as long between two restarts of one container as between two attempts
_REPEATED = "RepeatedDrift"
_PATIENCE = 3  # so many repairs of one container are still an accident


class Backoff:
    """Retries by lane, doubling from one second to five minutes. Lost with the process, which costs one attempt."""

    def __init__(self) -> None:
        self._retries: dict[str, Retry] = {}
        self._repairs: dict[tuple[str, str], tuple[int, float]] = {}

    @property
    def retries(self) -> Mapping[str, Retry]:
        """Lane -> why and until when the next attempt waits."""
        return dict(self._retries)

    def failed(self, lane: str, reason: str, message: str, now: float, fingerprint: str = "") -> int:
        """An action failed. Returns how often in a row."""
        before = self._retries.get(lane)
        attempts = before.attempts + 1 if before and before.fingerprint == fingerprint else 1
        self._retries[lane] = Retry(now + _delay(attempts), attempts, reason, message, fingerprint)
        return attempts

    def repaired(self, app: str, container: str, now: float) -> None:
        """Drift was repaired; who breaks one container again and again meets growing patience, at first none."""
        times = self._again(app, container, now)
        self._retries.pop(app, None)
        if times > _PATIENCE:
            until = now + _delay(times - _PATIENCE)
            message = f"{container} was repaired {times} times; the next repair waits"
            self._retries[drift_lane(app)] = Retry(until, times, _REPEATED, message)

    def restarted(self, lane: str, container: str, now: float) -> None:
        """A replica was restarted because it was not healthy. If that helps nothing, the next time waits longer."""
        times = self._again(lane, container, now)
        often = "" if times == 1 else f" {times} times"
        message = f"{container} was restarted{often} and is not healthy; the next restart waits"
        self._retries[lane] = Retry(now + min(LONGEST, _RESTART * _delay(times)), times, "Unhealthy", message)

    def _again(self, lane: str, container: str, now: float) -> int:
        times, last = self._repairs.get((lane, container), (0, 0.0))
        times = times + 1 if now - last < _CALM else 1
        self._repairs[lane, container] = (times, now)
        return times

    def succeeded(self, lane: str) -> None:
        """What failed has gone well."""
        self._retries.pop(lane, None)

    def recovered(self, app: str) -> None:
        """An app is well, and nothing waits to be done for it. Repeated repairs are not forgotten: they made it so."""
        for lane in (app, name_lane(app), upkeep_lane(app), task_lane(app)):
            self._retries.pop(lane, None)

    def forget_except(self, apps: Collection[str], now: float) -> None:
        """Drop what concerns apps that are gone, and repairs of long ago."""
        for lane, retry in list(self._retries.items()):
            app = app_of(lane)
            gone = app is not None and app not in apps
            over = retry.reason == _REPEATED and not is_waiting(retry, now)
            # Its container may be gone for good; until then a restart that fails must wait longer each time.
            calm = is_restart_lane(lane) and now - retry.not_before > _CALM
            if gone or over or calm:
                del self._retries[lane]
        for key in [key for key, (_, last) in self._repairs.items() if now - last > _CALM]:
            del self._repairs[key]


def is_waiting(retry: Retry | None, now: float) -> bool:
    """Whether the next attempt is still to be waited for. A clock that went back does not make it longer than ever."""
    return retry is not None and now < retry.not_before <= now + LONGEST


def _delay(attempts: int) -> float:
    return min(LONGEST, FIRST * 2.0 ** (min(attempts, 20) - 1))
