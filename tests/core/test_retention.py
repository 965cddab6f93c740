from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from harness.builders import NOW, app, converged, desired, kinds, steps, wanted
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import actions as act
from reconciler.core.memory import Applied, Brought, Memory, Retry, Version
from reconciler.core.model import App, Catalog, Health
from reconciler.core.observed import Container, EngineState, NamesState
from reconciler.core.retention import GONE, KEPT, unneeded
from reconciler.core.simulate import forecast
from reconciler.core.target import Blocked, Pull, Target
from reconciler.core.wanted import Wanted

SUBNET = "10.201.0.0/16"
LATER = NOW + 10_000


def reference(number: int) -> str:
    return f"registry.example.com/shop:{number}"


def brought(*numbers: int) -> dict[str, Brought]:
    return {f"sha256:{n}": Brought(frozenset({reference(n)}), NOW + n) for n in numbers}


def here(*numbers: int) -> dict[str, str]:
    names = {reference(n): f"sha256:{n}" for n in numbers}
    return names | {f"registry.example.com/shop@sha256:d{n}": f"sha256:{n}" for n in numbers}


def versions(*numbers: int, at: float = NOW) -> tuple[Version, ...]:
    """The last one first."""
    return tuple(Version(f"f{n}", f"sha256:{n}", at) for n in numbers)


def container(image: str, name: str = "somebody") -> Container:
    return Container(name, name, "exited", image, NOW, None, owned=False, address=None)


def engine(images: Mapping[str, str], *containers: Container) -> EngineState:
    return EngineState(containers, images, network=True)


def gone(engine: EngineState, memory: Memory, asked: Wanted | None = None, now: float = LATER) -> list[str]:
    return [action.image for action in unneeded(asked or wanted(), engine, memory, now)]


APPLIED = {"shop": Applied("a" * 40, "f7", NOW)}
SEVEN = Memory(applied=APPLIED, versions={"shop": versions(7, 6, 5, 4, 3, 2, 1)}, brought=brought(*range(1, 8)))


def test_the_last_five_versions_keep_their_images_and_older_ones_go_the_oldest_first() -> None:
    assert KEPT == 5
    state = engine(here(*range(1, 8)))
    found = unneeded(wanted(), state, SEVEN, LATER)
    assert [action.image for action in found] == ["sha256:1", "sha256:2"]
    assert found[0].names == {reference(1)}
    assert found[0].reason == (
        "no container and none of the last 5 versions of any app needs registry.example.com/shop:1"
    )


def test_what_we_did_not_bring_stays_whatever_it_is() -> None:
    assert gone(engine(here(*range(1, 8))), replace(SEVEN, brought={})) == []
    assert gone(engine(here(*range(1, 8))), replace(SEVEN, brought=brought(2))) == ["sha256:2"]


def test_a_container_of_anybody_keeps_its_image() -> None:
    assert gone(engine(here(*range(1, 8)), container("sha256:1")), SEVEN) == ["sha256:2"]


def test_an_image_that_two_apps_ran_from_stays_for_the_one_that_may_go_back_to_it() -> None:
    memory = replace(
        SEVEN, versions={**SEVEN.versions, "api": versions(1)}, applied={**APPLIED, "api": APPLIED["shop"]}
    )
    assert gone(engine(here(*range(1, 8))), memory) == ["sha256:2"]


def test_a_name_that_somebody_else_gave_keeps_an_image() -> None:
    state = engine({**here(*range(1, 8)), "kept:1": "sha256:1"})
    assert gone(state, SEVEN) == ["sha256:2"]
    digest = engine({**here(*range(1, 8)), "mirror.example.com/shop@sha256:d1": "sha256:1"})
    assert gone(digest, SEVEN) == ["sha256:2"]


def test_an_image_whose_tag_has_moved_goes_by_its_digest() -> None:
    names = {name: image for name, image in here(*range(1, 8)).items() if name != reference(1)}
    assert gone(engine(names), SEVEN) == ["sha256:1", "sha256:2"]


