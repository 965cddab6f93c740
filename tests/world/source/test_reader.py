"""Reading one repository through GitPython."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness.git import ConfigRepository

from reconciler.world.source.reader import MirrorDamaged, Reader


def test_it_reads(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    head = repository.commit({"x": "content"}, "Subject\n\nBody")
    reader = Reader(repository.bare)
    assert reader.ref("refs/heads/main") == head
    assert reader.ref("refs/heads/absent") is None
    assert reader.commit(head).subject == "Subject"
    assert reader.contains(head)
    with pytest.raises(KeyError):
        reader.commit("1" * 40)
    reader.rest()
    assert reader.blob(repository.git("rev-parse", "HEAD:x")) == b"content"
    reader.close()
    assert reader.contains(head), "it opens again"
    reader.close()


def test_damage_is_remembered(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    repository.commit({"x": "1"})
    reader = Reader(repository.bare)
    with pytest.raises(MirrorDamaged):
        reader.blob("1" * 40)
    assert reader.damaged is not None
    (repository.bare / "refs/heads/main").write_text("garbage")
    with pytest.raises(MirrorDamaged):
        reader.ref("refs/heads/main")
    reader.close()


def test_a_ref_that_comes_while_it_is_read_is_no_damage(tmp_path: Path) -> None:
    repository = ConfigRepository(tmp_path / "remote")
    head = repository.commit({"x": "1"})
    reader = Reader(repository.bare)
    refs = repository.bare / "refs" / "heads"

    def write() -> None:
        for number in range(300):
            (refs / "new.lock").write_text(f"{head}\n")
            (refs / "new.lock").rename(refs / f"new-{number}")

    writer = threading.Thread(target=write)
    writer.start()
    for number in range(300):
        while reader.ref(f"refs/heads/new-{number}") is None:
            pass
    writer.join()
    assert reader.damaged is None
    reader.close()


def test_nothing_there(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "absent.git")
    assert reader.ref("refs/heads/main") is None
    with pytest.raises(MirrorDamaged):
        reader.contains("1" * 40)


def test_validate_pays_nothing_for_gitpython() -> None:
    code = "import sys, reconciler.world.source, reconciler.world.directory; sys.exit('git' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
