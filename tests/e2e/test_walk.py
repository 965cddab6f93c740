"""The main job on real parts: a commit becomes running software, another one changes it, a revert takes it back."""

from __future__ import annotations

import time
from typing import Any

from harness.host import Host

SECRETS = {"file": "secrets.sops.yaml", "environment": ["API_TOKEN"]}


def test_deploy_upgrade_revert_and_remove(host: Host) -> None:
    first = host.commit(
        {
            "apps/shop/app.yaml": host.manifest(environment={"GREETING": "hello"}, secrets=SECRETS, replicas=2),
            "apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "t0ken", "password": "s3cret"}),
            "apps/other/app.yaml": host.manifest("other", ingress=None),
            "apps/third/app.yaml": host.manifest("third", ingress=None),
        },
        "first",
    )
    host.start_agent()
    host.wait_synced(first, "shop", "other", "third")
    code, body = host.get("/cgi-bin/show")
    assert (code, body) == (200, "version=1 greeting=hello env_secret=t0ken file_secret=s3cret\n")
    assert len(host.containers()) == 2
    reloads = host.nginx.reloads

    with host.visitors(threads=3) as failures:
        host.deploy(image="shop:2", environment={"GREETING": "hello"}, secrets=SECRETS, replicas=2, message="second")
        host.wait_synced(host.repository.head, "shop")
        assert host.get("/version")[1] == "2"
        began = time.monotonic()
        reverted = host.repository.revert()
        host.wait_synced(reverted, "shop")
        took = time.monotonic() - began
        assert host.get("/version")[1] == "1"
    assert failures == []
    # What an operator breaks by hand comes back; whom it was answering at that moment is cut off.
    host.containers()[0].remove(force=True)
    host.wait(lambda: len(host.containers()) == 2 and host.app()["health"] == "Healthy", what="drift is repaired")
    assert took < 60
    assert host.nginx.reloads == reloads

    gone = host.commit({"apps/shop/app.yaml": None, "apps/shop/secrets.sops.yaml": None}, "no shop")
    host.wait(lambda: not host.containers(everything=True), what="the containers are removed")
    assert host.get("/version")[0] == 404
    host.wait_synced(gone, "other", "third")
    history = host.reconciler("history", "shop")
    for event in ("deployed", "rolled back", "repaired", "pruned"):
        assert event in history
    assert "image shop:1 -> shop:2" in history, history
    metrics = host.get("/metrics", port=host.listen)[1]
    assert 'reconciler_rollbacks_total{app="shop"}' not in metrics  # its series went with it
    assert 'reconciler_app_sync_status{app="other",status="Synced"} 1.0' in metrics


def test_secrets_are_nowhere_but_in_the_container(host: Host) -> None:
    host.commit(
        {
            "apps/shop/app.yaml": host.manifest(secrets=SECRETS),
            "apps/shop/secrets.sops.yaml": host.smith.yaml({"API_TOKEN": "t0ken-env", "password": "s3cret-file"}),
        }
    )
    plan = host.reconciler("plan", expect=2)
    render = host.reconciler("render")
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    container = host.containers()[0]
    assert "s3cret-file" not in str(container.attrs)
    seen = plan + render + host.log.read_text() + host.reconciler("status") + host.reconciler("history")
    seen += host.get("/metrics", port=host.listen)[1] + str(host.status())
    for secret in ("t0ken-env", "s3cret-file"):
        assert secret not in seen
    for file in host.state.rglob("*"):
        if file.is_file():
            assert b"s3cret-file" not in file.read_bytes(), file
    listing = container.exec_run(["stat", "-c", "%a %u", "/run/secrets/password"]).output.decode()
    assert listing == "400 1000\n"


def test_apps_find_each_other_by_name_also_while_the_agent_is_down(host: Host) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name, ingress=None) for name in ("api", "web")})
    host.start_agent()
    host.wait_synced(host.repository.head, "api", "web")
    host.stop_agent()
    answer = host.containers("web")[0].exec_run(["nslookup", "api"]).output.decode()
    networks = host.containers("api")[0].attrs["NetworkSettings"]["Networks"]
    assert networks[host.network]["IPAddress"] in answer


def test_a_volume_outlives_every_version_and_the_old_one_stops_first(host: Host) -> None:
    fields: dict[str, Any] = {"volumes": ["data:/data"], "ingress": None}
    host.deploy(**fields)
    assert "Synced" in host.sync()
    host.containers()[0].exec_run(["sh", "-c", "echo kept > /data/row"])
    host.deploy(image="shop:2", **fields)
    plan = host.reconciler("plan", expect=2)
    assert "down" in plan
    assert "volume" in plan
    host.sync()
    container = host.containers()[0]
    assert container.exec_run(["cat", "/data/row"]).output == b"kept\n"
    assert container.exec_run(["cat", "/www/version"]).output == b"2"
    host.commit({"apps/shop/app.yaml": None, "apps/other/app.yaml": host.manifest("other", ingress=None)})
    host.reconciler("sync", expect=2)  # it would remove all there was: that waits for a person
    host.reconciler("accept", host.repository.head)
    host.sync()
    assert [volume.name for volume in host.client.volumes.list()] == ["data"]


def test_a_dependency_comes_first(host: Host) -> None:
    host.commit(
        {
            "apps/shop/app.yaml": host.manifest(depends_on=["db"]),
            "apps/db/app.yaml": host.manifest("db", ingress=None),
        }
    )
    host.sync()
    started = {name: host.containers(name)[0].attrs["State"]["StartedAt"] for name in ("db", "shop")}
    assert started["db"] < started["shop"]


def test_a_person_who_edits_a_directory_sees_it_converge(host: Host) -> None:
    work = host.repository.work
    host.repository.write({"apps/shop/app.yaml": host.manifest()})
    host.settings["repository"]["interval"] = "10m"
    host.start_agent("--worktree", str(work))
    host.wait(lambda: host.app().get("sync") == "Synced", what="the first version")
    (work / "apps/shop/app.yaml").write_text(host.manifest(image="shop:2"))
    host.wait(lambda: host.get("/version")[1] == "2", what="the edit, long before the poll")


def test_an_upgrade_of_one_app_leaves_the_containers_of_others_alone(host: Host) -> None:
    host.commit({f"apps/{name}/app.yaml": host.manifest(name) for name in ("shop", "other")})
    host.sync()
    before = host.containers("other")[0].id
    host.deploy(image="shop:2")
    host.sync()
    assert host.containers("other")[0].id == before
    assert host.reconciler("plan").startswith("Nothing to do")
