from __future__ import annotations

from harness.builders import app, desired

from reconciler.core import actions as act


def test_a_pull_has_a_lane_of_its_own_so_that_repairs_need_not_wait_for_it() -> None:
    assert act.lane(act.PullImage("shop", "", "shop:1", None, "r")) == act.pull_lane("shop") == "pull:shop"
    assert act.lane(act.SetName("shop", "", ())) == "shop"
    assert act.lane(act.EnsureNetwork("", "")) == act.NETWORK


def test_what_ails_one_part_of_the_host_holds_up_no_other() -> None:
    actions: list[act.Action] = [
        act.EnsureNetwork("", ""),
        act.StartNames("", ""),
        act.LoadSite("", "", "1", ()),
        act.RemoveLeftovers("", "", frozenset()),
        act.CollectImage("", "", "sha256:1", frozenset()),
    ]
    assert tuple(act.lane(action) for action in actions) == act.HOST_LANES


def test_every_lane_says_whose_it_is() -> None:
    retried: list[act.Action] = [
        act.Unpause("shop", "", "c", "shop.1"),
        act.SetName("shop", "", ()),
        act.RemoveContainer("shop", "", "c", "shop.1", "f"),
        act.RestartContainer("shop", "", "c", "shop.1", 10),
        act.PullImage("shop", "", "shop:1", None, "r"),
        act.EndRehearsal("shop", "", "c", "shop.rehearsal.f", 10),
        act.RunTask("shop", "", desired(app()), "10.0.0.1", "shop.after.1", desired(app()).spec, "after"),
    ]
    lanes = [act.retry_lane(action) for action in retried]
    assert len(set(lanes)) == len(lanes), "what fails holds up its like only"
    assert {act.retry_lane(a) for a in (act.SetSlots("shop", "", ()), act.ForgetSlots("shop", ""))} == {lanes[1]}
    assert {act.app_of(lane) for lane in (*lanes, act.drift_lane("shop"))} == {"shop"}
    assert {act.app_of(lane) for lane in act.HOST_LANES} == {None}
    assert [act.is_restart_lane(lane) for lane in lanes] == [False, False, False, True, False, False, False]


def test_the_name_and_what_retires_are_no_attempts() -> None:
    assert act.is_attempt(act.Unpause("shop", "", "c", "shop.1"))
    assert not act.is_attempt(act.SetName("shop", "", ()))
    assert not act.is_attempt(act.StopContainer("shop", "", "c", "shop.1", 10))


def test_a_rehearsal_holds_up_nothing_of_its_app_and_what_is_written_of_it_not_even_the_next() -> None:
    made = desired(app())
    begin = act.Rehearse("shop", "", made, "10.0.0.1", "shop.rehearsal.f")
    end = act.EndRehearsal("shop", "", "c", "shop.rehearsal.f", 10)
    assert act.lane(begin) == act.lane(end) == act.rehearsal_lane("shop") != "shop"
    assert act.retry_lane(begin) == act.rehearsal_lane("shop")
    assert act.retry_lane(end) not in {act.retry_lane(begin), act.upkeep_lane("shop")}
    assert act.is_attempt(begin)
    assert not act.is_attempt(end)
