"""What is read from nginx's own words; how it is run is shown by ``test_site.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.nginx import PrivateNginx

from reconciler.world.nginx.program import Program, directive


def test_a_directive_outside_of_all_blocks_is_found() -> None:
    dump = "user www-data;\npid '/run/nginx.pid';\nhttp {\n  error_log /var/log/other.log;\n}\n"
    assert directive(dump, "pid") == "/run/nginx.pid"
    assert directive(dump, "error_log") is None


def test_an_nginx_that_was_built_without_a_module_is_not_told_of_it(stopped: PrivateNginx, tmp_path: Path) -> None:
    fake = tmp_path / "nginx"
    fake.write_text("#!/bin/sh\necho 'nginx/1.26.0 --without-http_scgi_module --without-http_uwsgi_module' >&2\n")
    fake.chmod(0o755)
    build = Program(replace(stopped.settings, command=(str(fake),))).build()
    assert build.temp_paths == ("client_body_temp_path", "proxy_temp_path", "fastcgi_temp_path")
