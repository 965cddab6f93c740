"""A walk in which nothing has changed: what it asks, what it starts, what it costs.

Apps that belong to this host run on a real engine. All other manifests name another host, as in a repository that a
fleet shares. The walk is the agent's own, in this process, so that calls and commands can be counted; it asks the
remote each time, as a poll does.
"""

from __future__ import annotations

import statistics
from collections import Counter

from harness.host import Host

from bench import lab
from bench.measure import Commands, cpu, table, wait
from reconciler.cli import wiring
from reconciler.settings import load_settings

_CASES = ((10, 10), (100, 10), (1000, 10), (100, 100), (1000, 100))
"""(manifests, of which on this host)."""
_WALKS = 60
_SEALED = 10
"""So many of this host's apps have a SOPS file."""


def main() -> None:
    """Print the table."""
    commands = Commands()
    rows = []
    with lab.engine() as private, lab.host(private) as host:
        for manifests, here in _CASES:
            _commit(host, manifests, here)
            host.reconciler("sync", "--timeout", "280", timeout=300, expect=None)
            rows.append((manifests, here, *_measure(host, commands)))
    head = ("manifests", "apps here", "walk, CPU ms", "ls-remote in us", "in git", "commands", "Docker calls")
    table(f"A walk in which nothing changed (medians of {_WALKS})", head, rows)


def _commit(host: Host, manifests: int, here: int) -> None:
    files: dict[str, str | bytes | None] = {"fleet.yaml": lab.FLEET}
    names = [f"app-{number}" for number in range(here)]
    for name in names[:_SEALED]:
        files[f"apps/{name}/app.json"] = lab.manifest(name, hosts=["web-1"], secrets={"file": "s.sops.yaml"})
        if not (host.repository.work / f"apps/{name}/s.sops.yaml").exists():
            files[f"apps/{name}/s.sops.yaml"] = host.smith.yaml({"TOKEN": "secret"})
    files |= lab.apps(names[_SEALED:], hosts=["web-1"])
    files |= lab.apps([f"away-{number}" for number in range(manifests - here)], hosts=["web-2"])
    for path in (host.repository.work / "apps").glob("*/app.json"):
        files.setdefault(str(path.relative_to(host.repository.work)), None)
    host.commit(files)


def _measure(host: Host, commands: Commands) -> tuple[object, ...]:
    made = wiring.Host(load_settings(host.config))
    made.prober.start()
    cycle = made.cycle
    try:
        _settle(made)
        walks, ours, gits = [], [], []
        calls, seen = Counter(made.engine.calls), len(commands.seen)
        for _ in range(_WALKS):
            began = cpu()
            cycle.fetch()
            fetched = cpu()
            cycle.run()
            ended = cpu()
            walks.append(ended[0] - fetched[0])
            ours.append(fetched[0] - began[0])
            gits.append(ended[1] - began[1])
        asked = {call: count / _WALKS for call, count in (made.engine.calls - calls).items()}
        started = Counter(" ".join(each.split()[:2]) for each in commands.seen[seen:])
    finally:
        made.prober.stop()
        made.apply.stop(5)
        made.engine.close()
        made.store.close()
    return (
        *(statistics.median(each) for each in (walks, ours, gits)),
        ", ".join(f"{count / _WALKS:g} {command}" for command, count in started.items()),
        ", ".join(f"{count:g} {call}" for call, count in asked.items()),
    )


def _settle(host: wiring.Host) -> None:
    """Walk until nothing is to be done, and everything that is remembered is."""
    host.cycle.fetch()
    wait("the walk is quiet", lambda: host.cycle.run().converged)
    for _ in range(5):
        host.cycle.run()


if __name__ == "__main__":
    main()
