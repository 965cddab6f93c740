from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import NOW, app, converged, desired, wanted

from reconciler.core.addresses import AddressPool
from reconciler.core.direction import crossed, environment, is_back, way_to
from reconciler.core.memory import Applied, Version, Way
from reconciler.core.step import Facts, Timing
from reconciler.core.target import Target

VERSIONS = (  # the last one applied first
    Version("f2b", "i2", 30, "r5", 4, "shop:2", "migrate"),
    Version("f3", "i3", 20, "r4", 3, "shop:3", "migrate --all"),
    Version("f2", "i2", 10, "r3", 2, "shop:2"),
    Version("f1", "i1", 0, "r1", 1, "shop:1"),
)


@pytest.mark.parametrize(
    ("come", "go", "back"),
    [
        (("i3", "f3"), ("i1", "f1"), True),
        (("i3", "f3"), ("i1", "changed"), True),  # the image decides
        (("i1", "f1"), ("i3", "f3"), False),
        (("i3", "f3"), ("i4", "f4"), False),  # never served: it lies ahead
        (("gone", "gone"), ("i1", "f1"), False),
        (("i3", "f3"), ("i2", "f2b"), True),  # served first as f2
        (("i2", "f2b"), ("i2", "f2"), True),  # the same image: what else changed decides
        (("i2", "f2"), ("i2", "f2b"), False),
        (("i2", "f2"), ("i2", "new"), False),
        (("i2", "f2"), ("i2", "f2"), False),
    ],
)
def test_back_is_where_the_image_served_before(come: tuple[str, str], go: tuple[str, str], back: bool) -> None:  # noqa: FBT001  (a case's answer)
    assert is_back(VERSIONS, come, go) is back


def test_what_a_way_back_goes_over() -> None:
    assert [v.reference for v in crossed(VERSIONS, ("i3", "f3"), ("i1", "f1"))] == ["shop:3"]
    assert [v.fingerprint for v in crossed(VERSIONS, ("i2", "f2b"), ("i1", "f1"))] == ["f2b", "f3"]
    assert [v.fingerprint for v in crossed(VERSIONS, ("i2", "f2b"), ("i2", "f2"))] == ["f2b", "f3"]
    assert crossed(VERSIONS, ("i2", "f2"), ("i1", "f1")) == ()
    assert crossed(VERSIONS, ("i1", "f1"), ("i3", "f3")) == ()
    # What ran before the image served for the first time, or before the version that comes back, has not run since.
    each = tuple(replace(version, before="migrate") for version in VERSIONS)
    assert [v.fingerprint for v in crossed(each, ("i3", "f3"), ("i2", "changed"))] == ["f3"]
    same = tuple(replace(version, image="i") for version in each)
    assert [v.fingerprint for v in crossed(same, ("i", "f2b"), ("i", "f3"))] == ["f2b"]


def facts(**changes: object) -> Facts:
    end = converged(desired(app()))
    target = Target("shop", desired(app(), image="sha256:2"))
    known = Facts(
        target,
        end.observed.engine.containers,
        end.observed,
        end.memory.applied["shop"],
        AddressPool("10.0.0.0/24", [], NOW),
        NOW,
        Timing(),
        versions=end.memory.versions["shop"],
    )
    return replace(known, **changes)  # type: ignore[arg-type]  # names checked by replace


def test_the_way_is_from_what_was_applied_last() -> None:
    there = facts()
    new = there.target.desired
    assert new is not None
    assert way_to(there, new) == Way("forward", "a" * 40, "shop:1")
    assert way_to(replace(there, applied=None), new) == Way()
    # An older agent did not write the image down: what runs knows it.
    old = tuple(replace(version, reference="") for version in there.versions)
    assert way_to(replace(there, versions=old), new).image == "shop:1"
    assert way_to(replace(there, versions=()), new) == Way("forward", "a" * 40, "shop:1")
    assert way_to(replace(there, versions=(), containers=()), new).image == ""
    first = there.versions[0]
    gone = replace(there, versions=(replace(first, fingerprint="f9", image="sha256:2", place=0), first))
    assert way_to(gone, new).direction == "back"
    assert way_to(replace(gone, applied=Applied("r", "unknown", 0.0)), new).direction == "forward"


def test_what_a_task_is_told() -> None:
    new = desired(app(image="shop:2"), revision="b" * 40)
    assert environment(Way("back", "a" * 40, "shop:3"), new) == {
        "RECONCILER_DIRECTION": "back",
        "RECONCILER_FROM_REVISION": "a" * 40,
        "RECONCILER_FROM_IMAGE": "shop:3",
        "RECONCILER_TO_REVISION": "b" * 40,
        "RECONCILER_TO_IMAGE": "shop:2",
    }
    assert wanted(new).targets["shop"].desired is new
