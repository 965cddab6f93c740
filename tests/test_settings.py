"""The agent's own settings. Wrong ones are files in ``settings/``, beside what is said about them."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness.golden import assert_golden

from reconciler.core.policy import Policy
from reconciler.errors import InvalidSettings
from reconciler.settings import Docker, NamesService, Nginx, Repository, Settings, Sops, load_settings

CASES = sorted((Path(__file__).parent / "settings").glob("*.yaml"))


def write(directory: Path, text: str, name: str = "agent.yaml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.name)
def test_wrong_settings(file: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        load_settings(file)
    said = str(caught.value).replace(f"{file.parent}/", "")
    assert "hunter2" not in said
    assert_golden(file.with_suffix(".problems"), said)


def test_the_least(tmp_path: Path) -> None:
    url = "https://git.example.com/config.git"
    assert load_settings(write(tmp_path, f"repository: {{url: '{url}'}}\n")) == Settings(
        host=socket.gethostname(), repository=Repository(url=url)
    )


def test_everything_and_paths_relative_to_the_file(tmp_path: Path) -> None:
    text = """
    host: web-1
    repository: {url: "ssh://git@git.example.com/config.git", branch: main, directory: ., interval: 1m30s,
                 ssh_key: deploy_key, known_hosts: ../known_hosts}
    docker: {socket: /var/run/docker.sock, network: reconciler, subnet: 10.201.0.0/16}
    nginx: {command: "sudo nginx -g 'daemon on;'", config: /etc/nginx/nginx.conf, http: 80, https: 443}
    names: {command: ./dnsmasq, start: off, upstream: [192.0.2.53, "2001:db8::53#5353"]}
    sops: {command: sops, age_key: age.key}
    state: /var/lib/reconciler
    runtime: run
    listen: "[::1]:9465"
    policy: {registries: [registry.example.com], bind_sources: [/srv]}
    """
    text = text.replace("start: off", "start: false")
    assert load_settings(write(tmp_path, text)) == Settings(
        host="web-1",
        repository=Repository(
            "ssh://git@git.example.com/config.git",
            interval=90,
            ssh_key=tmp_path / "deploy_key",
            known_hosts=tmp_path / "../known_hosts",
        ),
        docker=Docker(),
        nginx=Nginx(command=("sudo", "nginx", "-g", "daemon on;")),
        names=NamesService(str(tmp_path / "dnsmasq"), start=False, upstream=("192.0.2.53", "2001:db8::53#5353")),
        sops=Sops(age_key=tmp_path / "age.key"),
        runtime=tmp_path / "run",
        listen="[::1]:9465",
        policy=Policy(("registry.example.com",), ("/srv",)),
    )


def test_no_nginx(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, "repository: {url: 'git@host:x'}\nnginx:\n")).nginx is None


@pytest.mark.parametrize(
    ("url", "becomes"),
    [
        ("../config", "BASE/config"),
        ("./config", "BASE/etc/config"),
        ("/srv/git/config.git", "/srv/git/config.git"),
        ("git@git.example.com:team/config.git", "git@git.example.com:team/config.git"),
        ("file:///srv/git/config.git", "file:///srv/git/config.git"),
        ("ssh://git@[2001:db8::1]:2222/config.git", "ssh://git@[2001:db8::1]:2222/config.git"),
    ],
)
def test_local_repositories_are_found_from_the_file(tmp_path: Path, url: str, becomes: str) -> None:
    (tmp_path / "etc").mkdir()
    settings = load_settings(write(tmp_path / "etc", f"repository: {{url: '{url}'}}"))
    assert settings.repository.url == becomes.replace("BASE", str(tmp_path))


def test_json_is_fine_too(tmp_path: Path) -> None:
    file = write(tmp_path, '{"repository": {"url": "git@host:x"}}', "agent.json")
    assert load_settings(file).repository.url == "git@host:x"


def test_a_relative_name_of_the_file_gives_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "repository: {url: 'git@host:x'}\nstate: state\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings(Path("agent.yaml")).state == tmp_path / "state"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"cannot be read: .*agent\.yaml: No such file .*--config"):
        load_settings(tmp_path / "agent.yaml")
    with pytest.raises(InvalidSettings, match="Is a directory"):
        load_settings(tmp_path)


def test_the_dataclasses_cost_no_jsonschema() -> None:
    script = "import sys, reconciler.settings; sys.exit('jsonschema' in sys.modules or 'yaml' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=Path(__file__).parents[1])
