"""What the demo is played on: namespaces, a Docker Engine, nginx, images, and somebody who sends requests all the time.

Everything lives in one directory and in namespaces for processes, mounts and network whose first process is the demo
itself. When that ends, for whatever reason, the kernel ends all the rest; the directory is removed from outside.
"""

from __future__ import annotations

import ctypes
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the same private engine that the tests use

from harness.engine import PrivateEngine  # noqa: E402  (after the path that it is found by)

_NEW_MOUNTS, _NEW_PROCESSES, _NEW_NETWORK = 0x00020000, 0x20000000, 0x40000000
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def apart(play: Callable[[Path, int], int]) -> int:
    """Leave nothing behind of what ``play`` does.

    It is called as the first process of new namespaces, with an empty directory and the id that this process has
    outside, and returns the exit code.
    """
    room = Path(tempfile.mkdtemp(prefix="reconciler-demo-"))
    room.chmod(0o755)  # dnsmasq reads below it as its own user
    try:
        _unshare(_NEW_PROCESSES)  # holds for the next child
        child = os.fork()
        if child == 0:
            os._exit(_first_process(play, room))
        return _wait_for(child)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _first_process(play: Callable[[Path, int], int], room: Path) -> int:
    try:
        outside = int(Path("/proc/self").readlink().name)
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        _unshare(_NEW_MOUNTS | _NEW_NETWORK)
        # A /run of our own: tmpfs for secrets, and no socket of the host's Docker, containerd or systemd in sight.
        for command in (
            "mount --make-rprivate /",
            "mount -t proc proc /proc",
            "mount -t tmpfs -o mode=755 tmpfs /run",
            "ip link set lo up",
        ):
            subprocess.run(command.split(), check=True, timeout=10)
        tempfile.tempdir = str(room)  # whatever is made from here on goes with it
        return play(room, outside)
    except KeyboardInterrupt:
        print("\nInterrupted. Everything that was started is stopped again.")
        return 130
    except BaseException:  # noqa: BLE001  (the last stop before os._exit)
        sys.excepthook(*sys.exc_info())
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _wait_for(child: int) -> int:
    def forward(number: int, _frame: FrameType | None) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1


