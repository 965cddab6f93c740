"""A walk in which nothing changed asks the engine twice and starts one command: figures without a clock."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial

import pytest
from harness.host import Host, make_app_images
from harness.registry import Registry
from harness.waiting import eventually

from reconciler.cli import wiring
from reconciler.core import retention
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


@pytest.fixture
def registry(host: Host) -> Iterator[Registry]:
    """It has two versions of an app that were never pulled to this host."""
    made = Registry()
    made.start()
    make_app_images(host.engine, "away", ("1", "2"))
    for version in ("1", "2"):
        made.push(host.engine, f"away:{version}", f"shop:{version}")
        host.client.api.remove_image(f"away:{version}")
    yield made
    made.destroy()


def test_an_image_that_no_version_needs_goes_and_then_it_is_quiet(
    host: Host, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "KEPT", 1)
    before = {image["Id"] for image in host.client.api.images()}
    host.write_settings()
    made = wiring.Host(load_settings(host.config))
    made.prober.start()

    def deployed(reference: str) -> bool:
        converged = made.cycle.run().converged
        return converged and [c.attrs["Config"]["Labels"]["reconciler.image"] for c in host.containers()] == [reference]

    first, second = (f"{registry.host}/shop:{version}" for version in ("1", "2"))
    try:
        for reference in (first, second):
            host.deploy(image=reference, ingress=None)
            made.cycle.fetch()
            eventually(partial(deployed, reference), within=60, what=f"{reference} runs")
        (left,) = [image for image in host.client.api.images() if image["Id"] not in before]
        assert left["RepoTags"] == [second]
        assert before <= {image["Id"] for image in host.client.api.images()}
        calls = made.engine.calls.copy()
        assert made.cycle.run().converged
        assert (made.engine.calls - calls).keys() - {"GET /containers/ID/json"} == TWO_LISTS.keys()
    finally:
        made.prober.stop()
        assert made.apply.stop(20)
        made.engine.close()
        made.store.close()
