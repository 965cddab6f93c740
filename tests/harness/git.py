"""Config repositories, and real servers for them: sshd, git http-backend behind nginx, and one that stalls."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path

from harness.waiting import eventually

USER = "deploy"
TOKEN = "t0ken-that-must-not-leak"  # noqa: S105  (it is the thing that the tests look for)


class ConfigRepository:
    """A repository as a team has it: a bare one that is served, and a clone in which people commit."""

    def __init__(self, root: Path, branch: str = "main") -> None:
        self.bare = root / "config.git"
        self.work = root / "work"
        self.branch = branch
        root.mkdir(parents=True, exist_ok=True)
        self._run("init", "--quiet", "--bare", f"--initial-branch={branch}", str(self.bare), directory=root)
        self._run("clone", "--quiet", str(self.bare), str(self.work), directory=root)
        self._run("symbolic-ref", "HEAD", f"refs/heads/{branch}")

    def git(self, *arguments: str) -> str:
        """Any git command in the clone."""
        return self._run(*arguments)

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Write files into the clone; None removes one."""
        for name, content in files.items():
            path = self.work / name
            if content is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(self, files: Mapping[str, str | bytes | None] | None = None, message: str = "Change") -> str:
        """Commit, push, and return the revision."""
        self.write(files or {})
        self._run("add", "--all")
        self._run("commit", "--quiet", "--allow-empty", "-m", message)
        return self.push()

    def revert(self, revision: str = "HEAD") -> str:
        """``git revert``, pushed."""
        self._run("revert", "--no-edit", revision)
        return self.push()

    def push(self, *, force: bool = False) -> str:
        """Push the branch as it is and return its revision."""
        self._run("push", "--quiet", *(["--force"] if force else []), "origin", f"HEAD:refs/heads/{self.branch}")
        return self.head

    @property
    def head(self) -> str:
        """The clone's revision."""
        return self._run("rev-parse", "HEAD")

    def rewind(self, count: int = 1) -> str:
        """Take the last commits off the branch, by force."""
        self._run("reset", "--quiet", "--hard", f"HEAD~{count}")
        return self.push(force=True)

    def rewrite(self, files: Mapping[str, str | bytes | None], message: str = "Rewritten") -> str:
        """Replace the last commit by another one, by force."""
        self._run("reset", "--quiet", "--hard", "HEAD~1")
        self.write(files)
        self._run("add", "--all")
        self._run("commit", "--quiet", "--allow-empty", "-m", message)
        return self.push(force=True)

    def _run(self, *arguments: str, directory: Path | None = None) -> str:
        return run_git(directory or self.work, *arguments)


def run_git(directory: Path, *arguments: str, author: str = "Ada Lovelace") -> str:
    """A git command that knows nothing of this machine's configuration."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": author,
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_COMMITTER_NAME": author,
        "GIT_COMMITTER_EMAIL": "ada@example.com",
    }
    done = subprocess.run(
        ["git", *arguments], cwd=directory, env=environment, check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr.decode()}"
    return done.stdout.decode(errors="replace").strip()


class _Server:
    """A process that serves on a port of loopback."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start(self, argv: list[str], log: Path) -> None:
        with log.open("ab") as output:
            self._processes.append(subprocess.Popen(argv, stdout=output, stderr=output, start_new_session=True))

    def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        self._processes.clear()


