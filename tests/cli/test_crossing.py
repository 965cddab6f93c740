from __future__ import annotations

from dataclasses import replace

from harness.builders import app, converged, desired
from harness.plans import SITUATIONS

from reconciler.cli.crossing import command_of, crossing, going_back
from reconciler.core.memory import Version
from reconciler.core.model import Task

TASK = Task(("./manage.py", "migrate"))


def test_forward_there_is_nothing_to_say() -> None:
    end = converged(desired(app(before_deploy=TASK)))
    new = desired(app(before_deploy=TASK), image="sha256:2")
    runs = [c for c in end.observed.engine.containers if c.claim and c.claim.role == "replica"]
    assert crossing(end.memory.versions["shop"], runs, new) == ""
    assert crossing(end.memory.versions["shop"], [], new) == ""
    assert crossing((), runs, new) == ""


def test_what_an_older_agent_did_not_write_down_its_manifest_tells() -> None:
    end = converged(desired(app(image="shop:2"), image="sha256:2"))
    old = desired(app(), image="sha256:1")
    runs = end.observed.engine.containers
    (present,) = end.memory.versions["shop"]
    bare = (replace(present, reference="", place=2), Version(old.fingerprint, "sha256:1", 0.0, "c" * 40, 1))
    assert crossing(bare, runs, old) == ""
    told = crossing(bare, runs, old, app(before_deploy=TASK))
    assert told.startswith(
        "going back from shop:2 (aaaaaaaa) to shop:1 (cccccccc): before_deploy (./manage.py migrate)"
    )


def test_each_command_is_named_once_and_nothing_of_it_is_more_than_text() -> None:
    told = going_back("a", "b", ["migrate\x1b[2J", "migrate\x1b[2J", "x" * 100], app(before_deploy=TASK))
    assert "\x1b" not in told
    assert "x" * 61 not in told
    assert told.count("migrate") == 1
    assert told.endswith("unless before_deploy of b undoes it (RECONCILER_DIRECTION=back)")
    assert command_of(app()) == []


def test_the_plan_of_a_revert_says_so() -> None:
    situation = SITUATIONS["back-over-a-migration"]()
    assert situation.forecast.end.converged


def test_what_never_served_is_not_what_is_gone_back_from() -> None:
    """A third version is on its way when the first one comes back."""
    first, second, third = (
        desired(app(image=f"shop:{n}"), image=f"sha256:{n}", revision=f"{n}" * 40) for n in (1, 2, 3)
    )
    runs = [c for v in (third, second) for c in converged(v).observed.engine.containers]
    versions = (
        Version(second.fingerprint, "sha256:2", 0.0, second.revision, 2, "shop:2", "migrate"),
        Version(first.fingerprint, "sha256:1", 0.0, first.revision, 1, "shop:1"),
    )
    assert crossing(versions, runs, first).startswith("going back from shop:2 (22222222) to shop:1 (11111111)")
