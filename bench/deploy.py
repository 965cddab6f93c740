"""From a commit to running containers, beside the same containers made by hand through the engine's API.

"By hand" is the same create and start, byte for byte the same settings, on an open connection, with nothing around
it. Both are timed in turns in one run, from the moment at which ``git push`` is done (or the first call is sent) to
the one at which the engine says that the container runs. The agent stands still while it is not its turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from harness.engine import PrivateEngine

from bench import lab
from bench.lab import RawEngine
from bench.measure import spread, table, wait

_ROUNDS_OF_ONE = 25
_ROUNDS_OF_FIFTY = 5
_FIFTY = 50
_WORKERS = 4
_OTHERS = 10
"""So many apps run already beside the one that is deployed."""


@dataclass(frozen=True, slots=True)
class _Round:
    ours: float
    by_hand: float
    before: float
    """Of ours: seconds from the commit to the first create call."""


def main() -> None:
    """Print the table."""
    with lab.engine() as private:
        one = _one_app(private)
        fifty = [_fifty_apps(private) for _ in range(_ROUNDS_OF_FIFTY)]
    head = ("work", "rounds", "reconciler, s", "raw API, s", "ratio of medians", "before the first call, s")
    table(
        "From a commit to running",
        head,
        [_row("a new version of one app", one), _row(f"{_FIFTY} apps from nothing", fifty)],
    )


def _row(what: str, rounds: Sequence[_Round]) -> tuple[object, ...]:
    ours, by_hand = [each.ours for each in rounds], [each.by_hand for each in rounds]
    ratio = statistics.median(ours) / statistics.median(by_hand)
    before = spread([each.before for each in rounds])
    return what, len(rounds), spread(ours), spread(by_hand), f"{ratio:.2f}", before


def _one_app(private: PrivateEngine) -> list[_Round]:
    raw = RawEngine(private)
    rounds = []
    with lab.host(private) as host:
        names = [f"other-{number}" for number in range(_OTHERS)]
        revision = host.commit({"fleet.yaml": lab.FLEET, **lab.apps(names)})
        with lab.agent(host) as pid:
            lab.converged(host, revision)
            for number in range(_ROUNDS_OF_ONE + 1):
                host.repository.write(lab.apps(["app"], environment={"ROUND": str(number)}))
                committed = lab.push(host)
                found = _running(raw, ["app"], after=committed)
                created, started = raw.times(found[0])
                lab.converged(host, host.repository.head)
                time.sleep(1.0)
                twin = raw.twin(found[0], host.network)
                with lab.still(pid):
                    began = time.time()
                    made = raw.create_and_start(twin)
                    by_hand = raw.times(made)[1] - began
                    raw.remove(made)
                time.sleep(0.5)
                if number:  # the first is for warming up
                    rounds.append(_Round(started - committed, by_hand, created - committed))
    raw.close()
    return rounds


def _fifty_apps(private: PrivateEngine) -> _Round:
    raw = RawEngine(private)
    with lab.host(private) as host:
        revision = host.commit({"fleet.yaml": lab.FLEET})
        with lab.agent(host) as pid:
            lab.converged(host, revision)
            time.sleep(1.0)
            names = [f"app-{number}" for number in range(_FIFTY)]
            host.repository.write(lab.apps(names))
            committed = lab.push(host)
            found = _running(raw, names)
            times = [raw.times(container) for container in found]
            ours = max(started for _, started in times) - committed
            lab.converged(host, host.repository.head)
            with lab.still(pid):
                by_hand = _by_hand(private, [raw.twin(container, host.network) for container in found])
    raw.close()
    return _Round(ours, by_hand, min(created for created, _ in times) - committed)


def _by_hand(private: PrivateEngine, twins: list[dict[str, object]]) -> float:
    connections = [RawEngine(private) for _ in range(_WORKERS)]

    def work(worker: int) -> list[str]:
        return [connections[worker].create_and_start(twin) for twin in twins[worker::_WORKERS]]

    began = time.time()
    with ThreadPoolExecutor(_WORKERS) as pool:
        made = [container for containers in pool.map(work, range(_WORKERS)) for container in containers]
    ended = max(connections[0].times(container)[1] for container in made)
    for container in made:
        connections[0].remove(container)
    for connection in connections:
        connection.close()
    return ended - began


def _running(raw: RawEngine, names: list[str], after: float = 0.0) -> list[str]:
    """Ids of the apps' newest containers, once all run. The engine is asked seldom, for it has other things to do."""
    found: dict[str, str] = {}

    def all_run() -> bool:
        for entry in raw.ask("GET", "/containers/json"):
            if entry["Created"] >= int(after):
                found[entry["Labels"].get("reconciler.app", "")] = entry["Id"]
        return set(names) <= found.keys()

    wait(f"{len(names)} apps run", all_run, every=0.5)
    return [found[name] for name in names]


if __name__ == "__main__":
    main()
