from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.prometheus import Prometheus
from harness.waiting import eventually
from prometheus_client.parser import text_string_to_metric_families

from reconciler.core.model import Commit, Problem
from reconciler.core.secretfile import REASONS
from reconciler.core.status import HEALTH_WORDS, SYNC_WORDS, AppStatus, Condition, HostStatus, Revisions
from reconciler.protocols import Meter
from reconciler.world.listener import Listener
from reconciler.world.metrics import CYCLE_RESULTS, PHASES, Metrics

LEAK = "https://user:token@git.example.com/config.git says: no such file /etc/reconciler/age.key"

SHOP = AppStatus(
    "shop",
    "Synced",
    "Healthy",
    "Applied",
    LEAK,
    revisions=Revisions("c" * 40, "c" * 40, "b" * 40),
    image="registry.example.com/shop:2.3.1",
    replicas_desired=2,
    replicas_running=2,
    replicas_healthy=1,
    conditions=(
        Condition("Ready", status=True, reason="Serving", message=LEAK),
        Condition("RollbackReady", status=True, reason="RehearsalPassed", message=LEAK),
    ),
    applied_at=1_790_000_000.0,
)
API = replace(SHOP, name="api", sync="OutOfSync", health="Suspended", image="api:1", applied_at=None, conditions=())
HOST = HostStatus(
    host="web-1",
    version="1.2.3",
    at=1_790_000_100.0,
    verdict=LEAK,
    result="converged",
    apps={"shop": SHOP, "api": API},
    problems=(
        Problem("apps/shop/app.yaml", 1, 1, LEAK, "shop"),
        Problem("apps/shop/app.yaml", 2, 1, LEAK, "shop"),
        Problem("apps/shop/app.yaml", 3, 1, LEAK, "shop", severity="warning"),
        Problem("fleet.yaml", 1, 1, LEAK),
        Problem("apps/new/app.yaml", 1, 1, LEAK, "new"),
    ),
    commit=Commit("c" * 40, "Zoë", "Use 2.3.1", 1_790_000_000.0),
    faults=(("GitUnavailable", LEAK),),
    prune_blocked=3,
    last_fetch_at=1_790_000_090.0,
)

TABLE = {
    "reconciler_build_info": {"version"},
    "reconciler_heartbeat_timestamp_seconds": set(),
    "reconciler_app_info": {"app", "revision", "image"},
    "reconciler_app_sync_status": {"app", "status"},
    "reconciler_app_health_status": {"app", "status"},
    "reconciler_app_suspended": {"app"},
    "reconciler_app_replicas": {"app", "state"},
    "reconciler_app_last_success_timestamp_seconds": {"app"},
    "reconciler_cycles_total": {"result"},
    "reconciler_phase_duration_seconds_bucket": {"phase", "le"},
    "reconciler_phase_duration_seconds_sum": {"phase"},
    "reconciler_phase_duration_seconds_count": {"phase"},
    "reconciler_fetches_total": {"result"},
    "reconciler_last_fetch_timestamp_seconds": set(),
    "reconciler_manifest_problems": {"app"},
    "reconciler_prune_blocked": set(),
    "reconciler_drift_repairs_total": {"app"},
    "reconciler_deployments_total": {"app", "result"},
    "reconciler_lead_time_seconds_bucket": {"app", "le"},
    "reconciler_lead_time_seconds_sum": {"app"},
    "reconciler_lead_time_seconds_count": {"app"},
    "reconciler_convergence_seconds_bucket": {"app", "le"},
    "reconciler_convergence_seconds_sum": {"app"},
    "reconciler_convergence_seconds_count": {"app"},
    "reconciler_recovery_seconds_bucket": {"app", "le"},
    "reconciler_recovery_seconds_sum": {"app"},
    "reconciler_recovery_seconds_count": {"app"},
    "reconciler_rollbacks_total": {"app"},
    "reconciler_nginx_reloads_total": {"result"},
    "reconciler_decrypt_failures_total": {"reason"},
    "reconciler_app_cpu_seconds_total": {"app"},
    "reconciler_app_memory_bytes": {"app"},
    "reconciler_app_rollback_ready": {"app"},
}
"""DESIGN.md's names and labels, and what came after it."""


