"""What a look costs, and that nothing is overlooked for it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import docker
import pytest
from harness.engine import PrivateEngine
from harness.labs import KEY, NETWORK, SUBNET, claim
from harness.scripted_engine import ScriptedEngine, error
from harness.waiting import eventually

from reconciler.core import ownership
from reconciler.core.observed import EngineState, Limits
from reconciler.core.target import ContainerSpec
from reconciler.world.containers import DockerEngine, observation

LISTS = Counter({"GET /containers/json": 1, "GET /images/json": 1})
INSPECT = "GET /containers/ID/json"
NAME = "shop.1.3fa9c2d1"
MIB = 1024 * 1024


class Look:
    """Looks, and says which calls that took."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine

    def __call__(self) -> tuple[EngineState, Counter[str]]:
        before = Counter(self._engine.calls)
        return self._engine.observe(), self._engine.calls - before


# --- on a real engine


@pytest.fixture
def api(engine: PrivateEngine) -> Iterator[docker.APIClient]:
    client = engine.client()
    yield client.api
    for container in client.api.containers(all=True, quiet=True):
        client.api.remove_container(container["Id"], force=True)
    for network in client.api.networks(filters={"type": "custom"}):
        client.api.remove_network(network["Id"])
    client.close()


@pytest.fixture
def ours(engine: PrivateEngine, api: docker.APIClient) -> Iterator[DockerEngine]:  # noqa: ARG001  (cleans up after us)
    made = DockerEngine(engine.socket, NETWORK, SUBNET, KEY, ())
    made.ensure_network()
    yield made
    made.close()


@pytest.fixture(scope="module")
def image(engine: PrivateEngine) -> str:
    return engine.import_image("observation:1", changes=('CMD ["sleep", "1000"]',))


def run(ours: DockerEngine, image: str, slot: int = 1) -> str:
    made = ours.create(f"shop.{slot}.3fa9c2d1", f"10.211.0.{10 + slot}", claim(), ContainerSpec(image))
    ours.start(made)
    return made


def test_a_quiet_look_is_two_lists_and_gives_the_same_value(
    ours: DockerEngine, api: docker.APIClient, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "monotonic", lambda: 0.0)  # young ones are looked at again after five seconds
    for slot in (1, 2, 3):
        run(ours, image, slot)
    api.create_container(image, name="theirs")
    look = Look(ours)
    first, calls = look()
    assert len(first.containers) == 4
    assert calls[INSPECT] == 3, "each of ours once, others never"
    for _ in range(5):
        again, calls = look()
        assert calls == LISTS
        assert again is first


def test_only_what_changed_is_inspected(ours: DockerEngine, api: docker.APIClient, image: str) -> None:
    containers = [run(ours, image, slot) for slot in (1, 2, 3)]
    look = Look(ours)
    first, _ = look()
    api.pause(containers[1])
    second, calls = look()
    assert calls[INSPECT] == 1
    by_id = {container.id: container for container in second.containers}
    assert by_id[containers[1]].state == "paused"
    assert all(by_id[c.id] is c for c in first.containers if c.id != containers[1])


def test_what_a_list_does_not_show_is_seen_when_an_event_said_so(
    ours: DockerEngine, api: docker.APIClient, image: str
) -> None:
    container = run(ours, image)
    look = Look(ours)
    look()
    api.update_container(container, mem_limit=64 * MIB, memswap_limit=64 * MIB)
    state, calls = look()
    assert calls == LISTS
    assert state.containers[0].limits == Limits(None, 512 * MIB, 512, restart=True)
    ours.invalidate(container)
    state, calls = look()
    assert calls[INSPECT] == 1
    assert state.containers[0].limits == Limits(None, 64 * MIB, 512, restart=True)
    ours.invalidate("")
    assert look()[1][INSPECT] == 1
    assert look()[1] == LISTS


