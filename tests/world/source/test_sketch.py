from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.git import ConfigRepository

from reconciler.errors import Unavailable
from reconciler.world.source.mirror import Mirror
from reconciler.world.source.sketch import Sketch, pathspecs


@pytest.fixture
def repository(tmp_path: Path) -> ConfigRepository:
    repository = ConfigRepository(tmp_path / "git: with a colon")
    repository.commit({"a/app.yaml": "1", "a/x": "1", "b/app.yaml": "1"}, "One")
    repository.commit({"a/app.yaml": "2", "a/x": None, "b/app.yaml": "2"}, "Two")
    return repository


@pytest.fixture
def sketch(repository: ConfigRepository) -> Iterator[Sketch]:
    mirror = Mirror(repository.work / ".git")
    with Sketch(mirror) as sketch:
        yield sketch
    mirror.close()


def files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_a_tree_on_paper_leaves_nothing_in_the_repository(repository: ConfigRepository, sketch: Sketch) -> None:
    before = files(repository.work)
    one = sketch.listing("HEAD~1")
    tree = sketch.draw("HEAD", {"a/app.yaml": one["a/app.yaml"], "a/x": one["a/x"], "b/app.yaml": None})
    assert {path: tree.read(path) for path in tree.entries} == {"a/app.yaml": b"1", "a/x": b"1"}
    assert "deleted file mode" in sketch.diff("HEAD")
    assert "+1" in sketch.diff("HEAD")
    assert files(repository.work) == before
    kept = sketch.keep()
    assert repository.git("ls-tree", "-r", "--name-only", kept).split() == ["a/app.yaml", "a/x"]
    assert repository.git("status", "--porcelain") == ""


def test_a_file_may_take_a_folders_place_and_odd_names_stay_themselves(
    repository: ConfigRepository, sketch: Sketch
) -> None:
    odd = os.fsdecode(b"a/\xff new\nline")
    (repository.work / odd).write_text("odd")
    repository.git("config", "core.splitIndex", "true")
    repository.commit({}, "Odd")
    listing = sketch.listing("HEAD")
    assert odd in listing
    tree = sketch.draw("HEAD", {"b/app.yaml": None, "b": listing[odd]})
    assert tree.read("b") == b"odd"
    assert not list((repository.work / ".git").glob("sharedindex.*.lock"))


def test_the_way_to_a_tree(repository: ConfigRepository, sketch: Sketch) -> None:
    repository.commit({"b/app.yaml": "3"}, "Three")
    one, two, three = repository.git("log", "--format=%H", "--reverse").split()
    assert sketch.changes(three, pathspecs(["a"])) == [two, one]
    assert sketch.changes(three, pathspecs(["a", "b"], ["b"])) == [two, one]
    assert [commit.subject for commit in sketch.commits(one, three, pathspecs(["b"]), 1)] == ["Three"]
    assert (sketch.parent(two), sketch.parent(one)) == (one, None)
    assert sketch.is_ancestor(one, three)
    assert not sketch.is_ancestor(three, one)


def test_a_repository_that_is_none_says_so(tmp_path: Path) -> None:
    with Sketch(Mirror(tmp_path)) as sketch, pytest.raises(Unavailable, match="git ls-tree failed"):
        sketch.listing("HEAD")
