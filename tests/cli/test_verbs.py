from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
from harness.git import ConfigRepository
from harness.host import Host

from reconciler.cli import IN_SYNC
from reconciler.cli.verbs import VERBS
from reconciler.core import serialise
from reconciler.core.memory import Ran, Rehearsed, Way
from reconciler.core.status import AppStatus, HostStatus
from reconciler.errors import InvalidInput
from reconciler.world.store import SqliteStore

GOOD = "kind: App\nimage: shop:1\n"


def reconciler(*arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def test_validate_needs_no_host_and_names_every_problem(tmp_path: Path) -> None:
    app = tmp_path / "apps/shop/app.yaml"
    app.parent.mkdir(parents=True)
    app.write_text(GOOD)
    done = reconciler("validate", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    app.write_text(GOOD + "replicass: 2\ncommand: 3\n")
    done = reconciler("validate", str(tmp_path))
    assert done.returncode == 1
    assert "apps/shop/app.yaml:3:1: " in done.stdout
    assert "replicas" in done.stdout
    assert "apps/shop/app.yaml:4:10: " in done.stdout
    told = json.loads(reconciler("validate", str(tmp_path), "--output", "json").stdout)
    assert [problem["line"] for problem in told["problems"]] == [3, 4]


def test_an_empty_directory_is_an_error_not_a_success(tmp_path: Path) -> None:
    done = reconciler("validate", str(tmp_path))
    assert done.returncode == 1
    assert "no manifest" in done.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["frobnicate"], ["schema", "nothing"], []])
def test_wrong_usage_is_an_error_and_not_a_difference(arguments: list[str]) -> None:
    done = reconciler(*arguments)
    assert done.returncode == 1
    assert "usage:" in done.stderr


def test_missing_settings_say_which_file(tmp_path: Path) -> None:
    for verb in (
        ["status"],
        ["why", "shop"],
        ["rollback", "shop"],
        ["plan"],
        ["sync"],
        ["run"],
        ["history"],
        ["render"],
        ["retry", "shop"],
    ):
        done = reconciler("--config", str(tmp_path / "agent.yaml"), *verb)
        assert done.returncode == 1, verb
        assert "agent.yaml" in done.stderr
        assert "Traceback" not in done.stderr
    told = json.loads(reconciler("--config", str(tmp_path / "x.yaml"), "--output", "json", "status").stdout)
    assert set(told) == {"error", "message", "remedy"}


@pytest.mark.parametrize("name", ["app", "fleet", "agent"])
def test_schemas_are_printed(name: str) -> None:
    assert json.loads(reconciler("schema", name).stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_change_is_told_in_the_repositorys_own_ci(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path)
    repository.commit({"apps/shop/app.yaml": GOOD, "apps/db/app.yaml": "kind: App\nimage: db:1\n"})
    base = repository.head
    done = reconciler("plan", "--against", base, "--path", str(repository.work))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to do" in done.stdout
    repository.write({"apps/shop/app.yaml": "kind: App\nimage: shop:2\nvolumes: [data:/data]\n"})
    done = reconciler("plan", "--against", "main", "--path", str(repository.work))
    assert done.returncode == 2, done.stdout + done.stderr
    assert "image shop:1 -> shop:2" in done.stdout
    assert "down" in done.stdout
    assert " db" not in done.stdout  # with a blank: a revision may hold these letters
    told = json.loads(reconciler("--output", "json", "plan", "--against", base, "--path", str(repository.work)).stdout)
    assert list(told) == ["any host"]
    repository.write({"apps/shop/app.yaml": "kind: App\nimage: shop:2\nreplicas: many\n"})
    done = reconciler("plan", "--against", base, "--path", str(repository.work))
    assert done.returncode == 1
    assert "apps/shop/app.yaml:3:11: " in done.stdout
    done = reconciler("plan", "--against", "no-such-branch", "--path", str(repository.work))
    assert done.returncode == 1
    assert "git fetch" in done.stderr


def test_a_person_asks_decides_and_reads_on_a_real_host(host: Host) -> None:
    host.deploy(replicas=2)
    host.reconciler("status", expect=1)  # nobody has run here yet
    assert "first deployment" in host.reconciler("plan", expect=2)
    rendered = json.loads(host.reconciler("--output", "json", "render"))
    assert "shop" in json.dumps(rendered)
    host.sync()
    assert "Nothing to do" in host.reconciler("plan")
    planned = json.loads(host.reconciler("plan", "--output", "json"))
    assert planned
    assert "2/2" in host.reconciler("status", expect=1)  # what was seen last: no agent runs
    assert json.loads(host.reconciler("status", "--output", "json", expect=1))["stale"]
    assert "shop is fine" in host.reconciler("why", "shop", expect=1)
    assert json.loads(host.reconciler("why", "shop", "--output", "json", expect=1))["commit"]["author"]
    entries = json.loads(host.reconciler("history", "--output", "json"))
    assert "deployed" in json.dumps(entries)
    host.reconciler("suspend", "shop", "--why", "a look at it")
    host.deploy(replicas=1)
    assert "a look at it" in host.sync(expect=2)
    assert len(host.containers()) == 2
    host.reconciler("resume", "shop")
    host.reconciler("resume", "shop", expect=1)
    host.reconciler("retry", "shop", expect=1)
    host.start_agent()
    host.wait_synced(host.repository.head, "shop")
    assert "1/1" in host.reconciler("status")
    assert "already" in host.reconciler("run", expect=1)
    host.deploy(replicas=2)
    assert "2/2" in host.sync()  # through the agent that runs


def test_a_way_back_that_was_none_is_rehearsed_once_more_when_a_person_asks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"host: web-1\nrepository: {{url: {tmp_path}}}\nstate: {tmp_path}/state\n")
    options = Namespace(config=config, app="shop", output="text")
    store = SqliteStore(tmp_path / "state" / "store.db")
    answer = Rehearsed("f2", "f1", True, "RehearsalPassed", "", "r1", 1.0)
    try:
        store.record_rehearsal("shop", answer)
        with pytest.raises(InvalidInput):
            VERBS["retry"](options)
        store.record_rehearsal("shop", replace(answer, ready=False))
        assert VERBS["retry"](options) == IN_SYNC
        assert "whether shop could go back is rehearsed once more" in capsys.readouterr().out
        assert store.memory().rehearsed == {}
        assert store.memory().urged == {}
    finally:
        store.close()


def test_a_rollout_that_a_migration_stopped_may_be_urged_on_and_nothing_else(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"repository: {{url: {tmp_path}}}\nstate: {tmp_path}/state\nlisten: 127.0.0.1:9\n")
    store = SqliteStore(tmp_path / "state" / "store.db")
    try:
        for reason, code in (("Unhealthy", 1), ("MigrationBrokeRunning", 0), ("Working", 0)):
            stands = AppStatus("shop", "OutOfSync", "Degraded", reason, "words")
            store.save_status(serialise.text(HostStatus("web-1", "1", 1.0, "", "blocked", {"shop": stands})), 1.0)
            assert reconciler("--config", str(config), "retry", "shop").returncode == code
        assert store.memory().urged.keys() == {"shop"}
        store.record_applied("api", "r", "f", 1.0, "sha256:1", Ran(due=Way()))
        assert reconciler("--config", str(config), "retry", "api").returncode == 1
        store.after_failed("api", "f", "AfterDeployFailed", "it ended", "")
        assert reconciler("--config", str(config), "retry", "api").returncode == 0
        assert store.memory().due["api"].cause == ""
    finally:
        store.close()
