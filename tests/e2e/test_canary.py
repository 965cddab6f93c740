"""A canary on real parts: its share of the requests, and a version that answers 500 to some. More in scripts/soak."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from harness.host import Host


def canary(*steps: tuple[int, str], **more: Any) -> dict[str, Any]:
    """A manifest's ``rollout``."""
    return {"strategy": "canary", "steps": [{"weight": w, "for": f} for w, f in steps], "drain": "1s", **more}


def test_a_canary_gets_its_share_and_a_bad_one_is_taken_back_without_a_reload(host: Host) -> None:
    host.deploy(rollout=canary((20, "1s"), (50, "1s")))
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    current = host.state / "nginx" / "current" / "reconciler.conf"
    host.wait(lambda: "split_clients" in current.read_text(), what="nginx knows the slots")
    host.wait(lambda: (host.status() or {})["result"] == "converged", what="all is done")
    reloads = host.nginx.reloads

    with host.visitors(threads=3) as failures:
        host.deploy(image="shop:2", rollout=canary((20, "1s"), (50, "1s")))
        host.wait(lambda: "canary at 20 %" in host.app()["message"], what="the first step")
        seen: Counter[str] = Counter()

        def promoted() -> bool:
            for _ in range(10):
                before, version, after = host.app()["message"], host.serves(), host.app()["message"]
                if "canary at 50 % for" in before and "canary at 50 % for" in after:
                    seen[version] += 1
            return bool(host.app()["sync"] == "Synced")

        host.wait(promoted, within=60, what="the new version has it all")
        assert host.serves() == "2"
    assert failures == []
    assert seen.total() >= 20
    assert 0.15 < seen["2"] / seen.total() < 0.8, seen

    # Its health check is well, and part of its answers are not: nginx sees that, and nobody else.
    host.deploy(image="shop:3", rollout=canary((20, "5m"), (50, "5m"), max_errors=10))
    with host.visitors(path="/cgi-bin/flaky", threads=3) as failed, host.visitors() as others:
        app = host.wait_reason("CanaryFailed", within=60)
        time.sleep(2.5)  # as long as nginx keeps a name
        meanwhile = len(failed)
        assert failed, "somebody has seen it"
        time.sleep(1)
        assert len(failed) == meanwhile
        assert others == []
    assert all(" 500 " in said for said in failed), failed
    assert "taken back from 20 % of the requests: nginx saw 5xx in " in app["message"]
    host.wait(lambda: len(host.containers(everything=True)) == 1, what="the new version is gone")
    assert host.serves() == "2"
    assert "CanaryFailed" in host.reconciler("why", "shop", expect=None)
    assert host.nginx.reloads == reloads
    assert not (host.runtime / "tally").exists()  # nobody is counted any more