def test_an_event_that_was_missed_is_made_up_for(
    ours: DockerEngine, api: docker.APIClient, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    containers = {run(ours, image, slot) for slot in range(1, 6)}
    look = Look(ours)
    passed = [0.0]
    monkeypatch.setattr(observation, "monotonic", lambda: time.monotonic() + passed[0])
    look()
    for container in containers:
        api.update_container(container, mem_limit=64 * MIB, memswap_limit=64 * MIB)
    passed[0] = 6  # they are young, so they are looked at more often
    state, calls = look()
    assert calls[INSPECT] == 5
    assert {container.limits and container.limits.memory for container in state.containers} == {64 * MIB}


def test_a_look_at_the_network_costs_no_call_while_something_runs_in_it(
    ours: DockerEngine, api: docker.APIClient, image: str
) -> None:
    look = Look(ours)
    assert look()[1][f"GET /networks/{NETWORK}"] == 1
    container = run(ours, image)
    look()
    assert look()[1] == LISTS
    api.stop(container, timeout=1)
    state, calls = look()
    assert calls[f"GET /networks/{NETWORK}"] == 1, "nothing proves that it is still there"
    assert state.network


def test_what_was_restarted_behind_our_back_is_inspected(ours: DockerEngine, api: docker.APIClient, image: str) -> None:
    container = run(ours, image)
    look = Look(ours)
    before, _ = look()
    api.restart(container, timeout=1)
    ours.invalidate(container)
    after, _ = look()
    assert after.containers[0].started_at > before.containers[0].started_at
    assert after.containers[0].pid != before.containers[0].pid


def test_images_that_come_and_go_are_seen(ours: DockerEngine, engine: PrivateEngine, api: docker.APIClient) -> None:
    before = ours.observe()
    identity = engine.import_image("registry.example.com/team/shop:2.3.1")
    assert ours.observe().images["registry.example.com/team/shop:2.3.1"] == identity
    api.remove_image(identity)
    eventually(lambda: dict(ours.observe().images) == dict(before.images))


# --- on paper: ages, other versions' shapes, and races


def listed(number: int, status: str, **changes: Any) -> dict[str, Any]:
    """A list entry of 20.10."""
    name = f"shop.{number}.3fa9c2d1"
    return {
        "Id": f"{number:064x}",
        "Names": [f"/{name}"],
        "Image": "shop:1",
        "ImageID": "sha256:1",
        "Created": 1_795_254_391,
        "Ports": [],
        "Labels": ownership.labels(name, claim(), KEY),
        "State": "running" if status.startswith("Up") else status.split(maxsplit=1)[0].lower(),
        "Status": status,
        "HostConfig": {"NetworkMode": NETWORK},
        "NetworkSettings": {
            "Networks": {
                NETWORK: {
                    "IPAMConfig": {"IPv4Address": f"10.211.0.{number}"},
                    "NetworkID": "n1",
                    "IPAddress": f"10.211.0.{number}" if status.startswith("Up") else "",
                }
            }
        },
        "Mounts": [],
        **changes,
    }


def inspected(**changes: Any) -> dict[str, Any]:
    return {
        "State": {"StartedAt": "2026-11-21T09:30:00.123456789Z", "ExitCode": 0, "Pid": 7, "Error": "", **changes},
        "RestartCount": 0,
        "HostConfig": {"NanoCpus": 0, "Memory": 0, "PidsLimit": None, "RestartPolicy": {"Name": ""}},
    }


class Paper:
    """An engine that lists what it is told."""

    def __init__(self, scripted: ScriptedEngine, ours: DockerEngine) -> None:
        self._scripted = scripted
        self.look = Look(ours)
        network = {"Name": NETWORK, "Id": "n1", "IPAM": {"Config": [{"Subnet": SUBNET}]}}
        scripted.answers = {
            "GET /images/json": lambda: (200, []),
            f"GET /networks/{NETWORK}": lambda: (200, network),
        }

    def now(self, *entries: dict[str, Any], details: dict[str, Any] | None = None) -> tuple[EngineState, int]:
        """The state, and how many inspects that took."""
        self._scripted.answers["GET /containers/json"] = lambda: (200, list(entries))
        for entry in entries:
            self._scripted.answers[f"GET /containers/{entry['Id']}/json"] = lambda: (200, details or inspected())
        state, calls = self.look()
        return state, calls[INSPECT]


@pytest.fixture
def paper() -> Iterator[Paper]:
    with ScriptedEngine({}) as scripted:
        ours = DockerEngine(scripted.socket, NETWORK, SUBNET, KEY, ())
        yield Paper(scripted, ours)
        ours.close()


def test_an_age_that_grows_is_no_change(paper: Paper) -> None:
    assert paper.now(listed(1, "Up 2 minutes"))[1] == 1
    for status in (
        "Up 3 minutes", "Up 59 minutes", "Up About an hour", "Up 2 hours", "Up 47 hours", "Up 2 days",
        "Up 13 days", "Up 2 weeks", "Up 8 weeks", "Up 2 months", "Up 23 months", "Up 2 years",
    ):  # fmt: skip
        assert paper.now(listed(1, status))[1] == 0, status


@pytest.mark.parametrize("status", ["Up 3 minutes", "Up 59 seconds", "Up Less than a second", "Up About a minute"])
def test_an_age_that_shrinks_is_another_run(paper: Paper, status: str) -> None:
    paper.now(listed(1, "Up 2 hours"))
    state, inspects = paper.now(listed(1, status), details=inspected(Pid=8))
    assert inspects == 1
    assert state.containers[0].pid == 8


def test_what_ended_again_is_seen_though_it_looks_the_same(paper: Paper) -> None:
    paper.now(listed(1, "Exited (1) 2 hours ago"))
    assert paper.now(listed(1, "Exited (1) 3 hours ago"))[1] == 0
    assert paper.now(listed(1, "Exited (1) 2 minutes ago"))[1] == 1
    state, inspects = paper.now(listed(1, "Exited (137) 2 minutes ago"))
    assert inspects == 1
    assert state.containers[0].exit_code == 137


def test_everything_is_inspected_again_after_five_minutes_but_not_at_once(
    paper: Paper, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(observation, "monotonic", lambda: now[0])
    entries = [listed(number, "Up 2 hours") for number in range(1, 101)]
    assert paper.now(*entries)[1] == 100
    inspects = []
    for now[0] in range(1010, 1310, 10):
        inspects.append(paper.now(*entries)[1])
    assert sum(inspects[:22]) == 0, "the first 220 s are quiet"
    assert sum(inspects) == 100
    assert max(inspects) < 40


def test_a_container_that_vanishes_between_list_and_inspect_is_not_there(paper: Paper) -> None:
    paper.now(listed(1, "Up 2 hours"))
    gone = listed(2, "Up 2 seconds")
    scripted = paper._scripted  # noqa: SLF001  (of this file)
    scripted.answers["GET /containers/json"] = lambda: (200, [listed(1, "Up 2 hours"), gone])
    scripted.answers[f"GET /containers/{gone['Id']}/json"] = error(404, "No such container")
    state, _ = paper.look()
    assert [container.name for container in state.containers] == [NAME]


def test_the_shapes_of_several_versions_are_read(paper: Paper) -> None:
    entries = [
        # 29: the health stands beside the status, too, and new fields are there
        listed(1, "Up 2 hours (healthy)", Health={"Status": "healthy"}, ImageManifestDescriptor={"digest": "x"}),
        listed(2, "Up 5 seconds (health: starting)"),
        listed(3, "Up 3 minutes (unhealthy)"),
        listed(4, "Up 2 hours (Paused)", State="paused"),
        listed(5, "Restarting (127) Less than a second ago"),
        listed(6, "Created", NetworkSettings={"Networks": {NETWORK: {"IPAMConfig": None, "IPAddress": ""}}}),
        listed(7, "Dead"),
        listed(8, "Removal In Progress", State="removing"),
        # while it is removed it may have no name, and without networks the engine says null
        listed(9, "Exited (0) 3 weeks ago", Names=None, Labels=None, Ports=None, NetworkSettings=None),
        listed(10, "Up 1 second", Names=["/web/alias", "/shop.10.3fa9c2d1"]),
        listed(11, "Up 5 minutes", State="of a later engine"),
    ]
    state, _ = paper.now(*entries)
    facts = [
        (c.name.removesuffix(".3fa9c2d1"), c.state, c.engine_health, c.exit_code, c.address) for c in state.containers
    ]
    assert facts == [
        ("shop.1", "running", "healthy", None, "10.211.0.1"),
        ("shop.2", "running", "starting", None, "10.211.0.2"),
        ("shop.3", "running", "unhealthy", None, "10.211.0.3"),
        ("shop.4", "paused", "none", None, "10.211.0.4"),
        ("shop.5", "restarting", "none", 127, "10.211.0.5"),
        ("shop.6", "created", "none", None, None),
        ("shop.7", "dead", "none", 0, "10.211.0.7"),
        ("shop.8", "removing", "none", None, "10.211.0.8"),
        (f"{9:064x}"[:12], "exited", "none", 0, None),
        ("shop.10", "running", "none", None, "10.211.0.10"),
        ("shop.11", "dead", "none", 0, "10.211.0.11"),
    ]


def test_ports_in_another_order_are_no_change(paper: Paper) -> None:
    ports = [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},  # noqa: S104  (as docker lists it)
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 9000, "Type": "tcp"},
        {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 53, "Type": "udp"},
    ]
    state, _ = paper.now(listed(1, "Up 2 hours", Ports=ports))
    assert state.containers[0].host_ports == (("tcp", 8080), ("udp", 53))
    again, inspects = paper.now(listed(1, "Up 2 hours", Ports=ports[::-1]))
    assert inspects == 0
    assert again is state


