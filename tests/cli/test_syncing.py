from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

from harness.host import Host
from harness.walk import Walk

from reconciler.cli import IN_SYNC
from reconciler.cli.syncing import sync_here


def test_sync_says_what_it_could_not_do_and_exits_with_differences(host: Host) -> None:
    host.commit(
        {
            "apps/shop/app.yaml": host.manifest(),
            "apps/broken/app.yaml": "kind: App\nimage: [\n",
            "apps/absent/app.yaml": host.manifest("absent", image="127.0.0.1:1/absent:1", ingress=None),
        }
    )
    told = host.sync(expect=2)
    assert "apps/broken/app.yaml:" in told
    assert "127.0.0.1:1/absent:1" in told
    assert host.get("/version")[1] == "1"


def test_sync_without_a_reachable_repository_is_an_error(host: Host) -> None:
    host.deploy()
    host.sync()
    moved = host.repository.bare.rename(host.repository.bare.with_name("away"))
    told = host.sync(expect=1)
    assert "config.git" in told
    assert len(host.containers()) == 1
    moved.rename(host.repository.bare)
    host.sync()


def test_sync_leaves_no_rehearsal_behind(tmp_path: Path) -> None:
    """Nobody else would take its replica away again."""
    walk = Walk(tmp_path)
    try:
        walk.write(rehearse_rollback=True)
        walk.converge()
        walk.write(rehearse_rollback=True, image="shop:2", health={"min_healthy_time": "0.3s", "deadline": "60s"})
        idle = SimpleNamespace(start=lambda: None, stop=lambda: None)
        host = SimpleNamespace(cycle=walk.cycle, apply=walk.apply, prober=idle, tally=idle, store=walk.store)
        walk.apply._wake = lambda lane: host.wake(lane)  # noqa: SLF001, PLW0108  (it is set later)
        assert sync_here(host, Namespace(timeout=30.0, output="text")) == IN_SYNC  # type: ignore[arg-type]  # its parts
        assert walk.store.memory().rehearsed["shop"].ready
        assert len(walk.engine.observe().containers) == 1
    finally:
        walk.close()
