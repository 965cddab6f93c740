"""The installation and the units, on a machine with a real systemd, Docker, nginx and dnsmasq."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from harness.engine import busybox_root
from harness.machine import Machine
from harness.waiting import eventually

import reconciler
from reconciler.settings import load_settings

ROOT = Path(__file__).parents[1]
WHEELS = ROOT / ".cache" / "wheels"
UNITS = ("reconciler.service", "reconciler-names.service")
OFFLINE = ("PIP_NO_INDEX=1", f"PIP_FIND_LINKS={WHEELS}")
SHOP = """\
kind: App
image: registry.example.com/shop:1
replicas: 2
user: "1000"
health: {http: /, port: 8080}
ingress: [{host: shop.example.com, port: 8080}]
secrets: {file: secrets.sops.yaml}
"""
GET = """\
from http.client import HTTPConnection
connection = HTTPConnection("127.0.0.1", 80, timeout=20)
connection.request("GET", "/", headers={"Host": "shop.example.com"})
answer = connection.getresponse()
print(answer.status, answer.read().decode())
"""


# --- on paper -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_hardened(unit: str) -> None:
    # Tenths; a unit without any hardening has 96.
    argv = ["systemd-analyze", "security", "--offline=true", "--threshold=28", f"{ROOT}/systemd/{unit}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_secrets_outlive_the_agent() -> None:
    for unit in UNITS:
        assert "RuntimeDirectoryPreserve=yes\n" in (ROOT / "systemd" / unit).read_text()


def test_the_agent_may_write_what_nginx_t_writes() -> None:
    """The temporary directories of distributions' packages, and of nginx.org's."""
    text = (ROOT / "systemd/reconciler.service").read_text()
    (writable,) = re.findall(r"^ReadWritePaths=(.*)", text, re.MULTILINE)
    assert {"-/var/log/nginx", "-/var/lib/nginx", "-/var/cache/nginx"} < set(writable.split())


# --- into a directory -----------------------------------------------------------------------------------------------


def _scripts(script: str, root: Path) -> str:
    done = subprocess.run(
        ["env", *OFFLINE, f"{ROOT}/scripts/{script}", "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_an_image_can_be_made_and_unmade(tmp_path: Path) -> None:
    """A host whose default site somebody has edited, and which has an agent.yaml.example of an older version."""
    for directory in ("etc/nginx/conf.d", "etc/nginx/sites-available", "etc/nginx/sites-enabled", "etc/reconciler"):
        (tmp_path / directory).mkdir(parents=True)
    site = tmp_path / "etc/nginx/sites-available/default"
    site.write_text("server { listen 80 default_server; root /srv/www; }\n")
    link = tmp_path / "etc/nginx/sites-enabled/default"
    link.symlink_to("/etc/nginx/sites-available/default")
    (tmp_path / "etc/nginx/sites-enabled/own").write_text(site.read_text())
    (tmp_path / "etc/reconciler/agent.yaml.example").write_text("old\n")

    said = _scripts("install", tmp_path)
    assert "nothing was started" in said
    assert "age1" in said  # the host's public key, to be put into .sops.yaml
    program = tmp_path / "opt/reconciler/bin"
    assert (program / "reconciler").read_text().startswith("#!/opt/reconciler/bin/python")
    for command, answer in (("version", reconciler.__version__), ("schema app", '"title": "App"')):
        argv = [f"{program}/python", f"{program}/reconciler", *command.split()]
        assert answer in subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30, cwd="/").stdout
    assert (tmp_path / "usr/local/bin/reconciler").readlink() == Path("/opt/reconciler/bin/reconciler")
    assert {path.name for path in (tmp_path / "etc/systemd/system").iterdir()} == set(UNITS)
    key = tmp_path / "etc/credstore/reconciler.age.key"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert link.is_symlink()  # somebody's own site stays
    settings = load_settings(tmp_path / "etc/reconciler/agent.yaml")
    assert settings.nginx is not None
    assert not settings.nginx.default_server
    assert not settings.names.start
    example = (tmp_path / "etc/reconciler/agent.yaml.example").read_text()
    assert example == (ROOT / "systemd/agent.yaml").read_text()

    (tmp_path / "etc/reconciler/agent.yaml").write_text("mine\n")
    secret = key.read_text()
    said = _scripts("install", tmp_path)
    assert "default_server: false" in said
    assert (tmp_path / "etc/reconciler/agent.yaml").read_text() == "mine\n"
    assert key.read_text() == secret

    said = _scripts("uninstall", tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == {
        "etc/credstore/reconciler.age.key",
        "etc/nginx/conf.d/reconciler.conf",
        "etc/nginx/sites-available/default",
        "etc/nginx/sites-enabled/default",
        "etc/nginx/sites-enabled/own",
        "etc/reconciler/agent.yaml",
    }
    for rest in ("docker volume ls", "/var/lib/reconciler", "reconciler-names", "conf.d/reconciler.conf"):
        assert rest in said


def test_the_commented_settings_say_what_the_defaults_are(tmp_path: Path) -> None:
    """Every line that is switched off can be switched on, and then says what holds anyway or a sensible example."""
    text = (ROOT / "systemd/agent.yaml").read_text()
    plain = tmp_path / "agent.yaml"
    plain.write_text(text)
    before = load_settings(plain)
    ssh = re.sub(r"^  #(token_file|username):.*\n", "", text, flags=re.MULTILINE)  # for https, instead of what is on
    plain.write_text(re.sub(r"^( *)#((?:  )*[a-z_]+:)", r"\1\2", ssh, flags=re.MULTILINE))
    after = load_settings(plain)
    assert after.policy.registries == ("registry.example.com",)
    same = ("docker", "nginx", "state", "runtime", "listen")
    assert [getattr(before, name) for name in same] == [getattr(after, name) for name in same]
    assert (before.repository.branch, before.repository.interval) == (
        after.repository.branch,
        after.repository.interval,
    )


# --- on a machine ---------------------------------------------------------------------------------------------------


class Host:
    """A machine with reconciler on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.run = machine.run

    def install(self) -> str:
        return self.run("env", *OFFLINE, str(ROOT / "scripts/install"), timeout=110)

    def active(self, unit: str) -> bool:
        return self.run("systemctl", "is-active", unit, check=False).strip() == "active"

    def show(self, unit: str, what: str) -> str:
        return self.run("systemctl", "show", "-P", what, unit).strip()

    def get(self) -> str:
        return self.run("python3", "-c", GET, check=False).strip()

    def containers(self) -> list[str]:
        return sorted(self.run("docker", "ps", "-q", "--no-trunc").split())

    def converged(self) -> bool:
        status = json.loads(self.run("reconciler", "status", "--output", "json", check=False))
        return bool(status["result"] == "converged" and not status["stale"])

    def wait_until_converged(self) -> None:
        eventually(self.converged, within=60, every=0.3, what="the agent has converged")

    def deploy(self) -> None:
        """Everything that the installation tells people to do, with a repository on the same machine."""
        self.run("systemctl", "enable", "--now", "docker", "nginx")
        engine = docker.APIClient(base_url=self.machine.docker)
        archive = busybox_root({"www/index.html": b"a shop\n"})
        command = 'CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]'
        engine.import_image_from_data(archive, repository="registry.example.com/shop", tag="1", changes=[command])
        engine.close()

        self.machine.write("/srv/config/apps/shop/app.yaml", SHOP)
        self.machine.write("/srv/config/apps/shop/secrets.sops.yaml", "token: of-the-shop\n")
        public = self.run("age-keygen", "-y", "/etc/credstore/reconciler.age.key").strip()
        self.run("sops", "encrypt", "--age", public, "-i", "/srv/config/apps/shop/secrets.sops.yaml")
        commit = "git -c user.name=Ada -c user.email=ada@example.com commit -qm 'A shop'"
        self.run("sh", "-ec", f"cd /srv/config && git init -qb main . && git add -A && {commit}")
        change = r"s|^  url: .*|  url: /srv/config|; /^  ssh_key/d; /^  known_hosts/d"
        self.run("sed", "-i", change, "/etc/reconciler/agent.yaml")
        self.run("systemctl", "enable", "--now", "reconciler-names", "reconciler")
        self.wait_until_converged()