@pytest.mark.parametrize(
    ("host", "limits"),
    [
        (
            {
                "NanoCpus": 1_500_000_000,
                "Memory": 64 * MIB,
                "PidsLimit": 20,
                "RestartPolicy": {"Name": "unless-stopped"},
            },
            Limits(1.5, 64 * MIB, 20, restart=True),
        ),
        (
            {"NanoCpus": 1_999_999_999, "PidsLimit": -1, "RestartPolicy": {"Name": "no"}},
            Limits(None, 0, 0, restart=False),
        ),
        (
            {"CpuQuota": 50_000, "CpuPeriod": 100_000, "RestartPolicy": {"Name": "always"}},
            Limits(0.5, 0, 0, restart=True),
        ),
        (
            {"CpuQuota": 50_000, "CpuPeriod": 0, "RestartPolicy": {"Name": "on-failure"}},
            Limits(0.5, 0, 0, restart=False),
        ),
        ({"CpuQuota": -1, "RestartPolicy": None}, Limits(None, 0, 0, restart=False)),
    ],
)
def test_limits_are_read_however_they_were_set(paper: Paper, host: dict[str, Any], limits: Limits) -> None:
    details = inspected()
    details["HostConfig"] = host
    assert paper.now(listed(1, "Up 2 hours"), details=details)[0].containers[0].limits == limits


def test_an_error_in_the_middle_loses_nothing(paper: Paper) -> None:
    entry = listed(1, "Up 2 hours")
    before, _ = paper.now(entry)
    scripted = paper._scripted  # noqa: SLF001  (of this file)
    changed = listed(1, "Up 2 hours (unhealthy)")
    scripted.answers["GET /containers/json"] = lambda: (200, [changed])
    scripted.answers[f"GET /containers/{entry['Id']}/json"] = error(500, "busy")
    with pytest.raises(Exception, match="busy"):
        paper.look()
    after, inspects = paper.now(changed)
    assert inspects == 1
    assert after.containers[0].engine_health == "unhealthy"
    assert before.containers[0].engine_health == "none"
