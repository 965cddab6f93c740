"""A machine with a real systemd, for tests of the units and of the installation."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from harness.waiting import eventually

ROOT = Path(__file__).parents[2]
BOOT = Path(__file__).with_name("boot_machine.sh")
UNSHARE = ["unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child"]
CLEAN = ("env", "-i", "HOME=/root", "LANG=C.UTF-8", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


class Machine:
    """systemd as PID 1 over an overlay of this machine's root, in namespaces and cgroups of its own."""

    def __init__(self) -> None:
        self.room = Path(tempfile.mkdtemp(prefix="rec-machine-"))
        self.root = self.room / "root"
        self._groups: list[Path] = []
        self._pid = 0
        self._unshare: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Boot; returns when the default target is reached. Again after ``cut_power``: the disk is as it was."""
        self._groups = _groups(self.room.name)
        enter = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self._groups)
        log = (self.room / "console").open("ab")
        self._unshare = subprocess.Popen(
            # Into its groups first: the cgroup namespace begins where the process is when it is made.
            ["sh", "-c", f'{enter}exec "$@"', "sh", *UNSHARE, "bash", str(BOOT), str(self.room), str(ROOT)],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        eventually(self._booted, within=60, what=f"systemd has booted; its console is {self.room / 'console'}")

    def _booted(self) -> bool:
        assert self._unshare is not None
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        self._pid = int(children[0])
        return self.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}

    def run(self, *argv: str, check: bool = True, timeout: float = 60, stdin: str = "") -> str:
        """Run a command in the machine and return all it printed; AssertionError when it fails and ``check`` is set."""
        done = subprocess.run(
            ["nsenter", f"--target={self._pid}", "--all", "--root", "--wd", *CLEAN, *argv],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}"
        return done.stdout

    @property
    def docker(self) -> str:
        """Where the machine's Docker Engine listens, for the SDK."""
        return f"unix:///proc/{self._pid}/root/run/docker.sock"

    def write(self, path: str, content: str) -> None:
        """Write a file in the machine."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat >"$1"', "sh", path, stdin=content)

    def cut_power(self) -> None:
        """All its processes, mounts and memory go at once."""
        if self._unshare is not None:
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
            else:
                self._unshare.kill()
            self._unshare.wait(30)
        self._pid, self._unshare = 0, None
        eventually(self._remove_groups, within=30, what="the machine's cgroups are empty")

    def destroy(self) -> None:
        """Switch it off and throw it away."""
        self.cut_power()
        shutil.rmtree(self.room)

    def _remove_groups(self) -> bool:
        for group in self._groups:
            for directory, _, _ in os.walk(group, topdown=False):
                os.rmdir(directory)  # noqa: PTH106  (os.walk gives strings)
        self._groups = []
        return True


def _groups(name: str) -> list[Path]:
    """A new group for the machine at the top of each hierarchy, where all controllers are to be had."""
    tops = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]
    groups = []
    for top in tops:
        if not (top / "cgroup.procs").exists():
            continue
        group = top / name
        group.mkdir()
        groups.append(group)
        if (top / "cpuset.cpus").exists():  # version 1 takes no process before these are set
            for setting in ("cpuset.cpus", "cpuset.mems"):
                (group / setting).write_text((top / setting).read_text())
        if top == tops[0]:  # version 2: the others are its children
            break
    return groups