@pytest.fixture(scope="module")
def installed() -> Iterator[tuple[Host, str]]:
    """A host on which nothing runs yet, and what the installation said."""
    assert WHEELS.is_dir(), "machines have no network: ./scripts/setup test downloads what they install"
    machine = Machine()
    try:
        machine.start()
        host = Host(machine)
        yield host, host.install()
    finally:
        machine.destroy()


@pytest.fixture(scope="module")
def host(installed: tuple[Host, str]) -> Host:
    """A host that runs a shop. Each test leaves it so, but for the last."""
    installed[0].deploy()
    return installed[0]


@pytest.mark.timeout(200)
def test_an_installation_is_sound_and_starts_nothing(installed: tuple[Host, str]) -> None:
    host, said = installed
    assert "switched off nginx's welcome page" in said
    assert "systemctl enable --now docker nginx reconciler-names reconciler" in said
    assert host.run("reconciler", "version").strip() == reconciler.__version__
    host.run("systemd-analyze", "verify", *(f"/etc/systemd/system/{unit}" for unit in UNITS))
    host.run("nginx", "-t")


@pytest.mark.timeout(200)
def test_a_commit_becomes_a_shop(host: Host) -> None:
    assert host.get() == "200 a shop"
    assert len(host.containers()) == 2
    assert host.run("docker", "exec", host.containers()[0], "cat", "/run/secrets/token") == "of-the-shop"
    assert "converged" in host.show("reconciler", "StatusText")


def test_no_secret_reaches_a_disk_by_way_of_memory(host: Host) -> None:
    assert host.show("reconciler", "LimitCORE") == "0"
    assert host.show("reconciler", "MemorySwapMax") == "0"


def test_the_watchdog_is_fed(host: Host) -> None:
    fed = host.show("reconciler", "WatchdogTimestampMonotonic")
    eventually(lambda: host.show("reconciler", "WatchdogTimestampMonotonic") != fed, within=30, what="it is fed again")