class Kernel:
    """What each process has used, by number."""

    def __init__(self) -> None:
        self.processes: dict[int, tuple[str, float, int]] = {}

    def usage(self, pid: int) -> tuple[str, float, int] | None:
        return self.processes.get(pid)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def metrics(kernel: Kernel) -> Metrics:
    return Metrics("1.2.3", kernel.usage)


def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, as prometheus_client's own parser understands the text."""
    text = metrics.exposition()[1].decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "no series twice"
    return found


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    return read(metrics).get((f"reconciler_{name}", frozenset(labels.items())))


def apps_of(metrics: Metrics) -> set[str]:
    return {dict(labels)["app"] for name, labels in read(metrics) if "app" in dict(labels) and "problems" not in name}


def as_meter(metrics: Metrics) -> Meter:
    """Mypy checks here that it is one."""
    return metrics


def everything_happens(meter: Meter) -> None:
    meter.record_cycle("converged", {"parse": 0.002, "apply": 30.0})
    meter.record_fetch("success")
    meter.deployment("shop", "success")
    meter.deployment("shop", "failure")
    meter.drift_repair("shop")
    meter.rollback("shop")
    meter.lead_time("shop", 70.0)
    meter.convergence("shop", 3.0)
    meter.recovery("shop", 20.0)
    meter.nginx_reload("failure")
    meter.decrypt_failure("DecryptNoKey")


def test_every_metric_of_the_table_with_its_labels_and_no_other(metrics: Metrics) -> None:
    metrics.update(HOST)
    found: dict[str, set[str]] = {}
    for name, labels in read(metrics):
        found.setdefault(name, set()).update(dict(labels))
    assert found == TABLE


def test_everything_is_seeded_with_zero(metrics: Metrics) -> None:
    metrics.update(replace(HOST, problems=()))
    for result in CYCLE_RESULTS:
        assert sample(metrics, "cycles_total", result=result) == 0
    for result in ("success", "failure"):
        assert sample(metrics, "fetches_total", result=result) == 0
        assert sample(metrics, "nginx_reloads_total", result=result) == 0
        assert sample(metrics, "deployments_total", app="api", result=result) == 0
    for reason in REASONS:
        assert sample(metrics, "decrypt_failures_total", reason=reason) == 0
    for phase in PHASES:
        assert sample(metrics, "phase_duration_seconds_count", phase=phase) == 0
    for name in ("drift_repairs_total", "rollbacks_total", "app_cpu_seconds_total", "manifest_problems"):
        assert sample(metrics, name, app="api") == 0
    for name in ("lead_time", "convergence", "recovery"):
        assert sample(metrics, f"{name}_seconds_count", app="api") == 0
        assert sample(metrics, f"{name}_seconds_bucket", app="api", le="+Inf") == 0
    assert sample(metrics, "app_last_success_timestamp_seconds", app="api") == 0
    assert sample(metrics, "manifest_problems", app="") == 0


def test_before_the_first_cycle_there_is_the_host_and_no_app(metrics: Metrics) -> None:
    assert sample(metrics, "build_info", version="1.2.3") == 1
    assert sample(metrics, "heartbeat_timestamp_seconds") == 0
    assert sample(metrics, "prune_blocked") == 0
    assert apps_of(metrics) == set()


