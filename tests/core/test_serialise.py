from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.model import Commit, Problem, Secret
from reconciler.core.observed import Container
from reconciler.core.serialise import host_status, plain, rfc3339, text
from reconciler.core.status import AppStatus, Condition, HostStatus, Revisions
from reconciler.core.target import ContainerSpec
from reconciler.errors import InvalidInput
from reconciler.protocols import HistoryEntry

AT = 1_793_697_342.123456

SHOP = AppStatus(
    name="shop",
    sync="OutOfSync",
    health="Progressing",
    reason="RollingOut",
    message="Version 3fa9c2d1 starts; 91bb0c11 goes on serving",
    revisions=Revisions("c" * 40, "c" * 40, "b" * 40),
    image="registry.example.com/shop:2.3.1",
    fingerprint="3fa9c2d1aabbccdd",
    replicas_desired=2,
    replicas_running=2,
    replicas_healthy=1,
    addresses=("10.201.0.3", "10.201.0.4"),
    conditions=(Condition("Ready", status=True, reason="Serving", message="", since=AT, revision="b" * 40),),
    applied_at=AT - 60,
)
HOST = HostStatus(
    host="web-1",
    version="1.0",
    at=AT,
    verdict="1 of 1 apps is rolling out",
    result="progressing",
    apps={"shop": SHOP},
    problems=(Problem("apps/shop/app.yaml", 3, 8, "unknown key 'imgae', did you mean 'image'?", "shop"),),
    commit=Commit("c" * 40, "Zoë <zoe@example.com>", "Übernimm 2.3.1", AT - 5),
    faults=(("GitUnavailable", "the remote did not answer within 30 s"),),
    last_fetch_at=AT - 1,
)


def test_a_status_survives_the_way_through_json() -> None:
    assert host_status(json.loads(text(HOST))) == HOST


def test_the_smallest_status_survives_too() -> None:
    bare = HostStatus(host="web-1", version="1", at=0.0, verdict="", result="failed")
    assert host_status(json.loads(text(bare))) == bare


words = st.text(max_size=8)
times = st.floats(min_value=1, max_value=4e9)


@given(
    words,
    times,
    st.dictionaries(words, st.builds(replace, st.just(SHOP), message=words, applied_at=times | st.none()), max_size=3),
    st.lists(st.tuples(words, words), max_size=3).map(tuple),
)
def test_any_status_survives(
    verdict: str, at: float, apps: dict[str, AppStatus], faults: tuple[tuple[str, str], ...]
) -> None:
    status = replace(HOST, verdict=verdict, at=at, apps=apps, faults=faults)
    assert host_status(json.loads(text(status))) == status


def test_keys_are_the_field_names_and_times_are_readable() -> None:
    data = json.loads(text(HOST))
    assert list(data)[:6] == ["host", "version", "at", "at_unix", "verdict", "result"]
    assert data["at"] == "2026-11-03T09:15:42.123Z"
    assert data["at_unix"] == AT
    assert datetime.fromisoformat(data["at"]).timestamp() == pytest.approx(AT, abs=0.001)
    shop = data["apps"]["shop"]
    assert shop["conditions"][0]["since"] == "2026-11-03T09:15:42.123Z"
    assert (shop["next_retry"], shop["next_retry_unix"]) == (None, None)
    assert shop["addresses"] == ["10.201.0.3", "10.201.0.4"]
    assert data["faults"] == [["GitUnavailable", "the remote did not answer within 30 s"]]
    assert data["commit"]["subject"] == "Übernimm 2.3.1"


def test_history_entries_are_served_alike() -> None:
    data = plain(HistoryEntry(at=AT, app="shop", event="deployed", duration=2.5))
    assert isinstance(data, dict)
    assert (data["at"], data["event"], data["duration"]) == ("2026-11-03T09:15:42.123Z", "deployed", 2.5)


@dataclass(frozen=True)
class Wraps:
    inner: object


SECRET = Secret(b"hunter2")


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        (SECRET,),
        [1, [SECRET]],
        {"key": SECRET},
        {SECRET: 1},
        frozenset({SECRET}),
        Wraps(SECRET),
        ContainerSpec(image="sha256:1", environment={"PASSWORD": SECRET}),
        Wraps({"a": (Wraps(SECRET),)}),
    ],
)
def test_a_secret_cannot_pass(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        text(value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", [b"hunter2", object(), {1: 2}, HostStatus, {b"hunter2": 1}])
def test_what_nobody_decided_on_cannot_pass(value: object) -> None:
    with pytest.raises(TypeError) as caught:
        text(value)
    assert "hunter2" not in str(caught.value)


def test_numbers_and_bytes_that_json_lacks() -> None:
    assert text([float("nan"), float("inf"), 1.5]) == "[null, null, 1.5]"
    assert json.loads(text("caf\udce9").encode()) == "caf\udce9"
    assert text(frozenset({"b", "a"})) == '["a", "b"]'
    assert plain(Container("c1", "n", "running", "i", 1.0, None, owned=False, address=None)) is not None


@pytest.mark.parametrize("at", [0.0, 1e20, -1e20, float("nan"), float("inf")])
def test_times_that_no_calendar_has(at: float) -> None:
    assert rfc3339(at) is None
    assert host_status(json.loads(text(replace(HOST, at=at)))).at == 0.0


def test_a_newer_agents_keys_are_ignored_and_an_older_ones_missing_keys_take_defaults() -> None:
    data = json.loads(text(HOST))
    data["weather"] = "fine"
    data["apps"]["shop"]["colour"] = "green"
    del data["prune_blocked"], data["apps"]["shop"]["conditions"]
    status = host_status(data)
    assert status.prune_blocked == 0
    assert status.apps["shop"].conditions == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"result": "exploded"}, "HostStatus.result"),
        ({"apps": []}, "HostStatus.apps"),
        ({"apps": {"shop": None}}, "AppStatus is not an object"),
        ({"host": 3}, "HostStatus.host"),
        ({"prune_blocked": True}, "HostStatus.prune_blocked"),
        ({"at_unix": "today"}, "HostStatus.at_unix"),
        ({"faults": [["only one"]]}, "HostStatus.faults"),
    ],
)
def test_what_is_no_status_is_refused_with_the_place(change: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        host_status(json.loads(text(HOST)) | change)
    assert caught.value.reason == "UnreadableStatus"


@pytest.mark.parametrize("data", [None, [], "x", {}, {"host": "web-1"}])
def test_anything_else_is_refused(data: object) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        host_status(data)
