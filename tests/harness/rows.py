"""Clients that write rows without end, and know which of them were acknowledged: those must be there afterwards."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from http.client import HTTPConnection
from typing import Self

from harness.host import Host
from harness.python_image import PYTHON
from harness.rollouts import Fields, Rollouts, Scenario

_LEDGER = [PYTHON, "-I", "-S", "/app/ledger.py", "8080"]
LEDGER: Fields = {"command": [*_LEDGER, "/data/rows.db"], "volumes": ["ledger:/data"]}
"""On a volume, so that old has to stop before new starts."""
FORGETFUL: Fields = {"command": [*_LEDGER, "/tmp/rows.db"], "rollout": {"strategy": "recreate"}}  # noqa: S108  (that is what is wrong with it)
"""Somebody forgot the volume."""

_PAUSE = 0.01
_SULK = 0.1
"""Seconds until a client that was refused writes the next row."""
_RUN = itertools.count(1)


class Writers:
    """Clients that write a row after another to an app, each row once, whatever comes of it."""

    def __init__(self, host: Host, name: str, clients: int = 4) -> None:
        self._host, self._name = host, name
        self.acknowledged: list[tuple[float, str]] = []
        """When (monotonic seconds), and the row."""
        self.refused = 0
        self._end = threading.Event()
        run = next(_RUN)
        self._threads = [threading.Thread(target=self._work, args=(f"{run}-{number}",)) for number in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _work(self, prefix: str) -> None:
        for number in itertools.count():
            kept = self._write(f"{prefix}-{number}")
            if self._end.wait(_PAUSE if kept else _SULK):
                return

    def _write(self, row: str) -> bool:
        connection = HTTPConnection("127.0.0.1", self._host.http, timeout=40)
        try:
            connection.request("POST", f"/rows/{row}", headers={"Host": f"{self._name}.example.com"})
            answer = connection.getresponse()
            kept = answer.status == http.client.OK and answer.read() == f"kept {row}".encode()
        except (OSError, http.client.HTTPException):
            kept = False
        finally:
            connection.close()
        if kept:
            self.acknowledged.append((time.monotonic(), row))
        else:
            self.refused += 1
        return kept

    @property
    def longest_pause(self) -> float:
        """Seconds between two acknowledged rows, at most."""
        times = sorted(at for at, _ in self.acknowledged)
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    def lost(self) -> list[str]:
        """Acknowledged rows that are not there."""
        code, body = self._host.get("/rows", host=f"{self._name}.example.com")
        assert code == http.client.OK, f"{code} {body}"
        there = set(body.splitlines())
        return [row for _, row in self.acknowledged if row not in there]


def put_back(name: str) -> Scenario:
    """A version that exits at once: it is given up, and the old one comes back. Then the commit is taken back."""

    def scenario(lab: Rollouts) -> None:
        lab.upgrade(name, command=[PYTHON, "-I", "-S", "/app/sick.py", "exit", "8080"])
        lab.host.wait_reason("CrashLoop", name, within=90)
        lab.host.wait(lambda: lab.host.app(name)["health"] == "Healthy", what=f"the old {name} is healthy")
        lab.revert()
        lab.finish(name)

    return scenario


def killed_while_old_is_stopped(name: str) -> Scenario:
    """SIGKILL for the agent when old does not run any more."""

    def scenario(lab: Rollouts) -> None:
        (old,) = lab.host.containers(name)
        lab.upgrade(name)
        lab.host.wait(lambda: old.id not in {each.id for each in lab.host.containers(name)}, what=f"old {name} stops")
        lab.kill_agent()
        lab.finish(name)

    return scenario
