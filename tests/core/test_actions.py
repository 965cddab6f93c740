from __future__ import annotations

from reconciler.core import actions as act


def test_a_pull_has_a_lane_of_its_own_so_that_repairs_need_not_wait_for_it() -> None:
    assert act.lane(act.PullImage("shop", "", "shop:1", None, "r")) == act.pull_lane("shop") == "pull:shop"
    assert act.lane(act.SetName("shop", "", ())) == "shop"
    assert act.lane(act.EnsureNetwork("", "")) == ""
