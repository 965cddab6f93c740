"""A walk in which nothing changed asks the engine twice and starts one command: figures without a clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from harness.host import Host
from harness.waiting import eventually

from reconciler.cli import wiring
from reconciler.settings import load_settings

SECRETS = {"file": "secrets.sops.yaml", "environment": ["API_TOKEN"]}
TWO_LISTS = {"GET /containers/json": 1, "GET /images/json": 1}
_COMMANDS: list[str] = []


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if event == "subprocess.Popen" and isinstance(arguments[1], list | tuple):
        _COMMANDS.append(" ".join(map(os.fsdecode, arguments[1])))
    elif event in {"os.posix_spawn", "os.fork", "os.system"}:
        _COMMANDS.append(event)


sys.addaudithook(_hear)  # hears whatever starts a command, whichever library it is


@pytest.fixture
def quiet(host: Host) -> Iterator[wiring.Host]:
    """A host on which all is well, with secrets, files, routes and apps of other hosts, and nobody to repair it."""
    host.commit(
        {
            "fleet.yaml": "kind: Fleet\nhosts: {web-1: {}, web-2: {}}\n",
            "apps/shop/app.yaml": host.manifest(
                secrets=SECRETS, files=[{"source": "settings.toml", "target": "/etc/shop.toml"}], replicas=2
            ),
            "apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "t0ken", "password": "s3cret"}),
            "apps/shop/settings.toml": "x = 1\n",
            "apps/other/app.yaml": host.manifest("other", depends_on=["shop"]),
            "apps/away/app.yaml": host.manifest("away", hosts=["web-2"]),
        }
    )
    host.sync()
    made = wiring.Host(load_settings(host.config))
    made.prober.start()
    made.cycle.fetch()
    eventually(lambda: made.cycle.run().converged, within=60, what="nothing is left to do")
    made.cycle.run()
    try:
        yield made
    finally:
        made.prober.stop()
        assert made.apply.stop(20)
        made.engine.close()
        made.store.close()


def test_a_quiet_walk_asks_two_lists_and_the_remote_and_nothing_else(quiet: wiring.Host) -> None:
    before = len(_COMMANDS)
    asked = []
    for _ in range(5):
        calls = quiet.engine.calls.copy()
        assert quiet.cycle.fetch()
        assert quiet.cycle.run().converged
        asked.append(quiet.engine.calls - calls)
    started = _COMMANDS[before:]
    assert [command for command in started if not command.startswith("git ls-remote ")] == []
    assert len(started) == 5
    # Young containers are inspected every five seconds; all that run here are.
    assert all(each.keys() - {"GET /containers/ID/json"} == TWO_LISTS.keys() for each in asked)
    assert TWO_LISTS in asked