def test_where_an_app_stands(metrics: Metrics) -> None:
    metrics.update(HOST)
    assert sample(metrics, "app_info", app="shop", revision="b" * 40, image="registry.example.com/shop:2.3.1") == 1
    assert [sample(metrics, "app_sync_status", app="shop", status=word) for word in SYNC_WORDS] == [1, 0, 0]
    assert [sample(metrics, "app_health_status", app="api", status=word) for word in HEALTH_WORDS] == [0, 0, 0, 1, 0]
    assert [sample(metrics, "app_suspended", app=app) for app in ("shop", "api")] == [0, 1]
    states = ("desired", "running", "healthy")
    assert [sample(metrics, "app_replicas", app="shop", state=state) for state in states] == [2, 2, 1]
    assert sample(metrics, "app_last_success_timestamp_seconds", app="shop") == 1_790_000_000
    problems = {app: sample(metrics, "manifest_problems", app=app) for app in ("", "shop", "api", "new")}
    assert problems == {"": 1, "shop": 2, "api": 0, "new": 1}
    assert sample(metrics, "heartbeat_timestamp_seconds") == 1_790_000_100
    assert sample(metrics, "last_fetch_timestamp_seconds") == 1_790_000_090
    assert sample(metrics, "prune_blocked") == 3


def test_what_happened_is_counted(metrics: Metrics) -> None:
    metrics.update(HOST)
    everything_happens(as_meter(metrics))
    metrics.deployment("shop", "success")
    assert sample(metrics, "cycles_total", result="converged") == 1
    assert sample(metrics, "phase_duration_seconds_bucket", phase="parse", le="0.001") == 0
    assert sample(metrics, "phase_duration_seconds_bucket", phase="parse", le="0.005") == 1
    assert sample(metrics, "phase_duration_seconds_bucket", phase="apply", le="10.0") == 0
    assert sample(metrics, "phase_duration_seconds_bucket", phase="apply", le="+Inf") == 1
    assert sample(metrics, "fetches_total", result="success") == 1
    assert sample(metrics, "deployments_total", app="shop", result="success") == 2
    assert sample(metrics, "deployments_total", app="shop", result="failure") == 1
    assert sample(metrics, "drift_repairs_total", app="shop") == 1
    assert sample(metrics, "rollbacks_total", app="shop") == 1
    assert sample(metrics, "lead_time_seconds_sum", app="shop") == 70
    assert sample(metrics, "lead_time_seconds_bucket", app="shop", le="60.0") == 0
    assert sample(metrics, "lead_time_seconds_bucket", app="shop", le="300.0") == 1
    assert sample(metrics, "convergence_seconds_bucket", app="shop", le="5.0") == 1
    assert sample(metrics, "recovery_seconds_count", app="shop") == 1
    assert sample(metrics, "nginx_reloads_total", result="failure") == 1
    assert sample(metrics, "decrypt_failures_total", reason="DecryptNoKey") == 1


def test_a_clock_that_was_set_back_makes_no_negative_time(metrics: Metrics) -> None:
    metrics.update(HOST)
    metrics.lead_time("shop", -5.0)
    assert sample(metrics, "lead_time_seconds_sum", app="shop") == 0
    assert sample(metrics, "lead_time_seconds_bucket", app="shop", le="60.0") == 1


def test_a_boundary_belongs_to_its_bucket(metrics: Metrics) -> None:
    metrics.update(HOST)
    metrics.convergence("shop", 5.0)
    assert sample(metrics, "convergence_seconds_bucket", app="shop", le="2.0") == 0
    assert sample(metrics, "convergence_seconds_bucket", app="shop", le="5.0") == 1


def test_an_app_that_is_gone_has_no_series_and_comes_back_with_zeros(metrics: Metrics, kernel: Kernel) -> None:
    metrics.update(HOST)
    everything_happens(metrics)
    kernel.processes = {7: ("/docker/7", 1.0, 1_000)}
    metrics.set_containers({"shop": [7]})
    metrics.update(replace(HOST, apps={"api": API}, problems=()))
    assert apps_of(metrics) == {"api"}
    metrics.deployment("shop", "success")
    assert apps_of(metrics) == {"api"}, "a late event of an app that is gone"
    metrics.update(replace(HOST, apps={}))
    metrics.update(HOST)
    assert sample(metrics, "deployments_total", app="shop", result="success") == 0
    assert sample(metrics, "lead_time_seconds_count", app="shop") == 0


