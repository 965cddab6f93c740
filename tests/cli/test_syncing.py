from __future__ import annotations

from harness.host import Host


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
