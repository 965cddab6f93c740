"""A real nginx is brought to load a generation, or refuses."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.disks import small_disk
from harness.nginx import PrivateNginx, app, certify
from harness.waiting import eventually

from reconciler.core.model import Ingress
from reconciler.core.site import FILE
from reconciler.errors import Failed, Unavailable
from reconciler.world.nginx import NginxSite, include_line

SHOP = app("shop")
BOTH = (SHOP, app("api"))


def serves(nginx: PrivateNginx, host: str) -> bool:
    """A route exists; that its app has no replica is another matter."""
    return nginx.get(host).status == 503


pytestmark = pytest.mark.usefixtures("names")


# --- what is loaded ---


def test_nginx_without_anything_of_ours_answers_but_has_no_generation(stopped: PrivateNginx) -> None:
    stopped.configure(f"server {{ listen {stopped.http}; return 200 hello; }}")
    stopped.start()
    state = stopped.site.observe()
    assert state.loaded == ""
    assert state.written is None


def test_a_stopped_nginx_has_loaded_nothing(stopped: PrivateNginx) -> None:
    assert stopped.site.observe().loaded is None


def test_it_says_what_this_nginx_can_do(stopped: PrivateNginx, command: str) -> None:
    told = subprocess.run([command, "-v"], capture_output=True, text=True, check=True).stderr
    state = stopped.site.observe()
    assert ".".join(map(str, state.version)) in told
    assert state.resolve == (state.version >= (1, 27, 3))
    assert state.ipv6 == Path("/proc/net/if_inet6").exists()


def test_a_generation_is_loaded_and_another_one_after_it(nginx: PrivateNginx) -> None:
    first = nginx.load(SHOP)
    state = nginx.site.observe()
    assert state.loaded == state.written == first.id
    assert time.time() - 60 < state.since <= time.time()
    assert serves(nginx, "shop.example")
    assert nginx.get("api.example").status == 404
    second = nginx.load(*BOTH)
    assert nginx.site.observe().loaded == second.id != first.id
    assert serves(nginx, "shop.example")
    assert serves(nginx, "api.example")


def test_loading_what_is_loaded_reloads_nothing(nginx: PrivateNginx) -> None:
    generation = nginx.load(SHOP)
    before = (nginx.root / "error.log").read_text()
    workers = set(Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split())
    nginx.site.load(generation.id, generation.files)
    assert set(Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()) == workers
    assert (nginx.root / "error.log").read_text() == before


def test_another_agent_finds_the_same_state(nginx: PrivateNginx) -> None:
    generation = nginx.load(SHOP)
    assert NginxSite(nginx.settings, nginx.state).observe().loaded == generation.id


def test_only_this_host_may_ask_which_generation_is_loaded(nginx: PrivateNginx) -> None:
    nginx.load(SHOP)
    with socket.socket() as outsider:  # from an address that is not the one it talks to
        outsider.bind(("127.0.0.2", 0))
        outsider.connect(("127.0.0.1", nginx.http))
        outsider.sendall(b"GET / HTTP/1.0\r\nHost: generation.reconciler.invalid\r\n\r\n")
        assert b"404" in outsider.recv(4096).splitlines()[0]


def test_the_last_five_generations_are_kept(nginx: PrivateNginx) -> None:
    loaded = [nginx.load(app(f"app-{number}")).id for number in range(7)]
    assert {entry.name for entry in (nginx.state / "generations").iterdir()} == set(loaded[2:])
    again = nginx.load(app("app-2"))
    assert again.id == loaded[2]
    last = nginx.load(app("app-9"))
    kept = {entry.name for entry in (nginx.state / "generations").iterdir()}
    assert kept == {last.id, again.id, *loaded[4:]}


# --- what is refused ---


def test_a_generation_that_nginx_rejects_is_never_exposed(nginx: PrivateNginx) -> None:
    good = nginx.load(SHOP)
    bad = "# ours\n    # app api\n    location / {\n        nonsense;\n    }\n"
    with pytest.raises(Failed, match=r"nginx rejects the routes of api: .*reconciler\.conf:3") as caught:
        nginx.site.load("f" * 16, [(FILE, bad)])
    assert caught.value.reason == "NginxRejected"
    state = nginx.site.observe()
    assert state.loaded == state.written == good.id
    os.kill(nginx.pid, signal.SIGHUP)  # somebody reloads
    assert eventually(lambda: nginx.site.observe().loaded == good.id)


def test_what_collides_with_the_rest_of_the_host_is_put_back(stopped: PrivateNginx) -> None:
    stopped.configure()
    stopped.start()
    good = stopped.load(SHOP)
    stopped.configure(f"server {{ listen 127.0.0.1:{stopped.http} default_server; return 200 host; }}")
    with pytest.raises(Failed, match="duplicate default server") as caught:
        stopped.load(*BOTH)
    assert caught.value.reason == "NginxRejected"
    assert "default_server" in caught.value.remedy
    state = stopped.site.observe()
    assert state.loaded == state.written == good.id


def test_a_log_that_the_agent_may_not_write_is_said_with_what_to_do(nginx: PrivateNginx) -> None:
    """systemd keeps it from writing anywhere but where packages do, and 'nginx -t' opens every log."""
    good = nginx.load(SHOP)
    (nginx.root / "logs").mkdir()
    nginx.configure(f"access_log {nginx.root}/logs/own.log;")
    with small_disk(nginx.root / "logs") as disk:
        disk.read_only()
        with pytest.raises(Failed, match="Read-only file system") as caught:
            nginx.load(*BOTH)
    assert "ReadWritePaths=" in caught.value.remedy
    assert nginx.site.observe().loaded == good.id


def test_a_first_generation_that_collides_leaves_nothing_behind(stopped: PrivateNginx) -> None:
    stopped.configure(f"server {{ listen 127.0.0.1:{stopped.http} default_server; return 200 host; }}")
    stopped.start()
    with pytest.raises(Failed):
        stopped.load(SHOP)
    assert stopped.site.observe().written is None
    assert stopped.get("shop.example").text == "host"


def test_a_configuration_that_does_not_include_us_is_said_with_the_line_to_add(stopped: PrivateNginx) -> None:
    stopped.configure(f"server {{ listen 127.0.0.1:{stopped.http}; return 200 host; }}", include=False)
    stopped.start()
    with pytest.raises(Failed, match="does not include our configuration") as caught:
        stopped.load(SHOP)
    assert caught.value.reason == "NginxNotIncluded"
    assert include_line(stopped.state) in caught.value.remedy


def test_the_line_may_stand_in_a_file_that_is_included(stopped: PrivateNginx) -> None:
    (stopped.root / "conf.d").mkdir()
    (stopped.root / "conf.d" / "reconciler.conf").write_text(include_line(stopped.state) + "\n")
    stopped.configure("include conf.d/*.conf;", include=False)
    stopped.start()
    assert stopped.load(SHOP).id == stopped.site.observe().loaded


def test_a_taken_port_is_seen_though_nginx_says_yes(nginx: PrivateNginx) -> None:
    good = nginx.load(SHOP)
    certify(nginx.certificates, "api.example")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", nginx.https))
        holder.listen()
        began = time.monotonic()
        with pytest.raises(Failed, match=rf"bind\(\) to 127.0.0.1:{nginx.https} failed .*in use") as caught:
            nginx.load(SHOP, app("api", Ingress("api.example", "/", 8080, "auto")))
        assert time.monotonic() - began < 15
    assert caught.value.reason == "NginxDidNotLoad"
    assert serves(nginx, "shop.example")
    state = nginx.site.observe()
    assert state.loaded == state.written == good.id
    again = nginx.load(SHOP, app("api", Ingress("api.example", "/", 8080, "auto")))
    assert nginx.site.observe().loaded == again.id


# --- nginx is down, or gone ---


def test_a_stopped_nginx_gets_the_generation_when_it_starts(stopped: PrivateNginx) -> None:
    with pytest.raises(Unavailable, match="nginx is not running") as caught:
        stopped.load(SHOP)
    assert caught.value.reason == "NginxDown"
    assert "systemctl start nginx" in caught.value.remedy
    stopped.start()
    state = stopped.site.observe()
    assert eventually(lambda: stopped.site.observe().loaded) == state.written


def test_a_killed_nginx_is_seen_and_its_stale_pid_harms_nobody(nginx: PrivateNginx) -> None:
    first = nginx.load(SHOP)
    nginx.kill()
    assert nginx.site.observe().loaded is None
    assert nginx.site.observe().written == first.id
    with subprocess.Popen(["sleep", "60"]) as bystander:
        (nginx.root / "nginx.pid").write_text(f"{bystander.pid}\n")
        with pytest.raises(Unavailable, match="nginx is not running"):
            nginx.load(*BOTH)
        assert bystander.poll() is None  # SIGHUP would have ended it
        bystander.kill()
    nginx.start()
    assert eventually(lambda: nginx.site.observe().loaded == nginx.site.observe().written != first.id)


def test_a_master_that_is_gone_is_seen_although_its_workers_answer(nginx: PrivateNginx) -> None:
    nginx.load(SHOP)
    workers = Path(f"/proc/{nginx.pid}/task/{nginx.pid}/children").read_text().split()
    nginx.kill_master()
    try:
        with pytest.raises(Unavailable, match="nginx is not running"):
            nginx.load(*BOTH)
    finally:
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)


def test_an_nginx_that_is_not_installed_is_said(stopped: PrivateNginx) -> None:
    missing = NginxSite(type(stopped.settings)(("no-such-nginx",)), stopped.state)
    with pytest.raises(Unavailable, match="no-such-nginx") as caught:
        missing.observe()
    assert caught.value.reason == "NginxMissing"


# --- our own end ---


def test_a_generation_that_a_crash_cut_short_is_written_again(nginx: PrivateNginx) -> None:
    nginx.load(SHOP)
    generation = nginx.render(*BOTH)
    directory = nginx.state / "generations" / generation.id
    directory.mkdir()
    (directory / FILE).write_text(generation.files[0][1][:100])
    nginx.site.load(generation.id, generation.files)
    assert (directory / FILE).read_text() == generation.files[0][1]
    assert nginx.site.observe().loaded == generation.id


def test_a_crash_between_switch_and_test_is_mended_by_what_nginx_has_loaded(nginx: PrivateNginx) -> None:
    good = nginx.load(SHOP)
    nginx.load(app("older"))
    nginx.load(SHOP)
    generation = nginx.render(*BOTH)
    nginx.configure("server_name_in_redirect off; broken;")
    with pytest.raises(Failed):
        nginx.site.load(generation.id, generation.files)
    (nginx.state / "current").unlink()
    (nginx.state / "current").symlink_to(f"generations/{generation.id}")
    with pytest.raises(Failed, match="broken"):
        nginx.site.load(generation.id, generation.files)
    assert nginx.site.observe().written == nginx.site.observe().loaded == good.id


def test_a_full_disk_changes_nothing(nginx: PrivateNginx) -> None:
    nginx.state.mkdir()
    with small_disk(nginx.state, "256k") as disk:
        good = nginx.load(SHOP)
        disk.fill()
        with pytest.raises(Unavailable) as caught:
            nginx.load(*BOTH)
        assert caught.value.reason == "DiskFull"
        state = nginx.site.observe()
        assert state.loaded == state.written == good.id
        assert [entry.name for entry in (nginx.state / "generations").iterdir()] == [good.id]
        disk.free()
        assert nginx.load(*BOTH).id == nginx.site.observe().loaded


def test_a_quiet_look_starts_no_process(nginx: PrivateNginx, monkeypatch: pytest.MonkeyPatch) -> None:
    generation = nginx.load(SHOP)

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("a process was started")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    assert nginx.site.observe().loaded == generation.id


def test_no_test_changes_who_owns_the_directories_that_nginx_was_built_with(
    stopped: PrivateNginx, command: str, tmp_path: Path
) -> None:
    """A worker writes each body over 16 kB to one; it must still be its own while and after we test."""
    told = subprocess.run([command, "-V"], capture_output=True, text=True, check=True).stderr
    built = [Path(path) for path in re.findall(r"--http-\S+-temp-path=(\S+)", told)]
    (parent,) = {path.parent for path in built}
    owned = [tmp_path / path.name for path in built]
    for directory in owned:
        directory.mkdir(mode=0o700)
        os.chown(directory, 12_345, 0)
    wrapper = tmp_path / "nginx"  # in its own mounts, where these stand in for the host's
    wrapper.write_text(
        f'#!/bin/sh\nexec unshare --mount sh -ec \'mount --bind {tmp_path} {parent}\nexec {command} "$@"\' sh "$@"\n'
    )
    wrapper.chmod(0o755)
    site = NginxSite(replace(stopped.settings, command=(str(wrapper),)), stopped.state)
    generation = stopped.render(SHOP)
    with pytest.raises(Unavailable, match="nginx is not running"):
        site.load(generation.id, generation.files)
    assert [directory.stat().st_uid for directory in owned] == [12_345] * len(owned)
    assert len(owned) == 5


def test_an_upgraded_program_is_asked_again(stopped: PrivateNginx, tmp_path: Path) -> None:
    fake = tmp_path / "nginx"

    def say(version: str) -> None:
        draft = tmp_path / "draft"
        draft.write_text(f"#!/bin/sh\necho 'nginx version: nginx/{version}' >&2\n")
        draft.chmod(0o755)
        draft.replace(fake)

    site = NginxSite(type(stopped.settings)((str(fake),), http=stopped.http), stopped.state)
    say("1.27.2")
    assert not site.observe().resolve
    say("1.27.3")
    assert site.observe().resolve
    say("odd")
    with pytest.raises(Unavailable) as caught:
        site.observe()
    assert caught.value.reason == "NginxUnusable"


def test_certificates_are_told(stopped: PrivateNginx) -> None:
    certify(stopped.certificates, "shop.example")
    state = stopped.site.observe()
    assert state.certificates == {"shop.example"}
    assert len(state.certificate_digests["shop.example"]) == 16


def test_ipv6_and_every_address(stopped: PrivateNginx, free_port: Callable[[], int]) -> None:
    everywhere = type(stopped.settings)(
        stopped.settings.command, stopped.settings.config, free_port(), free_port(), certificates=stopped.certificates
    )
    site = NginxSite(everywhere, stopped.state)
    frontend = type(stopped.frontend)(stopped.frontend.resolver, everywhere.http, everywhere.https)
    stopped.start()
    generation = sys.modules["reconciler.core.site"].render([SHOP], site.observe(), frontend)
    site.load(generation.id, generation.files)
    assert site.observe().loaded == generation.id
    with socket.create_connection(("::1", everywhere.http), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: unknown\r\n\r\n")
        assert b"404" in connection.recv(4096)