def test_events_before_the_first_status_are_kept(metrics: Metrics) -> None:
    metrics.deployment("shop", "success")
    metrics.update(HOST)
    assert sample(metrics, "deployments_total", app="shop", result="success") == 1


def test_no_message_path_or_url_is_a_label(metrics: Metrics) -> None:
    metrics.update(HOST)
    metrics.decrypt_failure(LEAK)
    metrics.record_cycle("two words", {})
    metrics.nginx_reload("x" * 41)
    text = metrics.exposition()[1].decode()
    assert "token" not in text
    assert "apps/" not in text
    assert "age.key" not in text
    assert sample(metrics, "decrypt_failures_total", reason="other") == 1
    assert sample(metrics, "cycles_total", result="other") == 1
    assert sample(metrics, "nginx_reloads_total", result="other") == 1


def test_cpu_time_never_falls_when_containers_come_and_go(metrics: Metrics, kernel: Kernel) -> None:
    metrics.update(HOST)

    def cpu() -> float | None:
        return sample(metrics, "app_cpu_seconds_total", app="shop")

    kernel.processes = {1: ("/docker/old1", 1000.0, 10), 2: ("/docker/old2", 500.0, 20)}
    metrics.set_containers({"shop": [1, 2]})
    assert cpu() == 0, "what was used before we looked is not ours to count"
    assert sample(metrics, "app_memory_bytes", app="shop") == 30
    kernel.processes |= {1: ("/docker/old1", 1001.0, 10), 2: ("/docker/old2", 500.5, 20)}
    assert cpu() == 1.5
    kernel.processes = {2: ("/docker/old2", 501.0, 20), 3: ("/docker/new", 4.0, 5)}
    metrics.set_containers({"shop": [1, 2, 3]})
    assert cpu() == 6.0
    assert sample(metrics, "app_memory_bytes", app="shop") == 25
    metrics.set_containers({})
    assert cpu() == 6.0
    assert sample(metrics, "app_memory_bytes", app="shop") == 0


def test_a_number_used_again_is_another_container(metrics: Metrics, kernel: Kernel) -> None:
    metrics.update(HOST)
    metrics.set_containers({"shop": [1]})
    kernel.processes = {1: ("/docker/old", 100.0, 1)}
    sample(metrics, "app_cpu_seconds_total", app="shop")
    kernel.processes = {1: ("/docker/new", 3.0, 1)}
    assert sample(metrics, "app_cpu_seconds_total", app="shop") == 3.0