def test_a_killed_agent_is_back_and_nobody_notices(host: Host) -> None:
    before, pid = host.containers(), host.show("reconciler", "MainPID")
    host.run("systemctl", "kill", "--signal=SIGKILL", "--kill-whom=main", "reconciler")
    assert host.get() == "200 a shop"
    eventually(
        lambda: host.show("reconciler", "MainPID") not in {"0", pid} and host.active("reconciler"),
        within=60,
        what="systemd has started it again",
    )
    host.wait_until_converged()
    assert host.containers() == before


def test_a_stopped_agent_leaves_everything_running(host: Host) -> None:
    before, secrets = host.containers(), host.run("find", "/run/reconciler/secrets")
    began = time.monotonic()
    host.run("systemctl", "stop", "reconciler")
    assert time.monotonic() - began < 5
    assert host.show("reconciler", "Result") == "success"
    assert host.active("reconciler-names")
    assert (host.containers(), host.run("find", "/run/reconciler/secrets")) == (before, secrets)
    assert host.get() == "200 a shop"
    host.run("systemctl", "start", "reconciler")
    host.wait_until_converged()
    assert host.containers() == before


def test_a_killed_names_service_is_back_at_once(host: Host) -> None:
    host.run("systemctl", "kill", "--signal=SIGKILL", "reconciler-names")
    eventually(lambda: host.active("reconciler-names"), within=20, what="it runs again")
    assert host.get() == "200 a shop"


def test_a_host_that_lost_its_key_goes_on_serving(host: Host) -> None:
    """Nothing can be decrypted, neither the new version nor the running one: it stays as it is, and is reachable."""
    before = host.containers()
    key = "/etc/credstore/reconciler.age.key"
    host.run("mv", key, f"{key}.lost")
    try:
        host.run("systemctl", "restart", "reconciler")
        eventually(
            lambda: "AgeKeyMissing" in host.run("reconciler", "status", check=False), within=30, what="it says why"
        )
        assert host.get() == "200 a shop"
        assert host.containers() == before
        assert host.run("docker", "exec", before[0], "cat", "/run/secrets/token") == "of-the-shop"
    finally:
        host.run("mv", f"{key}.lost", key)
        host.run("systemctl", "restart", "reconciler")
        host.wait_until_converged()


@pytest.mark.timeout(200)
def test_after_a_power_cut_the_shop_is_back(host: Host) -> None:
    """Secrets were in memory and are gone; the engine cannot start the containers before they are there again."""
    host.machine.cut_power()
    host.machine.start()
    eventually(lambda: host.get() == "200 a shop", within=90, every=0.3, what="the shop answers again")
    host.wait_until_converged()
    assert len(host.containers()) == 2


@pytest.mark.timeout(200)
def test_an_upgrade_keeps_settings_and_containers(host: Host) -> None:
    before, pid, names = host.containers(), host.show("reconciler", "MainPID"), host.show("reconciler-names", "MainPID")
    settings = host.run("cat", "/etc/reconciler/agent.yaml")
    assert "restarted the agent" in host.install()
    assert host.show("reconciler", "MainPID") != pid
    assert host.show("reconciler-names", "MainPID") == names
    # No agent finds modules of another version: the old one had ended before the program was moved to its place.
    ended, started = (
        float(host.show("reconciler", f"{what}TimestampMonotonic")) / 1e6 for what in ("InactiveEnter", "ExecMainStart")
    )
    moved = float(host.run("stat", "--format=%.6Z", "/opt/reconciler")) - (time.time() - time.monotonic())
    assert ended - 0.05 <= moved <= started
    assert host.run("cat", "/etc/reconciler/agent.yaml") == settings
    host.wait_until_converged()
    assert host.containers() == before


@pytest.mark.timeout(200)
def test_an_upgrade_whose_names_service_is_another_restarts_that_too(host: Host) -> None:
    before, names = host.containers(), host.show("reconciler-names", "MainPID")
    host.run("sed", "-i", "1i # an older version's", "/etc/systemd/system/reconciler-names.service")
    host.install()
    assert host.active("reconciler-names")
    assert host.show("reconciler-names", "MainPID") != names
    assert host.get() == "200 a shop"
    host.wait_until_converged()
    assert host.containers() == before


def test_an_uninstall_leaves_the_shop_serving(host: Host) -> None:
    before = host.containers()
    said = host.run(str(ROOT / "scripts/uninstall"))
    assert "your apps run on" in said
    assert "welcome page" in said
    for name in host.run("docker", "ps", "--format", "{{.Names}}").split():
        assert f"    {name}\n" in said
    assert "xargs" not in said  # anybody can set a label, so a person looks at the names
    assert not host.active("reconciler")
    host.run("test", "!", "-e", "/opt/reconciler")
    assert host.containers() == before
    assert host.get() == "200 a shop"
    host.run("systemctl", "kill", "--signal=SIGKILL", "reconciler-names")
    eventually(lambda: host.active("reconciler-names"), within=20, what="it runs again")
    assert host.get() == "200 a shop"
    host.run("test", "-e", "/var/lib/reconciler/host.key", "-a", "-e", "/etc/reconciler/agent.yaml")