class SshServer(_Server):
    """A real sshd with a host key of its own that lets in one deploy key.

    ``stall=True`` lets it in and then never says a word.
    """

    def __init__(self, root: Path, port: int, *, stall: bool = False) -> None:
        super().__init__()
        root.mkdir(parents=True)
        self.root, self.port = root, port
        self.host_key, self.key, self.other_key = root / "host", root / "deploy key", root / "other"
        for path in (self.host_key, self.key, self.other_key):
            generate_key(path)
        self.known_hosts = root / "known hosts"
        self.know(self.host_key)
        forced = 'command="sleep 60" ' if stall else ""
        (root / "authorized_keys").write_text(forced + self._public(self.key) + "\n")
        self._listen()

    def url(self, repository: Path) -> str:
        return f"ssh://root@127.0.0.1:{self.port}{repository}"

    def know(self, host_key: Path) -> None:
        """Write known_hosts with this key for the server."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {self._public(host_key)}\n")

    def _public(self, key: Path) -> str:
        return " ".join(Path(f"{key}.pub").read_text().split()[:2])

    def _listen(self) -> None:
        Path("/run/sshd").mkdir(exist_ok=True)
        # sshd bars an account whose password is locked with "!", unless PAM looks after accounts.
        locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines())
        (self.root / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\n"
            f"HostKey {self.host_key}\n"
            f'AuthorizedKeysFile "{self.root / "authorized_keys"}"\n'
            f"UsePAM {'yes' if locked else 'no'}\n"
            "StrictModes no\nPidFile none\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
            "PrintMotd no\n"
        )
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert sshd
        self._start([sshd, "-D", "-e", "-f", str(self.root / "sshd_config")], self.root / "log")
        eventually(lambda: listens(self.port), what=f"sshd listens; its log is {self.root / 'log'}")


def generate_key(path: Path, kind: str = "ed25519") -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(path)],
        check=True,
        timeout=30,
    )


class HttpServer(_Server):
    """git http-backend behind a real nginx, with a password, over http and https (a certificate of our own making)."""

    def __init__(self, root: Path, repositories: Path, http: int, https: int) -> None:
        super().__init__()
        root.mkdir(parents=True)
        self.http, self.https = http, https
        self.certificate = root / "server.crt"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-keyout", str(root / "server.key"), "-out", str(self.certificate), "-days", "2"),
                *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            ],
            check=True,
            capture_output=True,
            timeout=30,
        )
        (root / "users").write_text(f"{USER}:{{PLAIN}}{TOKEN}\n")
        fastcgi = root / "fcgi.socket"
        self._start(["fcgiwrap", "-f", "-s", f"unix:{fastcgi}"], root / "log")
        eventually(fastcgi.exists, what="fcgiwrap listens")
        configuration = root / "nginx.conf"
        configuration.write_text(_nginx(root, repositories, fastcgi, http, https))
        self._start(["nginx", "-c", str(configuration), "-e", str(root / "error.log")], root / "log")
        eventually(lambda: listens(https), what=f"nginx listens; its log is {root / 'error.log'}")

    def url(self, name: str, scheme: str = "http") -> str:
        port = self.http if scheme == "http" else self.https
        return f"{scheme}://localhost:{port}/{name}"


def _nginx(root: Path, repositories: Path, fastcgi: Path, http: int, https: int) -> str:
    paths = "".join(f"{name}_temp_path {root / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    backend = subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True, timeout=10)
    return f"""
daemon off; user root; pid {root / "pid"}; worker_processes 1;
events {{ worker_connections 64; }}
http {{
    {paths}
    access_log off;
    server {{
        listen 127.0.0.1:{http};
        listen 127.0.0.1:{https} ssl;
        server_name localhost;
        ssl_certificate {root / "server.crt"};
        ssl_certificate_key {root / "server.key"};
        location /moved.git {{ return 301 http://localhost:{http}/config.git$is_args$args; }}
        location /broken.git {{ return 502; }}
        location / {{
            auth_basic git;
            auth_basic_user_file {root / "users"};
            fastcgi_pass unix:{fastcgi};
            fastcgi_param SCRIPT_FILENAME {backend.stdout.strip()}/git-http-backend;
            fastcgi_param GIT_PROJECT_ROOT {repositories};
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param REMOTE_USER $remote_user;
        }}
    }}
}}
"""


class StallServer:
    """Accepts, answers 401 to whoever shows no password where asked to, and then says nothing more."""

    def __init__(self, *, ask_password: bool = False) -> None:
        self._ask_password = ask_password
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._open: list[socket.socket] = []
        self.authorized = threading.Event()
        """Somebody sent a password and waits now."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            if self._ask_password:
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        seen = b""
        with contextlib.suppress(OSError):
            while chunk := connection.recv(65536):
                seen += chunk
                if b"Authorization:" in seen:
                    self.authorized.set()
                elif seen.endswith(b"\r\n\r\n"):
                    connection.sendall(
                        b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="git"\r\nContent-Length: 0\r\n\r\n'
                    )
                    seen = b""

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes(naming: str = "") -> dict[int, tuple[str, str]]:
    """(command line, environment) of every other process whose command line contains a text."""
    result = {}
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            line, environment = (
                (directory / name).read_bytes().replace(b"\0", b" ").decode(errors="replace")
                for name in ("cmdline", "environ")
            )
            if naming in line:
                result[int(directory.name)] = (line, environment)
    return result
