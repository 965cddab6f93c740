"""Real transports: file, ssh (a real sshd) and smart HTTP (git http-backend behind nginx)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness.git import TOKEN, USER, ConfigRepository, HttpServer, SshServer, StallServer, processes
from harness.waiting import eventually

from reconciler.errors import InvalidSettings, Unavailable
from reconciler.settings import Repository
from reconciler.world.source import GitSource
from reconciler.world.source.remote import Remote, environment

Ports = Callable[[], int]
STALL = 1.5  # seconds that a test waits for a server that says nothing


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("remote")


@pytest.fixture(scope="module")
def repository(root: Path) -> ConfigRepository:
    repository = ConfigRepository(root / "repositories")
    repository.commit({"apps/shop/app.yaml": "image: shop:1\n"}, "Add the shop")
    return repository


@pytest.fixture(scope="module")
def sshd(root: Path) -> Iterator[SshServer]:
    server = SshServer(root / "ssh", 2201)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def http(root: Path, repository: ConfigRepository) -> Iterator[HttpServer]:
    server = HttpServer(root / "http", repository.bare.parent, 8201, 8202)
    yield server
    server.stop()


@pytest.fixture
def by_ssh(sshd: SshServer, repository: ConfigRepository) -> Repository:
    return Repository(url=sshd.url(repository.bare), timeout=20, ssh_key=sshd.key, known_hosts=sshd.known_hosts)


@pytest.fixture
def by_http(http: HttpServer, tmp_path: Path) -> Repository:
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    return Repository(url=http.url("config.git"), timeout=20, token_file=token, username=USER)


def fetched(settings: Repository, mirror: Path) -> str:
    """Fetch the branch, read a file, and return the revision."""
    source = GitSource(settings, mirror)
    try:
        commit = source.fetch()
        assert source.tree(commit.sha).read("apps/shop/app.yaml") == b"image: shop:1\n"
    finally:
        source.close()
    return commit.sha


def refused(settings: Repository, mirror: Path, reason: str) -> Unavailable:
    """Fetch, and expect this reason; nothing secret may be said."""
    source = GitSource(settings, mirror)
    with pytest.raises(Unavailable) as caught:
        source.fetch()
    source.close()
    assert caught.value.reason == reason, caught.value
    assert TOKEN not in str(caught.value)
    assert caught.value.remedy
    return caught.value


# --- good credentials ---


def test_file(repository: ConfigRepository, tmp_path: Path) -> None:
    assert fetched(Repository(url=str(repository.bare)), tmp_path / "m1.git") == repository.head
    assert fetched(Repository(url=f"file://{repository.bare}"), tmp_path / "m2.git") == repository.head
    assert fetched(Repository(url=str(repository.work)), tmp_path / "m3.git") == repository.head


def test_file_of_another_user(tmp_path: Path) -> None:
    theirs = ConfigRepository(tmp_path / "theirs")
    theirs.commit({"apps/shop/app.yaml": "image: shop:1\n"})
    for path in [theirs.bare, *theirs.bare.rglob("*")]:
        os.chown(path, 1000, 1000)
    assert fetched(Repository(url=str(theirs.bare)), tmp_path / "m.git") == theirs.head


def test_ssh(by_ssh: Repository, repository: ConfigRepository, tmp_path: Path) -> None:
    assert fetched(by_ssh, tmp_path / "m.git") == repository.head


def test_http(by_http: Repository, repository: ConfigRepository, tmp_path: Path) -> None:
    assert fetched(by_http, tmp_path / "m.git") == repository.head
    for file in (path for path in (tmp_path / "m.git").rglob("*") if path.is_file()):
        assert TOKEN.encode() not in file.read_bytes(), file


def test_https(
    by_http: Repository, http: HttpServer, repository: ConfigRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(http.certificate))
    settings = replace(by_http, url=http.url("config.git", "https"))
    assert fetched(settings, tmp_path / "m.git") == repository.head


# --- wrong credentials ---


def test_ssh_with_a_key_that_is_not_registered(by_ssh: Repository, sshd: SshServer, tmp_path: Path) -> None:
    error = refused(replace(by_ssh, ssh_key=sshd.other_key), tmp_path / "m.git", "GitAuthFailed")
    assert "does not let us in" in error.message


def test_ssh_with_a_key_that_others_may_read(by_ssh: Repository, sshd: SshServer, tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(sshd.key.read_bytes())
    (tmp_path / "open").chmod(0o644)
    error = refused(replace(by_ssh, ssh_key=tmp_path / "open"), tmp_path / "m.git", "GitAuthFailed")
    assert "chmod 600" in error.remedy


def test_ssh_with_a_key_that_is_none(by_ssh: Repository, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_text("not a key")
    (tmp_path / "garbage").chmod(0o600)
    error = refused(replace(by_ssh, ssh_key=tmp_path / "garbage"), tmp_path / "m.git", "GitAuthFailed")
    assert "no private key" in error.message
    refused(replace(by_ssh, ssh_key=tmp_path / "absent"), tmp_path / "m.git", "GitAuthFailed")


def test_http_with_a_wrong_token(by_http: Repository, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong")
    refused(by_http, tmp_path / "m.git", "GitAuthFailed")


def test_http_without_a_token(by_http: Repository, tmp_path: Path) -> None:
    refused(replace(by_http, token_file=None), tmp_path / "m.git", "GitAuthFailed")
    (tmp_path / "token").write_text("\n")
    assert "is empty" in refused(by_http, tmp_path / "m.git", "GitAuthFailed").message
    (tmp_path / "token").unlink()
    assert "token_file" in refused(by_http, tmp_path / "m.git", "GitAuthFailed").message


# --- whom we do not know ---


def test_ssh_with_an_unknown_host_key(by_ssh: Repository, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    refused(replace(by_ssh, known_hosts=tmp_path / "empty"), tmp_path / "m.git", "GitHostKeyUnknown")
    refused(replace(by_ssh, known_hosts=tmp_path / "absent"), tmp_path / "m.git", "GitHostKeyUnknown")


def test_ssh_with_another_host_key(by_ssh: Repository, sshd: SshServer, tmp_path: Path) -> None:
    key = " ".join(Path(f"{sshd.other_key}.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {key}\n")
    refused(replace(by_ssh, known_hosts=tmp_path / "known"), tmp_path / "m.git", "GitHostKeyChanged")


def test_https_with_a_certificate_that_nobody_signed(by_http: Repository, http: HttpServer, tmp_path: Path) -> None:
    refused(replace(by_http, url=http.url("config.git", "https")), tmp_path / "m.git", "GitCertificateUntrusted")


def test_https_with_a_certificate_for_another_name(
    by_http: Repository, http: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_SSL_CAINFO", str(http.certificate))
    url = http.url("config.git", "https").replace("localhost", "127.0.0.1")
    refused(replace(by_http, url=url), tmp_path / "m.git", "GitCertificateUntrusted")


# --- a server that stalls ---


def test_ssh_that_accepts_and_stalls(by_ssh: Repository, tmp_path: Path) -> None:
    server = StallServer()
    url = f"ssh://root@127.0.0.1:{server.port}/config.git"
    refused(replace(by_ssh, url=url, timeout=STALL), tmp_path / "m.git", "GitTimeout")
    server.stop()
    eventually(lambda: not processes(f"-p {server.port}"), what="who was killed is gone")


def test_ssh_that_lets_us_in_and_stalls(root: Path, repository: ConfigRepository, tmp_path: Path) -> None:
    server = SshServer(root / "stall", 2202, stall=True)
    settings = Repository(
        url=server.url(repository.bare), timeout=STALL, ssh_key=server.key, known_hosts=server.known_hosts
    )
    began = time.monotonic()
    refused(settings, tmp_path / "m.git", "GitTimeout")
    assert time.monotonic() - began < STALL + 5
    eventually(lambda: not processes("IdentitiesOnly=yes -o IdentityAgent=none -o SendEnv=GIT_PROTOCOL -p 2202"))
    server.stop()


def test_http_that_stalls_shows_the_token_to_nobody(by_http: Repository, tmp_path: Path) -> None:
    server = StallServer(ask_password=True)
    settings = replace(by_http, url=f"http://127.0.0.1:{server.port}/config.git", timeout=STALL * 2)
    errors: list[Unavailable] = []
    thread = threading.Thread(target=lambda: errors.append(refused(settings, tmp_path / "m.git", "GitTimeout")))
    thread.start()
    assert server.authorized.wait(10)
    seen = processes(str(server.port))
    thread.join(20)
    server.stop()
    assert any("git-remote-http" in line for line, _ in seen.values())
    for line, variables in seen.values():
        assert TOKEN not in line + variables
    assert errors
    eventually(lambda: not processes(str(server.port)), what="who was killed is gone")


# --- a server that is gone ---


def test_gone(by_ssh: Repository, by_http: Repository, free_port: Ports, tmp_path: Path) -> None:
    port = free_port()
    refused(replace(by_ssh, url=f"ssh://git@127.0.0.1:{port}/x"), tmp_path / "m.git", "GitUnreachable")
    refused(replace(by_http, url=f"http://127.0.0.1:{port}/x"), tmp_path / "m.git", "GitUnreachable")
    refused(replace(by_http, url=f"https://127.0.0.1:{port}/x"), tmp_path / "m.git", "GitUnreachable")
    refused(replace(by_ssh, url="git@no.such.host.invalid:x"), tmp_path / "m.git", "GitUnreachable")
    refused(replace(by_http, url="https://no.such.host.invalid/x"), tmp_path / "m.git", "GitUnreachable")
    refused(Repository(url=str(tmp_path / "absent")), tmp_path / "m.git", "GitRepositoryMissing")


def test_repository_that_is_not_there(
    by_ssh: Repository, by_http: Repository, sshd: SshServer, http: HttpServer, tmp_path: Path
) -> None:
    refused(replace(by_ssh, url=sshd.url(tmp_path / "absent")), tmp_path / "m.git", "GitRepositoryMissing")
    refused(replace(by_http, url=http.url("absent.git")), tmp_path / "m.git", "GitRepositoryMissing")


def test_http_errors(by_http: Repository, http: HttpServer, tmp_path: Path) -> None:
    refused(replace(by_http, url=http.url("moved.git")), tmp_path / "m.git", "GitRedirected")
    refused(replace(by_http, url=http.url("broken.git")), tmp_path / "m.git", "GitUnreachable")


def test_branch_that_is_not_there(by_http: Repository, tmp_path: Path) -> None:
    error = refused(replace(by_http, branch="prod"), tmp_path / "m.git", "GitBranchMissing")
    assert "no branch 'prod'; it has main" in error.message
    empty = ConfigRepository(tmp_path / "empty")
    error = refused(Repository(url=str(empty.bare)), tmp_path / "m.git", "GitBranchMissing")
    assert "no commits yet" in error.message


# --- what settings may say ---


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("git@git.example.com:team/config.git", "ssh"),
        ("git.example.com:config.git", "ssh"),
        ("ssh://git@git.example.com:2222/config.git", "ssh"),
        ("https://git.example.com/config.git", "https"),
        ("http://localhost:3000/config.git", "http"),
        ("http://127.0.0.2/config.git", "http"),
        ("http://[::1]/config.git", "http"),
        ("/srv/config.git", "file"),
        ("file:///srv/config.git", "file"),
        ("./config:1", "file"),
        ("config.git", "file"),
    ],
)
def test_accepted_urls(url: str, kind: str) -> None:
    remote = Remote.of(Repository(url=url))
    assert remote.kind == kind
    if kind == "file":
        assert remote.url.startswith("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "-oProxyCommand=evil",
        "--upload-pack=evil",
        "ext::sh -c evil",
        "git://git.example.com/config.git",
        "http://git.example.com/config.git",
        "http://127.0.0.1.example.com/config.git",
        f"https://git:{TOKEN}@git.example.com/config.git",
        f"https://{TOKEN}@git.example.com/config.git",
        f"https://git.example.com/config.git?private_token={TOKEN}",
        f"ssh://git:{TOKEN}@git.example.com/config.git",
        "ssh://-oProxyCommand=evil/config.git",
        "git@-oProxyCommand=evil:config.git",
        "file://host/srv/config.git",
        "https:///config.git",
        "https://git.example.com/a b",
        "https://git.example.com/a\nb",
    ],
)
def test_refused_urls(url: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Remote.of(Repository(url=url))
    assert caught.value.reason == "InvalidRepositoryUrl"
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("branch", ["main", "release/2.0", "a-b_c", "stage#1", "ümlaut"])
def test_accepted_branches(branch: str) -> None:
    assert Remote.of(Repository(url="/x", branch=branch)).ref == f"refs/heads/{branch}"


@pytest.mark.parametrize(
    "branch",
    ["", "-x", "/x", "x/", "a..b", "a b", "a~1", "a^", "a:b", "a*", "a[", "a\\b", "@{u}", "x.lock", ".x", "x\n"],
)
def test_refused_branches(branch: str) -> None:
    with pytest.raises(InvalidSettings):
        Remote.of(Repository(url="/x", branch=branch))


def test_environment_inherits_nothing_that_steers_git(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_DIR", "GIT_SSH", "GIT_TRACE", "GIT_PROXY_COMMAND", "GIT_CONFIG_PARAMETERS", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, "evil")
    assert "evil" not in environment("ssh").values()
    assert environment("ssh")["GIT_ALLOW_PROTOCOL"] == "ssh"
    assert environment()["GIT_ALLOW_PROTOCOL"] == "none"