def test_scrapes_and_cycles_do_not_disturb_each_other(metrics: Metrics, kernel: Kernel) -> None:
    kernel.processes = {1: ("/docker/1", 1.0, 1)}
    stop = threading.Event()
    seen: list[int] = []

    def scrape() -> None:
        while not stop.is_set():
            seen.append(len(read(metrics)))

    threads = [threading.Thread(target=scrape) for _ in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 0.5
    number = 0
    while time.monotonic() < until or len(seen) < 6:
        number += 1
        apps = {f"app{n}": replace(SHOP, name=f"app{n}") for n in range(number % 7)}
        metrics.update(replace(HOST, apps=apps))
        metrics.set_containers({app: [1] for app in apps})
        metrics.deployment(f"app{number % 7}", "success")
        metrics.record_cycle("converged", {"plan": 0.001})
    stop.set()
    for thread in threads:
        thread.join()
    assert sample(metrics, "cycles_total", result="converged") == number


def test_prometheus_client_is_not_loaded_before_somebody_scrapes() -> None:
    code = (
        "import sys; from reconciler.world.metrics import Metrics; m = Metrics('1', lambda pid: None)\n"
        "m.record_fetch('success'); assert 'prometheus_client' not in sys.modules\n"
        "m.exposition(); assert 'prometheus_client' in sys.modules"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_promtool_has_no_complaint(metrics: Metrics) -> None:
    metrics.update(HOST)
    everything_happens(metrics)
    kind, text = metrics.exposition()
    assert kind == "text/plain; version=0.0.4; charset=utf-8"
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert all(re.match(r"# HELP reconciler_\w+ \S.{10,}\.$", line) for line in help_lines(text))


def help_lines(text: bytes) -> list[str]:
    return [line for line in text.decode().splitlines() if line.startswith("# HELP")]


@pytest.fixture
def prometheus(metrics: Metrics, tmp_path: Path) -> Iterator[Prometheus]:
    """A real one, scraping what an agent would serve."""
    listener = Listener("127.0.0.1:0", metrics, lambda: HOST, lambda: 0.0)
    listener.start()
    prometheus = Prometheus(tmp_path, [f"127.0.0.1:{listener.port}"])
    try:
        prometheus.start()
        yield prometheus
    finally:
        prometheus.stop()
        listener.stop()


def test_a_real_prometheus_sees_it_all(metrics: Metrics, kernel: Kernel, prometheus: Prometheus) -> None:
    kernel.processes = {7: ("/docker/7", 100.0, 2_000_000)}
    metrics.update(HOST)
    metrics.set_containers({"shop": [7]})
    eventually(lambda: prometheus.value("reconciler_app_replicas{app='shop',state='desired'}") == 2, within=30)
    eventually(lambda: prometheus.value("up") == 1)
    names = {series.labels["__name__"] for series in prometheus.query("{__name__=~'reconciler_.+'}")}
    assert names == set(TABLE)
    assert prometheus.value("reconciler_app_health_status{app='shop'} == 1 and on() vector(1)") == 1
    assert prometheus.value("sum(reconciler_manifest_problems)") == 4
    assert prometheus.value("reconciler_app_memory_bytes{app='shop'}") == 2_000_000
    assert prometheus.value("reconciler_deployments_total{app='api',result='success'}") == 0
    (info,) = prometheus.query("reconciler_app_info{app='shop'}")
    assert info.labels["revision"] == "b" * 40

    # The very first deployment counts, because its series began with zero.
    everything_happens(metrics)
    kernel.processes = {7: ("/docker/7", 103.0, 2_000_000)}
    eventually(lambda: (prometheus.value("increase(reconciler_rollbacks_total{app='shop'}[1m])") or 0) > 0.5, within=30)
    eventually(lambda: (prometheus.value("increase(reconciler_app_cpu_seconds_total{app='shop'}[1m])") or 0) >= 2)
    quantile = "histogram_quantile(0.5, sum by (le) (rate(reconciler_convergence_seconds_bucket[1m])))"
    eventually(lambda: 2 <= (prometheus.value(quantile) or 0) <= 5)

    # An app that is gone leaves nothing behind; the host's own series stay.
    metrics.update(replace(HOST, apps={"api": API}, problems=()))
    eventually(lambda: prometheus.query("{app='shop'}") == [], within=30)
    assert prometheus.value("reconciler_app_suspended{app='api'}") == 1
    assert prometheus.value("reconciler_fetches_total{result='success'}") == 1
    assert [target["lastError"] for target in prometheus.targets()] == [""]


def test_whether_an_app_could_go_back_is_told_of_those_that_tried(metrics: Metrics) -> None:
    metrics.update(HOST)
    assert sample(metrics, "app_rollback_ready", app="shop") == 1
    assert sample(metrics, "app_rollback_ready", app="api") is None
    could_not = replace(SHOP, conditions=(replace(SHOP.conditions[1], status=False),))
    metrics.update(replace(HOST, apps={"shop": could_not}))
    assert sample(metrics, "app_rollback_ready", app="shop") == 0
    metrics.update(replace(HOST, apps={"api": API}))
    assert not [name for name, _ in read(metrics) if "rollback_ready" in name]
