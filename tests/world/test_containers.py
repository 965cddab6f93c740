"""What the plan may rely on. The same tests on a real Docker Engine and on the one in memory, so that it cannot lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness.engine import PrivateEngine
from harness.labs import FakeLab, Lab, RealLab, claim, seen
from harness.registry import PASSWORD, USERNAME, Registry
from harness.waiting import eventually

from reconciler.core.images import normalise, repository_of
from reconciler.core.model import PublishedPort, Secret
from reconciler.core.observed import Limits
from reconciler.core.target import ContainerSpec, HealthCommand, Mount
from reconciler.errors import Failed, ReconcilerError, Refused, Unavailable

NAME = "shop.1.3fa9c2d1"
ADDRESS = "10.211.0.10"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def registry() -> Iterator[Callable[[bool], Registry]]:
    started: dict[bool, Registry] = {}

    def get(password: bool) -> Registry:  # noqa: FBT001  (with one or without)
        if password not in started:
            started[password] = Registry(password=password)
            started[password].start()
        return started[password]

    yield get
    for each in started.values():
        each.destroy()


@pytest.fixture(params=["fake", "real"])
def lab(request: pytest.FixtureRequest, registry: Callable[[bool], Registry]) -> Iterator[Lab]:
    made: Lab
    if request.param == "fake":
        made = FakeLab()
    else:
        private: PrivateEngine = request.getfixturevalue("engine")
        made = RealLab(private, registry)
    made.engine.ensure_network()
    try:
        yield made
    finally:
        made.close()


def run(lab: Lab, spec: ContainerSpec | None = None, *, name: str = NAME, address: str = ADDRESS) -> str:
    container = lab.engine.create(name, address, claim(), spec or ContainerSpec(lab.image))
    lab.engine.start(container)
    return container


def names(lab: Lab) -> list[str]:
    return [container.name for container in lab.engine.observe().containers]


def refusal(call: Callable[[], object], kind: type[ReconcilerError]) -> ReconcilerError:
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind or issubclass(type(caught.value), kind)
    return caught.value


# --- the life of a container


def test_a_container_is_created_started_stopped_and_removed(lab: Lab) -> None:
    made = lab.engine.create(NAME, ADDRESS, claim(image="1a2b"), ContainerSpec(lab.image))
    created = seen(lab, made)
    assert (created.name, created.state, created.address, created.owned) == (NAME, "created", ADDRESS, True)
    assert created.claim == claim(image="1a2b")
    assert created.image == lab.image
    assert created.started_at == 0
    assert created.exit_code is None

    lab.engine.start(made)
    running = seen(lab, made)
    assert (running.state, running.address, running.engine_health) == ("running", ADDRESS, "none")
    assert running.started_at >= created.created_at > 0
    assert running.pid > 0
    assert running.limits == Limits(cpus=None, memory=512 * MIB, pids=512, restart=True)
    lab.engine.start(made)  # twice is no error

    lab.engine.stop(made, 5)
    stopped = seen(lab, made)
    assert (stopped.state, stopped.exit_code, stopped.pid) == ("exited", 143, 0)
    assert stopped.address == ADDRESS, "it will ask for it again"

    lab.engine.remove(made)
    assert names(lab) == []


def test_what_is_stopped_or_gone_can_be_stopped_and_removed_again(lab: Lab) -> None:
    made = run(lab)
    lab.engine.stop(made, 5)
    lab.engine.stop(made, 5)
    lab.engine.remove(made)
    lab.engine.stop(made, 5)
    lab.engine.remove(made)
    assert lab.engine.connections(made) == 0


def test_what_has_vanished_cannot_be_started(lab: Lab) -> None:
    made = run(lab)
    lab.vanish(made)
    assert names(lab) == []
    assert refusal(lambda: lab.engine.start(made), Unavailable).reason == "ContainerGone"


def test_what_runs_is_not_removed(lab: Lab) -> None:
    made = run(lab)
    refusal(lambda: lab.engine.remove(made), Unavailable)
    assert seen(lab, made).state == "running"


def test_volumes_are_made_and_survive_their_containers(lab: Lab) -> None:
    made = run(lab, ContainerSpec(lab.image, mounts=(Mount("volume", "shop-data", "/data", read_only=False),)))
    lab.engine.stop(made, 5)
    lab.engine.remove(made)
    assert lab.volumes() == {"shop-data"}
    run(lab, ContainerSpec(lab.image, mounts=(Mount("volume", "shop-data", "/data", read_only=True),)))


def test_a_volume_of_before_is_taken_over_when_nobody_else_uses_it(lab: Lab) -> None:
    lab.add_volume("shop-data")
    spec = ContainerSpec(lab.image, mounts=(Mount("volume", "shop-data", "/data", read_only=False),))
    lab.engine.start(made := lab.engine.create(NAME, ADDRESS, claim(), spec))
    lab.engine.stop(made, 5)
    lab.engine.create("shop.2.3fa9c2d1", "10.211.0.11", claim(), spec)  # our own use of it bars nobody


@pytest.mark.parametrize("how", [{"owner": "bank"}, {"elsewhere": True}, {"user": "old-shop"}], ids=str)
def test_a_volume_that_is_not_the_apps_is_refused(lab: Lab, how: dict[str, Any]) -> None:
    lab.add_volume("data", **how)
    spec = ContainerSpec(lab.image, mounts=(Mount("volume", "data", "/data", read_only=True),))
    error = refusal(lambda: run(lab, spec), Refused)
    assert error.reason == "ForeignVolume"
    assert "'data'" in error.message
    assert NAME not in names(lab)
    assert "data" in lab.volumes()


# --- whose it is


def test_labels_that_an_image_or_a_person_copied_prove_nothing(lab: Lab) -> None:
    ours = run(lab)
    copy = lab.foreign("shop.2.3fa9c2d1", labels=lab.labels_of(ours))
    assert seen(lab, ours).owned
    assert not seen(lab, copy).owned
    assert seen(lab, copy).claim == claim()
    assert refusal(lambda: lab.engine.remove(copy), Refused).reason == "NotOwned"
    assert refusal(lambda: lab.engine.stop(copy, 5), Refused).reason == "NotOwned"
    assert seen(lab, copy).state == "running"


def test_a_container_that_was_renamed_is_not_ours_any_more(lab: Lab) -> None:
    made = run(lab)
    lab.rename(made, "precious")
    assert not seen(lab, made).owned
    assert seen(lab, made).name == "precious"
    assert refusal(lambda: lab.engine.remove(made), Refused).reason == "NotOwned"


def test_a_container_of_another_host_or_of_a_lost_key_is_not_ours(lab: Lab) -> None:
    made = run(lab)
    other = lab.with_key(b"another" * 5)
    (container,) = other.observe().containers
    assert (container.claim, container.owned) == (claim(), False)
    assert refusal(lambda: other.remove(made), Refused).reason == "NotOwned"
    assert seen(lab, made).owned


def test_foreign_containers_are_seen_with_what_they_hold(lab: Lab, free_port: Callable[[], int]) -> None:
    port = free_port()
    lab.foreign("theirs", address="10.211.0.77", port=port)
    lab.foreign("elsewhere")
    seen_by_name = {container.name: container for container in lab.engine.observe().containers}
    theirs, elsewhere = seen_by_name["theirs"], seen_by_name["elsewhere"]
    assert (theirs.claim, theirs.owned, theirs.state) == (None, False, "running")
    assert (theirs.address, theirs.host_ports) == ("10.211.0.77", (("tcp", port),))
    assert elsewhere.address is None


# --- what stands in the way


def test_a_foreign_container_with_our_name_is_refused_and_named(lab: Lab) -> None:
    holder = lab.foreign(NAME)
    error = refusal(lambda: run(lab), Refused)
    assert error.reason == "NameTaken"
    assert NAME in error.message
    assert seen(lab, holder).state == "running"


def test_our_own_container_of_that_name_is_a_race_that_the_next_look_settles(lab: Lab) -> None:
    run(lab)
    assert refusal(lambda: run(lab, address="10.211.0.11"), Unavailable).reason == "NameTaken"


def test_a_taken_address_is_refused_and_its_holder_named(lab: Lab) -> None:
    lab.foreign("theirs", address=ADDRESS)
    error = refusal(lambda: run(lab), Refused)
    assert error.reason == "AddressTaken"
    assert "theirs" in error.message


def test_an_address_that_was_seen_taken_is_refused_before_anything_is_made(lab: Lab) -> None:
    lab.foreign("theirs", address=ADDRESS)
    lab.engine.observe()
    assert refusal(lambda: run(lab), Refused).reason == "AddressTaken"
    assert names(lab) == ["theirs"]


def test_an_address_that_has_become_free_can_be_taken(lab: Lab) -> None:
    holder = lab.foreign("theirs", address=ADDRESS)
    lab.engine.observe()
    lab.vanish(holder)
    assert seen(lab, run(lab)).address == ADDRESS


def test_a_port_held_by_a_container_is_refused_and_the_container_named(lab: Lab, free_port: Callable[[], int]) -> None:
    port = free_port()
    lab.foreign("theirs", port=port)
    spec = ContainerSpec(lab.image, ports=(PublishedPort(port, 8080, address="127.0.0.1"),))
    error = refusal(lambda: run(lab, spec), Refused)
    assert error.reason == "PortTaken"
    assert f"{port}/tcp" in error.message
    assert "the container theirs" in error.message


def test_a_port_held_by_a_process_is_refused(lab: Lab, free_port: Callable[[], int]) -> None:
    port = free_port()
    lab.take_port(port)
    made = lab.engine.create(
        NAME, ADDRESS, claim(), ContainerSpec(lab.image, ports=(PublishedPort(port, 8080, address="127.0.0.1"),))
    )
    error = refusal(lambda: lab.engine.start(made), Refused)
    assert error.reason == "PortTaken"
    assert "a process outside Docker" in error.message
    failed = seen(lab, made)
    assert (failed.state, failed.host_ports) == ("created", ())
    assert failed.error


def test_a_published_port_is_seen(lab: Lab, free_port: Callable[[], int]) -> None:
    port = free_port()
    made = run(lab, ContainerSpec(lab.image, ports=(PublishedPort(port, 8080, address="127.0.0.1"),)))
    assert seen(lab, made).host_ports == (("tcp", port),)


def test_an_image_that_is_gone_is_said_so(lab: Lab) -> None:
    error = refusal(lambda: run(lab, ContainerSpec("sha256:" + "0" * 64)), Unavailable)
    assert error.reason == "ImageMissing"


# --- what happens to it


def test_restarts_after_a_crash_are_counted(lab: Lab) -> None:
    made = run(lab)
    before = seen(lab, made)
    for count in (1, 2):
        lab.crash(made)

        def restarted(count: int = count) -> bool:
            container = seen(lab, made)
            return container.restarts == count and container.state == "running"

        eventually(restarted, within=30)
    after = seen(lab, made)
    assert after.started_at > before.started_at
    assert not after.oom_killed


def test_the_exit_code_of_what_must_not_restart_is_seen(lab: Lab) -> None:
    made = run(lab, ContainerSpec(lab.image, restart=False))
    lab.crash(made)
    eventually(lambda: seen(lab, made).state == "exited")
    ended = seen(lab, made)
    assert (ended.exit_code, ended.restarts, ended.oom_killed) == (137, 0, False)
    assert ended.finished_at > ended.started_at > 0


def test_running_out_of_memory_is_seen(lab: Lab) -> None:
    ended = seen(lab, lab.run_out_of_memory(NAME, ADDRESS))
    assert (ended.state, ended.oom_killed) == ("exited", True)
    assert ended.exit_code not in {0, None}


def test_the_healthcheck_is_seen(lab: Lab) -> None:
    test = ("sh", "-c", "test -e /tmp/healthy && echo it is there")
    probe = HealthCommand(test, interval=0.2, timeout=5, retries=1, start_period=0)
    made = run(lab, ContainerSpec(lab.image, health=probe))
    eventually(lambda: seen(lab, made).engine_health == "healthy")
    lab.set_health(made, healthy=False)
    eventually(lambda: seen(lab, made).engine_health == "unhealthy")
    lab.set_health(made, healthy=True)
    eventually(lambda: seen(lab, made).engine_health == "healthy")
    assert lab.engine.checked(made) == "it is there\n"
    assert lab.engine.checked(run(lab, name="shop.2.3fa9c2d1", address="10.211.0.11")) == ""


def test_a_paused_container_goes_on(lab: Lab) -> None:
    made = run(lab)
    lab.pause(made)
    assert seen(lab, made).state == "paused"
    lab.engine.unpause(made)
    assert seen(lab, made).state == "running"
    lab.engine.unpause(made)  # twice is no error


def test_a_paused_container_can_be_stopped(lab: Lab) -> None:
    made = run(lab)
    lab.pause(made)
    lab.engine.stop(made, 5)
    assert seen(lab, made).state == "exited"


def test_a_disconnected_container_comes_back_at_its_address(lab: Lab) -> None:
    made = run(lab)
    lab.disconnect(made)
    assert seen(lab, made).address is None
    lab.engine.connect(made, ADDRESS)
    assert seen(lab, made).address == ADDRESS
    lab.engine.connect(made, "10.211.0.99")
    assert seen(lab, made).address == "10.211.0.99"


def test_a_disconnected_container_does_not_take_the_address_of_another(lab: Lab) -> None:
    made = run(lab)
    lab.disconnect(made)
    lab.foreign("theirs", address=ADDRESS)
    error = refusal(lambda: lab.engine.connect(made, ADDRESS), Refused)
    assert error.reason == "AddressTaken"
    assert "theirs" in error.message


def test_limits_are_changed_while_it_runs_and_taken_away_again(lab: Lab) -> None:
    made = run(lab, ContainerSpec(lab.image, cpus=0.5, memory=64 * MIB, pids=50))
    assert seen(lab, made).limits == Limits(0.5, 64 * MIB, 50, restart=True)
    for limits in (
        Limits(0.25, 128 * MIB, 20, restart=False),
        Limits(None, 32 * MIB, 100, restart=True),
        Limits(1.5, 64 * MIB, 50, restart=True),
    ):
        lab.engine.update(made, limits)
        assert seen(lab, made).limits == limits
    assert seen(lab, made).state == "running"


def test_what_was_stopped_by_hand_starts_again(lab: Lab) -> None:
    made = run(lab)
    lab.stop_by_hand(made)
    assert seen(lab, made).state == "exited"
    lab.engine.start(made)
    assert seen(lab, made).state == "running"


def test_the_last_lines_of_the_log_are_read(lab: Lab) -> None:
    made = run(lab)
    lab.say(made, "one\ntwo\nthree\n")
    eventually(lambda: lab.engine.logs(made, 10) == "one\ntwo\nthree\n")
    assert lab.engine.logs(made, 2) == "two\nthree\n"


# --- images


def test_images_are_found_by_the_name_that_a_manifest_may_write(lab: Lab) -> None:
    reference = lab.publish("shop:1")
    lab.engine.pull(reference, None)
    images = lab.engine.observe().images
    assert images[normalise(reference)] in images.values()


def test_an_image_is_pulled(lab: Lab) -> None:
    reference = lab.publish("shop:1")
    assert reference not in lab.engine.observe().images
    image = lab.engine.pull(reference, None)
    assert lab.engine.observe().images[reference] == image
    run(lab, ContainerSpec(image))


def test_an_image_is_pulled_with_a_password(lab: Lab) -> None:
    reference = lab.publish("shop:1", password=True)
    credentials = (USERNAME, Secret(PASSWORD.encode()))
    image = lab.engine.pull(reference, credentials)
    assert lab.engine.observe().images[reference] == image


@pytest.mark.parametrize("credentials", [None, (USERNAME, Secret(b"guessed"))], ids=["none", "wrong"])
def test_a_wrong_or_missing_password_is_denied(lab: Lab, credentials: tuple[str, Secret] | None) -> None:
    reference = lab.publish("shop:1", password=True)
    error = refusal(lambda: lab.engine.pull(reference, credentials), Failed)
    assert error.reason == "RegistryDenied"
    assert "guessed" not in str(error)
    assert reference not in lab.engine.observe().images


def test_an_unknown_image_or_tag_is_said_so(lab: Lab) -> None:
    lab.publish("shop:1")
    for name in ("shop:2", "nothing:1"):
        error = refusal(lambda name=name: lab.engine.pull(lab.reference(name), None), Failed)  # type: ignore[misc]
        assert error.reason == "ImageNotFound"
        assert name in error.message


def test_a_registry_that_is_down_is_tried_again_later(lab: Lab) -> None:
    reference = lab.unreachable()
    assert refusal(lambda: lab.engine.pull(reference, None), Unavailable).reason == "RegistryUnavailable"


def test_an_image_that_was_pulled_goes_with_all_its_names(lab: Lab) -> None:
    reference = lab.publish_new("shop:7")
    before = lab.engine.images()
    image = lab.engine.pull(reference, None)
    assert lab.engine.images() == before | {image}
    lab.engine.collect_image(image, {reference})
    assert lab.engine.images() == before
    assert image not in lab.engine.observe().images.values()
    lab.engine.collect_image(image, {reference})  # twice is no error
    assert lab.engine.pull(reference, None) == image


def test_an_image_whose_tag_has_moved_goes_and_its_successor_stays(lab: Lab) -> None:
    pulled = [lab.engine.pull(lab.publish_new("shop:8"), None) for _ in range(2)]
    reference = lab.reference("shop:8")
    names = [name for name, image in lab.engine.observe().images.items() if image == pulled[0]]
    assert len(names) == 1
    assert names[0].startswith(f"{repository_of(reference)}@sha256:")
    lab.engine.collect_image(pulled[0], {reference})
    assert pulled[0] not in lab.engine.images()
    assert lab.engine.observe().images[reference] == pulled[1]


def test_an_image_that_was_pulled_by_several_names_goes_when_all_are_ours(lab: Lab) -> None:
    reference, same, other = lab.publish_new("shop:9"), lab.reference("shop:stable"), lab.reference("prod/shop:9")
    image = lab.engine.pull(reference, None)
    lab.tag(image, same)
    lab.tag(image, other)
    everything = lab.engine.observe().images
    for names in ({reference}, {reference, same}):
        assert refusal(lambda names=names: lab.engine.collect_image(image, names), Refused).reason == "ImageInUse"  # type: ignore[misc]
    assert lab.engine.observe().images == everything
    lab.engine.collect_image(image, {reference, same, other})
    assert image not in lab.engine.images()


@pytest.mark.parametrize("tags", [1, 2])
def test_an_image_of_which_a_container_was_made_is_left_as_it_is(lab: Lab, tags: int) -> None:
    reference, same = lab.publish_new("shop:10"), lab.reference("shop:stable")
    image = lab.engine.pull(reference, None)
    if tags > 1:
        lab.tag(image, same)
    lab.use(image, "somebody")
    everything = lab.engine.observe().images
    error = refusal(lambda: lab.engine.collect_image(image, {reference, same}), Refused)
    assert error.reason == "ImageInUse"
    assert reference in error.message
    assert lab.engine.observe().images == everything


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, (1000, 1000)),
        ("app", (1000, 1000)),
        ("root", (0, 0)),
        ("0", (0, 0)),
        ("1000", (1000, 1000)),
        ("4711", (4711, 0)),
        ("4711:42", (4711, 42)),
        ("app:root", (1000, 0)),
        ("4711:app", (4711, 1000)),
    ],
)
def test_users_are_resolved_as_the_engine_does(lab: Lab, user: str | None, expected: tuple[int, int]) -> None:
    assert lab.engine.resolve_user(lab.image, user) == expected
    assert names(lab) == []


@pytest.mark.parametrize("user", ["nobody-knows", "app:nobody-knows"])
def test_an_unknown_user_is_said_so(lab: Lab, user: str) -> None:
    error = refusal(lambda: lab.engine.resolve_user(lab.image, user), Failed)
    assert error.reason == "UserUnknown"
    assert "nobody-knows" in error.message


# --- network


def test_the_network_is_made_once(lab: Lab) -> None:
    assert lab.engine.observe().network
    lab.engine.ensure_network()
    run(lab)
    assert lab.engine.observe().network
