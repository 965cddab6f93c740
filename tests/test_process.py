from __future__ import annotations

import os
import resource
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from harness.waiting import eventually

from reconciler.errors import Unavailable
from reconciler.process import end_all, run


def test_output_error_and_exit_code_come_back() -> None:
    done = run(["sh", "-c", "cat; echo oops >&2; exit 3"], timeout=10, stdin=b"in")
    assert (done.code, done.stdout, done.tail) == (3, b"in", "oops")


def test_quiet_drops_standard_error_unread() -> None:
    assert run(["sh", "-c", "echo plaintext >&2"], timeout=10, quiet=True).stderr == ""


def test_the_environment_is_the_given_one_and_no_other() -> None:
    assert run(["/usr/bin/env"], timeout=10, environment={"A": "b"}).stdout == b"A=b\n"


def test_a_missing_command_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="not installed") as caught:
        run(["no-such-command-at-all"], timeout=10)
    assert caught.value.reason == "CommandMissing"
    (tmp_path / "plain").write_text("text")
    with pytest.raises(Unavailable, match="may not be executed"):
        run([str(tmp_path / "plain")], timeout=10)


def test_a_missing_directory_is_not_a_missing_command(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for directory in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(Unavailable, match=f"cannot be started in {directory}") as caught:
            run(["true"], timeout=10, directory=str(directory))
        assert caught.value.reason == "CommandFailed"


def test_a_program_for_another_machine_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(b"\x7fELFgarbage")
    (tmp_path / "program").chmod(0o755)
    with pytest.raises(Unavailable, match="Exec format error") as caught:
        run([str(tmp_path / "program")], timeout=10)
    assert caught.value.reason == "CommandFailed"
    assert caught.value.remedy


def test_want_of_open_files_is_told_and_passes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor + 1, hard))
    try:
        with pytest.raises(Unavailable, match="Too many open files") as caught:
            run(["true"], timeout=10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.reason == "CommandFailed"
    assert run(["true"], timeout=10).code == 0


def test_a_command_that_takes_too_long_ends_with_all_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        run(["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], timeout=0.5)
    assert caught.value.reason == "Timeout"
    assert time.monotonic() - began < 10
    eventually(partial(is_gone, (tmp_path / "pid").read_text().strip()))


def test_what_still_runs_can_be_ended_with_all_its_children(tmp_path: Path) -> None:
    codes: list[int] = []
    command = ["sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"]
    caller = threading.Thread(target=lambda: codes.append(run(command, timeout=60).code))
    caller.start()
    child = eventually(lambda: (tmp_path / "pid").read_text().strip())
    end_all()
    caller.join(10)
    assert codes == [-signal.SIGKILL]
    eventually(partial(is_gone, child))
    end_all()  # with nothing to do


def is_gone(pid: str) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z" in stat.read_text()
