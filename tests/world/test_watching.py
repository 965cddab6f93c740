"""Changes on disk wake whoever asked."""

from __future__ import annotations

import logging
import queue
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import watchfiles
from harness.git import ConfigRepository, run_git
from harness.waiting import eventually

from reconciler.world.watching import RefsWatcher, Watcher, refs_of

Watch = Callable[..., "queue.Queue[str]"]


@pytest.fixture
def watch() -> Iterator[Watch]:
    watchers: list[Watcher] = []

    def start(
        *paths: Path, ignore: tuple[Path, ...] = (), probe: Path | None = None, kind: type[Watcher] = Watcher
    ) -> queue.Queue[str]:
        reasons: queue.Queue[str] = queue.Queue()
        watcher = kind(paths, reasons.put, ignore)
        watcher.start()
        watchers.append(watcher)
        settle(reasons, probe or paths[0])
        return reasons

    yield start
    for watcher in watchers:
        watcher.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "watcher"]


def settle(reasons: queue.Queue[str], path: Path) -> None:
    """Wait until the watcher sees, and until it has nothing more to say."""
    count = iter(range(1000))
    file = path / "probe" if path.is_dir() else path

    def seen() -> bool:
        file.write_text(str(next(count)))
        try:
            return bool(reasons.get(timeout=0.3))
        except queue.Empty:
            return False
        finally:
            if path.is_dir():
                file.unlink()

    eventually(seen, within=20)
    quiet(reasons)


def quiet(reasons: queue.Queue[str]) -> None:
    while True:
        try:
            reasons.get(timeout=0.5)
        except queue.Empty:
            return


def test_a_burst_is_few_wakes(watch: Watch, tmp_path: Path) -> None:
    reasons = watch(tmp_path)
    for number in range(20):
        (tmp_path / f"new{number}").write_text("1")
    assert "changed" in reasons.get(timeout=10)
    quiet(reasons)
    (tmp_path / "new1").unlink()
    assert reasons.get(timeout=10) == f"{tmp_path / 'new1'} changed"


def test_new_directories_and_checkouts(watch: Watch, tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    repository.commit({f"apps/a{number}/app.yaml": "1" for number in range(20)})
    repository.commit({f"apps/a{number}/app.yaml": "2" for number in range(20)})
    reasons = watch(repository.work)
    repository.git("checkout", "--quiet", "HEAD~1")
    assert "apps" in reasons.get(timeout=10)
    quiet(reasons)
    (repository.work / "apps/new").mkdir()
    assert "apps/new" in reasons.get(timeout=10)
    (repository.work / "apps/new/app.yaml").write_text("3")
    assert "apps/new" in reasons.get(timeout=10)


def test_git_directory_and_ignored_ones_are_no_change(watch: Watch, tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--quiet")
    state = tmp_path / "state"
    state.mkdir()
    reasons = watch(tmp_path, ignore=(state,))
    (tmp_path / ".git" / "index").write_text("1")
    (state / "x").write_text("1")
    with pytest.raises(queue.Empty):
        reasons.get(timeout=1)


def test_root_that_is_replaced(watch: Watch, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    reasons = watch(root)
    for _ in range(2):
        shutil.rmtree(root)
        assert str(root) in reasons.get(timeout=10)
        root.mkdir()
        settle(reasons, root)
        (tmp_path / "new").mkdir()
        root.rename(tmp_path / "old")
        (tmp_path / "new").rename(root)
        assert str(root) in reasons.get(timeout=10)
        settle(reasons, root)
        shutil.rmtree(tmp_path / "old")


def test_root_that_is_made_anew_at_once(watch: Watch, tmp_path: Path) -> None:
    """Most file systems give it the same inode again."""
    root = tmp_path / "root"
    root.mkdir()
    reasons = watch(root)
    settle(reasons, root)
    for _ in range(3):
        shutil.rmtree(root)
        root.mkdir()
        settle(reasons, root)


def test_root_that_is_a_link(watch: Watch, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("one")
    reasons = watch(link)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert str(link) in reasons.get(timeout=10)
    settle(reasons, link)


def test_root_that_comes_later(watch: Watch, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    reasons = watch(tmp_path / "later", there, probe=there)
    (tmp_path / "later").mkdir()
    assert str(tmp_path / "later") in reasons.get(timeout=10)
    settle(reasons, tmp_path / "later")


def test_single_file_that_is_replaced_again_and_again(watch: Watch, tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("0")
    reasons = watch(file)
    for number in range(3):
        (tmp_path / "temporary").write_text(str(number))
        (tmp_path / "temporary").rename(file)
        assert str(file) in reasons.get(timeout=10)
        quiet(reasons)
    (tmp_path / "neighbour").write_text("1")
    with pytest.raises(queue.Empty):
        reasons.get(timeout=1)


def test_commit_push_and_gc_of_a_local_repository(watch: Watch, tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    repository.commit({"x": "1"})
    for url in (str(repository.bare), f"file://{repository.bare}", str(repository.work)):
        paths = refs_of(url)
        assert paths
        reasons = watch(*paths, kind=RefsWatcher)
        repository.commit({"x": url})
        reason = reasons.get(timeout=10)
        assert "refs" in reason
        assert ".lock" not in reason
        quiet(reasons)
        run_git(repository.bare, "gc", "--quiet")
        repository.commit({"x": url + "2"})
        assert "refs" in reasons.get(timeout=10)


def test_refs_of(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "our remote")
    repository.commit({"x": "1"})
    repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    assert refs_of(str(repository.bare)) == (repository.bare / "refs",)
    assert refs_of(str(repository.work)) == (repository.work / ".git/refs",)
    assert [path.resolve() for path in refs_of(str(tmp_path / "linked"))] == [repository.work / ".git/refs"]
    assert refs_of(f"file://{quote(str(repository.bare))}") == (repository.bare / "refs",)
    for url in ("ssh://git@host/x", "git@host:x", "https://host/x", str(tmp_path / "absent")):
        assert refs_of(url) == ()


def test_what_cannot_be_watched_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptor is left for inotify: the poll goes on, and the watcher as soon as it can."""
    monkeypatch.setattr("reconciler.world.watching._AGAIN", 0.05)
    reasons: queue.Queue[str] = queue.Queue()
    watcher = Watcher([tmp_path], reasons.put)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert watchfiles.__version__  # imported before no descriptor is left
    with caplog.at_level(logging.WARNING):
        resource.setrlimit(resource.RLIMIT_NOFILE, (4, hard))
        try:
            watcher.start()
            eventually(lambda: "cannot watch" in caplog.text)
            time.sleep(0.3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        settle(reasons, tmp_path)
        watcher.stop()
    assert caplog.text.count("cannot watch") == 1
