"""The commands that newcomers type first."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import eventually

ROOT = Path(__file__).parents[1]
SCRIPTS = ("setup", "test", "demo", "install", "uninstall", "soak", "bench")
PATH = f"{ROOT}/.cache/bin:{ROOT}/.venv/bin:{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


@pytest.fixture
def machine_without(tmp_path: Path) -> Path:
    """A directory that stands in for PATH: all programs of this machine but those that a test removes."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for directory in ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(directory).iterdir():
            link = programs / program.name
            if not link.is_symlink():
                link.symlink_to(program)
    return programs


def _setup(programs: Path, tmp_path: Path, mode: str = "host") -> subprocess.CompletedProcess[str]:
    """Run a copy of the script in which nothing but ``programs`` can be found."""
    copy = tmp_path / "checkout" / "scripts" / "setup"
    copy.parent.mkdir(parents=True)
    text = (ROOT / "scripts/setup").read_text()
    text = re.sub(r"^PATH=.*", 'PATH="$PATH"', text, flags=re.MULTILINE)
    copy.write_text(text.replace("POLICY=/usr/sbin/policy-rc.d", f"POLICY={tmp_path}/policy-rc.d"))
    return subprocess.run(
        ["bash", str(copy), mode],
        env={"PATH": str(programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _replace(programs: Path, name: str, script: str) -> None:
    (programs / name).unlink(missing_ok=True)
    (programs / name).write_text(f"#!/bin/sh\n{script}\n")
    (programs / name).chmod(stat.S_IRWXU)


def _sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The last thing it said, and it must have failed."""
    assert done.returncode == 1, done
    return done.stderr.strip().splitlines()[-1]


# --- setup ----------------------------------------------------------------------------------------------------------


def test_when_everything_is_there_it_says_nothing_and_asks_no_network() -> None:
    """This process is in a network of its own, from which nothing can be reached."""
    done = subprocess.run(
        ["./scripts/setup", "test"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_python_is_named_before_anything_is_installed(machine_without: Path, tmp_path: Path) -> None:
    (machine_without / "nginx").unlink()
    _replace(machine_without, "python3", "case $1 in -V) echo Python 3.9.2;; *) exit 1;; esac")
    done = _setup(machine_without, tmp_path, "demo")
    assert _sentence(done).startswith("setup: Python 3.11 or later is needed, this is Python 3.9.2")
    assert done.stdout == ""


def test_without_apt_it_names_what_is_missing(machine_without: Path, tmp_path: Path) -> None:
    for program in ("apt-get", "nginx", "dnsmasq"):
        (machine_without / program).unlink()
    said = _sentence(_setup(machine_without, tmp_path))
    assert said == "setup: please install these yourself, setup knows only apt: nginx dnsmasq-base"


def test_missing_programs_are_installed_without_starting_their_services(machine_without: Path, tmp_path: Path) -> None:
    """In apt-get's place stands what asks, as every package does, whether its service may start."""
    (machine_without / "nginx").unlink()
    asks = f"if [ -x {tmp_path}/policy-rc.d ]; then {tmp_path}/policy-rc.d; echo $?; else echo 0; fi"
    _replace(machine_without, "apt-get", f'{{ echo "$@"; {asks}; }} >>{tmp_path}/asked')
    _setup(machine_without, tmp_path, "test")  # and fails then: the copy has no locks beside it
    update, _, install, answer = (tmp_path / "asked").read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install nginx")
    assert answer == "101"  # policy-rc.d's word for no
    assert not (tmp_path / "policy-rc.d").exists()


def test_without_sops_network_and_go_one_sentence_says_what_to_do(machine_without: Path, tmp_path: Path) -> None:
    for program in ("sops", "go"):
        (machine_without / program).unlink(missing_ok=True)
    said = _sentence(_setup(machine_without, tmp_path))
    assert said.startswith("setup: sops 3.13.2 cannot be had here: put the release binary")


def test_a_sops_that_is_not_the_pinned_one_is_not_installed(machine_without: Path, tmp_path: Path) -> None:
    (machine_without / "sops").unlink(missing_ok=True)
    _replace(machine_without, "python3", '[ "$1" != - ] || { echo other >"$3"; exit 0; }; exec /usr/bin/python3 "$@"')
    done = _setup(machine_without, tmp_path)
    assert "its SHA-256 is another one. Nothing was installed" in _sentence(done)
    assert list((tmp_path / "checkout/.cache/bin").iterdir()) == []


# --- all of them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_is_executable_and_clean(script: str) -> None:
    path = ROOT / "scripts" / script
    assert path.stat().st_mode & stat.S_IXUSR
    subprocess.run(["shellcheck", path], check=True, timeout=60)


def test_ci_runs_what_a_person_runs() -> None:
    assert (ROOT / ".ci/run").read_text().splitlines()[-1] == 'exec "$(dirname "$0")/../scripts/test"'


def test_the_soak_takes_a_number_and_nothing_else() -> None:
    done = subprocess.run(["./scripts/soak", "many"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "soak: many is no number of upgrades\n")


@pytest.mark.parametrize("script", ["install", "uninstall"])
def test_a_misspelt_option_changes_nothing(script: str) -> None:
    argv = [f"{ROOT}/scripts/{script}", "--rot", "/nowhere"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    assert done.stderr == f"usage: scripts/{script} [--root DIR]\n"


# --- the demo -------------------------------------------------------------------------------------------------------


@pytest.fixture
def room() -> Iterator[Path]:
    """Where the demo puts everything. Short: the path of a unix socket is limited to 107 bytes."""
    room = Path(tempfile.mkdtemp(prefix="rd-"))
    yield room
    shutil.rmtree(room)


def _demo(room: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / ".venv/bin/python", "-B", ROOT / "scripts/story.py"],
        env={**os.environ, "TMPDIR": str(room), "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _traces(room: Path) -> list[str]:
    """Files, processes, mounts and cgroups that are left."""
    word = os.fsencode(room)
    processes = [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path, word)]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(room) in line]
    return [*map(str, room.iterdir()), *processes, *mounts]


def _holds(path: Path, word: bytes) -> bool:
    try:
        return word in path.read_bytes()
    except OSError:  # it ended in this moment
        return False


@pytest.mark.timeout(330)
def test_the_demo_tells_its_story_and_leaves_nothing_behind(room: Path) -> None:
    with _demo(room) as demo:
        told, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, told
    for sentence in (
        r"After [0-9.]+ s the shop answers through nginx",
        r"The API has its secret",
        r"[0-9.]+ s after the push every visitor sees 1\.5\.0\.",
        r"[0-9.]+ s after the push every visitor sees 1\.4\.0 again",
        r"apps/web/app\.yaml:5:1: unknown key 'replcas'; did you mean 'replicas'\?",
        r"Repaired [0-9.]+ s later",
        r"reconciler_drift_repairs_total\{app=\"web\"\} 1\.0",
        r"Everything that was started is stopped again",
    ):
        assert re.search(sentence, told), f"{sentence}\n{told}"
    assert "\033" not in told  # no colours outside a terminal
    assert _traces(room) == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(room: Path, number: signal.Signals) -> None:
    with _demo(room) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "reconciler run &" in line:
                break
        eventually(lambda: list(room.glob("*/state/mirror.git")), within=60, what="the agent is at work")
        # Ctrl-C reaches every process of the terminal, a kill only the one.
        for pid in _story(demo.pid) if number == signal.SIGINT else [demo.pid]:
            os.kill(pid, number)
        rest = demo.stdout.read()
    assert demo.returncode == 130, rest
    assert "Everything that was started is stopped again" in rest
    assert _traces(room) == []


def _story(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]
