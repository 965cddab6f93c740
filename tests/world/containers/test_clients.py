from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness.scripted_engine import Answer, ScriptedEngine, error

from reconciler.errors import Unavailable
from reconciler.world.containers import clients as module
from reconciler.world.containers.clients import Answered, Clients


def why(clients: Clients) -> Unavailable:
    with pytest.raises(Unavailable) as caught, clients.speaking("list containers") as client:
        client.containers()
    clients.close()
    return caught.value


def test_no_socket(tmp_path: Path) -> None:
    error = why(Clients(tmp_path / "docker.sock"))
    assert error.message == f"the Docker Engine does not answer at {tmp_path}/docker.sock: there is no such socket"
    assert error.reason == "DockerUnavailable"
    assert error.remedy == "Look at `systemctl status docker`"


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "docker.sock"))
    assert "nobody listens" in why(Clients(tmp_path / "docker.sock")).message


def test_a_socket_that_we_may_not_open(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from reconciler.world.containers import wire\n"
        "from reconciler.world.containers.clients import Clients\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    with Clients(Path(sys.argv[1])).speaking('x') as client: pass\n"
        "except Exception as error: print(error)\n"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "docker.sock"))
        listener.listen()
        for directory in (tmp_path, *tmp_path.parents):
            if directory.is_relative_to("/tmp/pytest-of-root"):  # noqa: S108  (pytest makes it for its user only)
                directory.chmod(0o755)
        (tmp_path / "docker.sock").chmod(0o600)
        answer = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "docker.sock")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "permission denied. Run the agent as root" in answer.stdout, answer


def test_an_engine_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "docker.sock"))
        hanging.listen()
        assert "no answer in time" in why(Clients(tmp_path / "docker.sock")).message


def test_an_answer_is_an_error_of_ours_with_what_was_tried() -> None:
    with ScriptedEngine({"GET /containers/json": error(500, "the disk is on fire.")}) as scripted:
        clients = Clients(scripted.socket)
        answered = why(clients)
    assert isinstance(answered, Answered)
    assert answered.status == 500
    assert answered.message == "Docker could not list containers: the disk is on fire"
    assert answered.reason == "DockerError"


def test_our_own_errors_pass_through() -> None:
    with ScriptedEngine({}) as scripted:
        clients = Clients(scripted.socket)
        with pytest.raises(KeyError), clients.speaking("x"):
            raise KeyError
        clients.close()


def test_calls_are_counted_without_ids_and_versions() -> None:
    identity = "0123456789abcdef" * 4
    answers: dict[str, Answer] = {
        f"GET /containers/{identity}/json": lambda: (200, {}),
        "GET /containers/json": lambda: (200, []),
    }
    with ScriptedEngine(answers) as scripted:
        clients = Clients(scripted.socket)
        with clients.speaking("x") as client:
            client.containers()
            client.inspect_container(identity)
        clients.close()
    assert clients.calls == {"GET /version": 1, "GET /containers/json": 1, "GET /containers/ID/json": 1}


def test_the_sdk_is_not_loaded_before_it_is_needed() -> None:
    check = "import sys, reconciler.world.containers, reconciler.world.events; print('docker' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout.strip() == "False"
