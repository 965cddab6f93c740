from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from harness.git import ConfigRepository, run_git

from reconciler.errors import InvalidInput, Unavailable
from reconciler.world.source.clone import Clone


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Grace\n\temail = grace@example.com\n")


@pytest.fixture
def repository(tmp_path: Path) -> ConfigRepository:
    repository = ConfigRepository(tmp_path / "git")
    repository.commit({"apps/shop/app.yaml": "1"}, "One")
    return repository


def clone_at(path: Path) -> Clone:
    clone = Clone.at(path)
    assert clone is not None
    return clone


def test_a_clone_is_found_from_anywhere_in_it(repository: ConfigRepository, tmp_path: Path) -> None:
    clone = clone_at(repository.work / "apps/shop")
    assert (clone.top, clone.prefix) == (repository.work, "apps/shop")
    assert clone.git == clone.common == repository.work / ".git"
    assert Clone.at(tmp_path) is None
    assert Clone.at(repository.bare) is None
    with pytest.raises(InvalidInput, match="not a directory"):
        Clone.at(tmp_path / "nowhere")


def test_a_linked_work_tree_and_a_callers_hook_are_not_mistaken(
    repository: ConfigRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = tmp_path / "linked"
    repository.git("worktree", "add", "--quiet", "-b", "topic", str(linked))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "somebody-elses.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    clone = clone_at(linked)
    assert (clone.top, clone.common) == (linked, repository.work / ".git")
    assert clone.git != clone.common
    standing = clone.survey()
    assert standing.obstacle is not None
    assert (standing.obstacle.reason, standing.branch) == ("NotPushed", "topic")


def test_a_git_that_will_not_work_there_says_why(repository: ConfigRepository) -> None:
    (repository.work / ".git/config").write_text("[core\n")
    with pytest.raises(Unavailable, match="bad config"):
        Clone.at(repository.work)


def test_a_commit_goes_to_the_branch_that_is_followed_whatever_it_is_called(
    repository: ConfigRepository, tmp_path: Path
) -> None:
    work = tmp_path / "mine"
    run_git(tmp_path, "clone", "--quiet", "--origin", "upstream", str(repository.bare), str(work))
    run_git(work, "branch", "--quiet", "-m", "local-name")
    clone = clone_at(work)
    standing = clone.survey()
    assert (standing.remote, standing.branch, standing.obstacle) == ("upstream", "main", None)
    sha = clone.commit(_tree(work), standing.base, "Again\n")
    assert run_git(work, "rev-parse", "HEAD") == standing.base
    clone.push(sha, standing)
    assert run_git(repository.bare, "rev-parse", "main") == sha
    assert clone.follow(sha) == ""
    assert run_git(work, "log", "-1", "--format=%H %an %s") == f"{sha} Grace Again"


def _tree(work: Path) -> str:
    return run_git(work, "rev-parse", "HEAD^{tree}")


def test_it_does_not_follow_over_what_a_person_wrote_meanwhile(repository: ConfigRepository) -> None:
    clone = clone_at(repository.work)
    before = repository.head
    ahead = repository.commit({"apps/shop/app.yaml": "2"}, "Two")
    repository.git("reset", "--quiet", "--hard", before)
    repository.write({"apps/shop/app.yaml": "mine"})
    assert "commit your changes" in clone.follow(ahead)
    assert (repository.work / "apps/shop/app.yaml").read_text() == "mine"


def test_the_work_tree_of_nobody_yet(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", tmp_path / "new"], check=True, timeout=30)
    with pytest.raises(InvalidInput, match="no commit yet"):
        clone_at(tmp_path / "new").survey()


def test_a_detached_head_is_on_the_remotes_own_branch(repository: ConfigRepository) -> None:
    repository.git("checkout", "--quiet", "--detach")
    standing = clone_at(repository.work).survey()
    assert standing.ref == "refs/heads/main"
    assert standing.obstacle is not None
    assert standing.obstacle.reason == "DetachedHead"
