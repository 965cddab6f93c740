from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

from harness.waiting import eventually

from reconciler.world.names import processes


def test_a_process_is_known_by_its_program_and_not_by_what_it_says() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        # Popen has returned when the new program is loaded; the kernel shows its arguments a moment later.
        eventually(lambda: processes.arguments(child.pid) == ["sleep", "60"])
        assert processes.program(child.pid) == Path(os.path.realpath("/bin/sleep")).name
        started = processes.started_at(child.pid)
        assert started is not None
        assert abs(time.time() - started) < 30
        assert child.pid in processes.everyone()
    finally:
        processes.stop(child.pid)
        child.wait(10)
    processes.stop(child.pid)  # gone already: no error


def test_a_process_that_is_gone_says_nothing() -> None:
    child = subprocess.Popen(["true"])
    child.wait(10)
    assert processes.arguments(child.pid) == []
    assert processes.program(child.pid) == ""
    assert processes.started_at(child.pid) is None


def test_who_holds_a_port_is_named() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.93.1", 5353))
        assert f"(process {os.getpid()})" in processes.listener("127.0.93.1", 5353)
    assert processes.listener("127.0.93.1", 5354) == "another program"