def test_what_a_target_needs_stays() -> None:
    state, old = engine(here(*range(1, 8))), desired(app(), image="sha256:1")
    assert gone(state, SEVEN, wanted(shop=Target("shop", old))) == ["sha256:2"]
    new = desired(app(), image="sha256:7")
    assert gone(state, SEVEN, wanted(shop=Target("shop", new, previous=old))) == ["sha256:2"]
    pull = Pull(reference(1), "b" * 40, None, False, new)
    assert gone(state, SEVEN, wanted(shop=Target("shop", new, Blocked("Pulling", ""), pull))) == ["sha256:2"]
    manifest = app(image=reference(1))
    assert gone(state, SEVEN, wanted(shop=Target("shop", None, Blocked("x", ""), app=manifest))) == ["sha256:2"]


def test_what_the_repository_asks_for_stays_though_it_is_given_up_or_it_would_be_pulled_again_and_again() -> None:
    asked = wanted()
    for image in (reference(1), "registry.example.com/shop@sha256:d1", "registry.example.com/shop:9@sha256:d1"):
        catalog = Catalog({"shop": App("shop", "apps/shop/app.yaml", image)})
        assert gone(engine(here(*range(1, 8))), SEVEN, replace(asked, catalog=catalog)) == ["sha256:2"]


def test_a_version_that_was_never_applied_goes() -> None:
    memory = replace(SEVEN, brought=brought(*range(1, 9)))
    assert gone(engine(here(*range(1, 9))), memory) == ["sha256:1", "sha256:2", "sha256:8"]


def test_versions_of_a_removed_app_stay_for_a_week_so_that_its_removal_can_be_reverted() -> None:
    memory = Memory(versions={"shop": versions(2, 1, at=LATER)}, brought=brought(1, 2))
    assert gone(engine(here(1, 2)), memory, now=LATER + GONE - 1) == []
    assert gone(engine(here(1, 2)), memory, now=LATER + GONE) == ["sha256:1", "sha256:2"]
    assert gone(engine(here(1, 2)), replace(memory, applied=APPLIED), now=LATER + GONE) == []
    assert gone(engine(here(1, 2)), memory, now=LATER - 99) == [], "the clock was put back"


def test_nothing_goes_while_nobody_knows_which_apps_belong_here() -> None:
    asked = wanted()
    asked = replace(asked, catalog=replace(asked.catalog, fleet_broken=True))
    assert gone(engine(here(*range(1, 8))), SEVEN, asked) == []


def test_what_is_not_here_any_more_is_not_ours_any_more() -> None:
    (found,) = unneeded(wanted(), engine(here(*range(2, 8))), replace(SEVEN, brought=brought(1)), LATER)
    assert found.image == "sha256:1"
    assert "is not here any more" in found.reason


numbers = st.lists(st.integers(1, 9), unique=True)


@given(numbers, numbers, numbers, numbers, st.booleans(), st.integers(1, 9))
def test_nothing_that_is_needed_or_not_ours_ever_goes(
    ours: list[int],
    shop: list[int],
    api: list[int],
    used: list[int],
    named: bool,  # noqa: FBT001  (drawn)
    target: int,
) -> None:
    images = here(*range(1, 10)) | ({"kept:1": "sha256:9"} if named else {})
    memory = Memory(applied=APPLIED, versions={"shop": versions(*shop), "api": versions(*api)}, brought=brought(*ours))
    state = engine(images, *(container(f"sha256:{n}", f"c{n}") for n in used))
    asked = wanted(shop=Target("shop", desired(app(), image=f"sha256:{target}")))
    found = gone(state, memory, asked)
    needed = {target, *shop[:KEPT], *api[:KEPT], *used, *((9,) if named else ())}
    assert set(found) == {f"sha256:{n}" for n in set(ours) - needed}


# --- in the plan ------------------------------------------------------------------------------------------------------


def host() -> tuple[Wanted, Memory, EngineState]:
    """All is well, and two images could go."""
    end = converged(desired(app(), image="sha256:7"))
    memory = replace(end.memory, versions=SEVEN.versions, brought=SEVEN.brought)
    return end.wanted, memory, replace(end.observed.engine, images=here(*range(1, 8)))