def _unshare(what: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(what) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare: {os.strerror(error)}")


# --- the shop's programs, made of busybox ---------------------------------------------------------------------------

_CALL = b"""#!/bin/sh
# call HOST PORT: send standard input to another app by its name, print what it answers. Looked up apart, because a
# static busybox resolves names in nslookup only, wherever it was built.
address=$(busybox nslookup "$1" 2>/dev/null | busybox awk '/^Name:/ {found = 1} found && /^Address/ {print $NF; exit}')
exec busybox nc -w 5 "$address" "$2"
"""

_WEB = b"""#!/bin/sh
. /etc/shop.conf
orders=$(printf 'GET /api/ HTTP/1.0\\r\\n\\r\\n' | call api 8080 | busybox tail -n 1)
printf 'Content-Type: text/plain\\r\\n\\r\\n%s, web %s: %s\\n' "$shop_name" "$VERSION" "$orders"
"""

_API = b"""#!/bin/sh
. /etc/shop.conf
[ "$REQUEST_METHOD" = POST ] && command=add || command=count
orders=$(printf '%s %s\\n' "$DATABASE_PASSWORD" $command | call "$DATABASE_HOST" 5432)
proof=$(busybox sha256sum /run/secrets/payment_key | busybox cut -c 1-12)
printf 'Content-Type: text/plain\\r\\n\\r\\n%s orders in %s, payment key sha256:%s\\n' "$orders" "$currency" "$proof"
"""

_MANAGE = b"""#!/bin/sh
echo "$1 $RECONCILER_DIRECTION to $RECONCILER_TO_IMAGE: the orders can stay as they are"
"""

_ANSWER = b"""#!/bin/sh
read -r password command || exit 0
[ "$password" = "$(cat /run/secrets/password)" ] || { echo 'wrong password'; exit 1; }
[ "$command" = add ] && echo order >>/data/orders
touch /data/orders
busybox wc -l </data/orders
"""

_DB = b"""#!/bin/sh
exec busybox nc -ll -p 5432 -e /bin/answer
"""

_WORKER = b"""#!/bin/sh
trap 'exit 0' TERM
while :; do
  printf 'GET /api/ HTTP/1.0\\r\\n\\r\\n' | call api 8080 | busybox tail -n 1
  touch /tmp/alive
  sleep "$PAUSE_SECONDS" &
  wait
done
"""

_SERVE = ('CMD ["httpd", "-f", "-p", "8080", "-h", "/www"]', "USER app")
_SHOP = "registry.example.com/shop"


def make_images(engine: PrivateEngine) -> list[str]:
    """Build, under the very names of the example's manifests, programs that do what those would do."""
    for version in ("1.4.0", "1.5.0"):
        engine.import_image(
            f"{_SHOP}/web:{version}",
            changes=(*_SERVE, f"ENV VERSION={version}"),
            files={
                "bin/call": _CALL,
                "www/healthz": b"ok\n",
                "www/version": f"{version}\n".encode(),
                "www/cgi-bin/index.cgi": _WEB,
            },
        )
    engine.import_image(
        f"{_SHOP}/api:2.3.1",
        changes=_SERVE,
        files={
            "bin/call": _CALL,
            "manage.py": _MANAGE,
            "www/healthz": b"ok\n",
            "www/api/about": b"",
            "www/cgi-bin/index.cgi": _API,
        },
    )
    engine.import_image(
        f"{_SHOP}/db:16.4", changes=('CMD ["/bin/db"]', "USER app"), files={"bin/db": _DB, "bin/answer": _ANSWER}
    )
    engine.import_image(
        f"{_SHOP}/worker:1.4.0", changes=("USER app",), files={"bin/call": _CALL, "bin/worker": _WORKER}
    )
    return [f"{_SHOP}/{image}" for image in ("web:1.4.0", "web:1.5.0", "api:2.3.1", "db:16.4", "worker:1.4.0")]


# --- nginx ----------------------------------------------------------------------------------------------------------


class Nginx:
    """An nginx of the demo's own, under its own prefix, that includes what the agent writes."""

    def __init__(self, room: Path, sites: Path) -> None:
        self.prefix = room / "nginx"
        self.prefix.mkdir()
        self.config = self.prefix / "nginx.conf"
        # Without these it would give the directories of this machine's own nginx to root.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"  {kind}_temp_path {self.prefix}/{kind};\n" for kind in kinds)
        self.config.write_text(
            f"user root;\npid {self.prefix}/pid;\nerror_log {self.prefix}/error.log;\nevents {{}}\n"
            f"http {{\n  access_log off;\n{temporary}  include {sites}/*.conf;\n}}\n"
        )
        self.command = ["nginx", "-p", str(self.prefix)]

    def start(self) -> None:
        """Start it in the background."""
        subprocess.run([*self.command, "-c", str(self.config)], check=True, timeout=20)

    def stop(self) -> None:
        """Stop it at once."""
        argv = [*self.command, "-c", str(self.config), "-s", "stop"]
        subprocess.run(argv, check=False, capture_output=True, timeout=20)


# --- somebody who wants to buy --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request."""

    at: float
    """``time.monotonic()`` when it was complete."""
    status: int
    """0 when the connection broke."""
    body: str


def request(path: str, *, method: str = "GET", host: str = "shop.example.com") -> Answer:
    """Ask nginx, as a visitor would."""
    connection = http.client.HTTPConnection("127.0.0.1", 80, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host})
        response = connection.getresponse()
        body = response.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return Answer(time.monotonic(), 0, str(error))
    else:
        return Answer(time.monotonic(), response.status, body)
    finally:
        connection.close()


class Visitors:
    """Ask for the shop's version about fifty times a second, and remember every answer."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin asking."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        self._thread.join(35)

    def since(self, moment: float) -> tuple[int, list[Answer]]:
        """How many answers came since then, and those of them that were failures."""
        recent = [answer for answer in self.answers if answer.at >= moment]
        return len(recent), [answer for answer in recent if answer.status != http.HTTPStatus.OK]

    def _run(self) -> None:
        while not self._stop.wait(0.02):
            self.answers.append(request("/version"))