def test_one_image_goes_at_a_time_and_only_when_nobody_is_at_work() -> None:
    end = converged(desired(app(), image="sha256:7"))
    asked, memory, state = host()
    observed = replace(end.observed, engine=state)
    made = steps(asked, observed, memory, LATER)
    assert kinds(made) == ["CollectImage"]
    assert act.IMAGES in made.needs
    assert made.statuses["shop"].sync == "Synced"
    busy = steps(asked, observed, replace(memory, busy={"pull:other": "x"}), LATER)
    assert (busy.actions, act.IMAGES in busy.needs) == ((), True)
    moving = steps(wanted(desired(app(), image="sha256:8")), observed, memory, LATER)
    assert "CollectImage" not in kinds(moving)
    fresh = replace(end.observed, probes={}, engine=replace(state, containers=()))
    waits = forecast(wanted(desired(app(health=Health("tcp", port=1)), image="sha256:7")), fresh, memory, SUBNET, LATER)
    unproven = replace(
        waits.observed, probes={}, names=NamesState(0.0), engine=replace(waits.observed.engine, images=state.images)
    )
    assert steps(waits.wanted, unproven, replace(memory, applied={}), LATER).actions == (), (
        "it waits until it is healthy"
    )


def test_an_image_that_cannot_be_removed_is_told_waits_and_keeps_no_other() -> None:
    end = converged(desired(app(), image="sha256:7"))
    asked, memory, state = host()
    observed = replace(end.observed, engine=state)
    memory = replace(memory, retries={act.IMAGES: Retry(LATER + 8, 1, "DockerError", "the disk is tired")})
    waiting = steps(asked, observed, memory, LATER)
    assert (waiting.actions, waiting.wake_at, waiting.faults) == ((), LATER + 8, ())
    assert waiting.notices == (("ImageNotRemoved", "the disk is tired"),)
    assert waiting.converged, "an app has nothing to do with it"
    (action,) = steps(asked, observed, memory, LATER + 8).actions
    assert isinstance(action, act.CollectImage)
    assert action.image == "sha256:2"


def test_on_paper_they_go_one_after_another_and_then_it_is_quiet() -> None:
    end = converged(desired(app(), image="sha256:7"))
    asked, memory, state = host()
    played = forecast(asked, replace(end.observed, engine=state), memory, SUBNET, LATER)
    assert [event.action.image for event in played.events if isinstance(event.action, act.CollectImage)] == [
        "sha256:1",
        "sha256:2",
    ]
    assert set(played.observed.engine.images.values()) == {f"sha256:{n}" for n in range(3, 8)}
    assert played.end.converged
    assert act.IMAGES not in played.end.needs


def test_on_paper_an_upgrade_makes_the_oldest_version_go() -> None:
    end = converged(desired(app(), image="sha256:7"))
    memory = replace(end.memory, versions={"shop": versions(7, 6, 5, 4, 3)}, brought=brought(*range(3, 8)))
    memory = replace(memory, versions={"shop": (*end.memory.versions["shop"], *memory.versions["shop"][1:])})
    observed = replace(end.observed, engine=replace(end.observed.engine, images=here(*range(3, 9))))
    played = forecast(wanted(desired(app(), image="sha256:8")), observed, memory, SUBNET, LATER)
    assert isinstance(played.events[-1].action, act.CollectImage)
    assert played.events[-1].action.image == "sha256:3"
    assert [version.image for version in played.memory.versions["shop"][:2]] == ["sha256:8", "sha256:7"]


def test_on_paper_a_removed_app_keeps_its_images() -> None:
    apps = [desired(app(name), image="sha256:1" if name == "shop" else "sha256:2") for name in ("shop", "db", "api")]
    end = converged(*apps)
    memory = replace(end.memory, brought=brought(1))
    observed = replace(end.observed, engine=replace(end.observed.engine, images=here(1)))
    played = forecast(wanted(*apps[1:]), observed, memory, SUBNET, NOW + 2 * GONE)
    assert "shop" not in played.memory.applied
    assert not any(isinstance(event.action, act.CollectImage) for event in played.events)
