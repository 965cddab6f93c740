from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from harness.git import ConfigRepository, run_git

from reconciler.cli import DIFFERENCES, IN_SYNC, parser
from reconciler.cli.rollback import rollback
from reconciler.core.memory import Quarantined, Rehearsed
from reconciler.errors import InvalidInput, Refused, Unavailable
from reconciler.protocols import HistoryEntry
from reconciler.world.source import GitSource
from reconciler.world.store import SqliteStore

NOW = 1_800_000_000.0
FLEET = "kind: Fleet\nhosts:\n  web-1: {labels: [web]}\n"


def manifest(image: str, **fields: object) -> str:
    return yaml.safe_dump({"kind": "App", "image": image, **fields})


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A person with a name in their configuration, on a machine without an agent."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = Grace Hopper\n\temail = grace@example.com\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("reconciler.cli.rollback.DEFAULT_CONFIG", tmp_path / "no-agent-here.yaml")


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> ConfigRepository:
    """``shop`` at its second version, between two changes of ``other``. Not for use: tests get a copy."""
    repository = ConfigRepository(tmp_path_factory.mktemp("pattern") / "git")
    repository.commit(
        {
            "fleet.yaml": FLEET,
            "apps/shop/app.yaml": manifest("shop:1", files=[{"source": "shop.toml", "target": "/etc/shop.toml"}]),
            "apps/shop/shop.toml": "one = 1\n",
            "apps/other/app.yaml": manifest("other:1"),
        },
        "Use shop 1",
    )
    repository.commit({"apps/other/app.yaml": manifest("other:2")}, "Use other 2")
    repository.commit(
        {
            "apps/shop/app.yaml": manifest("shop:2"),
            "apps/shop/shop.toml": None,
            "apps/shop/notes.md": "why two\n",
        },
        "Use shop 2",
    )
    repository.commit({"apps/other/app.yaml": manifest("other:3")}, "Use other 3")
    return repository


@pytest.fixture
def repository(pattern: ConfigRepository, tmp_path: Path) -> ConfigRepository:
    """The same, for this test alone."""
    root = pattern.bare.parent
    shutil.copytree(root, tmp_path / "git", symlinks=True)
    copy_ = copy.copy(pattern)
    copy_.bare, copy_.work = tmp_path / "git" / pattern.bare.name, tmp_path / "git" / pattern.work.name
    settings = copy_.work / ".git/config"
    settings.write_text(settings.read_text().replace(str(root), str(tmp_path / "git")))
    copy_.git("update-index", "--refresh")  # the copies have other inodes
    return copy_


def at(repository: ConfigRepository, message: str) -> str:
    return repository.git("log", "--format=%H", f"--grep=^{message}$", "-n1", "origin/main")


def roll_back(repository: ConfigRepository, *more: str, app: str = "shop", config: Path | None = None) -> int:
    where = ["--repository", str(repository.work)] if "--repository" not in more else []
    config = config or repository.work.parents[1] / "no-agent-here.yaml"
    return rollback(parser().parse_args(["--config", str(config), "rollback", app, *where, *more]))


def bare(repository: ConfigRepository, *arguments: str) -> str:
    return run_git(repository.bare, *arguments)


def untouched(repository: ConfigRepository) -> tuple[str, ...]:
    """Everything that a rollback that is not done must leave alone."""
    asked = (
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--ignored"),
        ("diff",),
        ("ls-files", "-s"),
        ("count-objects",),
    )
    return (*(repository.git(*each) for each in asked), bare(repository, "rev-parse", "main"))


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


# --- where it can be done ---------------------------------------------------------------------------------------------


def test_one_commit_puts_the_folder_back_and_nothing_else(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    first, before = at(repository, "Use shop 1"), repository.head
    assert roll_back(repository, "--why", "it loses orders") == IN_SYNC
    text = told(capsys)
    assert f"shop goes back to {first[:8]}" in text
    assert "is pushed to main of origin" in text
    assert bare(repository, "rev-parse", "main") == repository.head
    assert bare(repository, "rev-parse", "main^") == before
    assert bare(repository, "rev-parse", "main:apps/shop") == bare(repository, "rev-parse", f"{first}:apps/shop")
    assert bare(repository, "rev-parse", "main:apps/other") == bare(repository, "rev-parse", f"{before}:apps/other")
    assert repository.git("status", "--porcelain") == ""
    assert (repository.work / "apps/shop/shop.toml").read_text() == "one = 1\n"
    author, message = bare(repository, "log", "-1", "--format=%an%x00%B", "main").split("\0")
    assert author == "Grace Hopper"
    assert message.startswith(f"Roll back shop to {first[:8]}\n\n")
    for words in ("it loses orders", "Use shop 2 (Ada Lovelace)", f"Rolled-back-to: {first}", before):
        assert words in message
    assert "Use other" not in message.partition("takes back")[2]


def test_twice_it_goes_further_back_and_never_forward(repository: ConfigRepository) -> None:
    repository.commit({"apps/shop/app.yaml": manifest("shop:3"), "apps/shop/notes.md": None}, "Use shop 3")
    assert roll_back(repository) == IN_SYNC
    assert "shop:2" in bare(repository, "show", "main:apps/shop/app.yaml")
    assert roll_back(repository) == IN_SYNC
    assert "shop:1" in bare(repository, "show", "main:apps/shop/app.yaml")
    with pytest.raises(InvalidInput) as error:
        roll_back(repository)
    assert error.value.reason == "NoEarlierVersion"


def test_to_a_revision_that_is_named_however_git_names_it(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    repository.git("tag", "good", at(repository, "Use shop 1"))
    assert roll_back(repository, "--to", "good") == IN_SYNC
    capsys.readouterr()
    assert roll_back(repository, "--to", "good") == IN_SYNC
    assert told(capsys).startswith("Nothing to do: shop is as it was at")
    with pytest.raises(InvalidInput, match="git fetch"):
        roll_back(repository, "--to", "no-such-tag")
    with pytest.raises(InvalidInput):
        roll_back(repository, "--to=--all")


def test_a_clone_that_is_behind_is_brought_forward(repository: ConfigRepository, tmp_path: Path) -> None:
    colleague = tmp_path / "colleague"
    run_git(tmp_path, "clone", "--quiet", str(repository.bare), str(colleague))
    (colleague / "apps/shop/app.yaml").write_text(manifest("shop:9"))
    run_git(colleague, "commit", "--quiet", "-a", "-m", "Use shop 9")
    run_git(colleague, "push", "--quiet", "origin", "HEAD:main")
    assert roll_back(repository) == IN_SYNC
    assert "shop:2" in (repository.work / "apps/shop/app.yaml").read_text()
    assert bare(repository, "log", "-1", "--format=%s", "main^") == "Use shop 9"


def test_an_app_that_was_removed_or_moved_comes_back_where_it_was(repository: ConfigRepository) -> None:
    (repository.work / "teams").mkdir()
    repository.git("mv", "apps/shop", "teams/store")
    repository.commit({"teams/store/app.yaml": manifest("shop:3", name="shop")}, "Move shop")
    assert roll_back(repository) == IN_SYNC
    assert bare(repository, "ls-tree", "-r", "--name-only", "main").split() == [
        "apps/other/app.yaml",
        "apps/shop/app.yaml",
        "apps/shop/notes.md",
        "fleet.yaml",
    ]
    repository.commit({"apps/shop/app.yaml": None, "apps/shop/notes.md": None}, "Remove shop")
    repository.commit({"apps/other/app.yaml": manifest("other:4")}, "Use other 4")
    assert roll_back(repository) == IN_SYNC
    assert "shop:2" in (repository.work / "apps/shop/app.yaml").read_text()


def test_apps_in_the_folder_of_another_stay_as_they_are(repository: ConfigRepository) -> None:
    repository.commit({"apps/shop/worker/app.yaml": manifest("worker:1")}, "Add worker")
    repository.commit(
        {"apps/shop/worker/app.yaml": manifest("worker:2"), "apps/shop/app.yaml": manifest("shop:4")}, "Use both"
    )
    assert roll_back(repository, "--to", at(repository, "Use shop 1")) == IN_SYNC
    assert "shop:1" in (repository.work / "apps/shop/app.yaml").read_text()
    assert "worker:2" in (repository.work / "apps/shop/worker/app.yaml").read_text()
    assert roll_back(repository, app="worker") == IN_SYNC
    assert "worker:1" in (repository.work / "apps/shop/worker/app.yaml").read_text()
    assert "shop:1" in (repository.work / "apps/shop/app.yaml").read_text()


def test_twice_it_never_goes_forward_though_an_app_in_its_folder_has_changed(repository: ConfigRepository) -> None:
    repository.commit({"apps/shop/worker/app.yaml": manifest("worker:1")}, "Add worker")
    repository.commit({"apps/shop/app.yaml": manifest("shop:9")}, "Use shop 9")
    repository.commit({"apps/shop/worker/app.yaml": manifest("worker:2")}, "Use worker 2")
    for _ in range(2):
        assert roll_back(repository) == IN_SYNC
        assert "shop:9" not in (repository.work / "apps/shop/app.yaml").read_text()
    assert "worker:2" in (repository.work / "apps/shop/worker/app.yaml").read_text()


def test_an_app_at_the_root_takes_nobody_with_it(repository: ConfigRepository) -> None:
    files = [{"source": "tool.toml", "target": "/etc/tool.toml"}]
    repository.commit({"app.yaml": manifest("tool:1", name="tool", files=files), "tool.toml": "1"}, "Add tool")
    repository.commit(
        {"app.yaml": manifest("tool:2", name="tool", files=files), "tool.toml": "2", "README.md": "read"}, "Use tool 2"
    )
    assert roll_back(repository, app="tool") == IN_SYNC
    assert (repository.work / "tool.toml").read_text() == "1"
    assert (repository.work / "README.md").exists()
    assert "other:3" in (repository.work / "apps/other/app.yaml").read_text()


def test_a_broken_manifest_goes_back_too(repository: ConfigRepository) -> None:
    repository.commit({"apps/shop/app.yaml": "kind: App\nimgae: shop:3\n"}, "Break it")
    assert roll_back(repository) == IN_SYNC
    assert "shop:2" in (repository.work / "apps/shop/app.yaml").read_text()


def test_a_merge_is_one_change(repository: ConfigRepository) -> None:
    repository.git("checkout", "--quiet", "-b", "topic")
    for version in (3, 4):
        repository.write({"apps/shop/app.yaml": manifest(f"shop:{version}")})
        repository.git("commit", "--quiet", "-a", "-m", f"Try shop {version}")
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-ff", "-m", "Merge topic", "topic")
    repository.push()
    assert roll_back(repository) == IN_SYNC
    assert "shop:2" in (repository.work / "apps/shop/app.yaml").read_text()


def test_environments_of_one_repository_are_told_apart_by_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ConfigRepository(tmp_path / "git")
    for version in (1, 2):
        files = {f"{env}/apps/shop/app.yaml": manifest(f"shop:{version}") for env in ("prod", "stage")}
        repository.commit({**files, "prod/fleet.yaml": FLEET, "stage/fleet.yaml": FLEET}, f"Use shop {version}")
    with pytest.raises(InvalidInput) as error:
        roll_back(repository)
    assert error.value.reason == "SeveralManifests"
    monkeypatch.chdir(repository.work / "prod/apps/shop")
    settings = str(tmp_path / "no-agent-here.yaml")
    assert rollback(parser().parse_args(["--config", settings, "rollback", "shop"])) == IN_SYNC
    assert "shop:1" in (repository.work / "prod/apps/shop/app.yaml").read_text()
    assert "shop:2" in (repository.work / "stage/apps/shop/app.yaml").read_text()
    assert roll_back(repository, "--repository", str(repository.work / "stage")) == IN_SYNC
    assert "shop:1" in (repository.work / "stage/apps/shop/app.yaml").read_text()


# --- where it cannot --------------------------------------------------------------------------------------------------


def test_dry_run_shows_the_difference_and_leaves_not_even_an_object(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    before = untouched(repository)
    assert roll_back(repository, "--dry-run") == DIFFERENCES
    text = capsys.readouterr().out
    assert "-image: shop:2" in text
    assert "+image: shop:1" in text
    assert "Nothing is in the way of a push to main of origin" in " ".join(text.split())
    assert untouched(repository) == before
    assert roll_back(repository, "--dry-run", "--to", "HEAD") == IN_SYNC


def _edit(repository: ConfigRepository) -> None:
    repository.write({"apps/other/app.yaml": manifest("mine:1")})


def _stage(repository: ConfigRepository) -> None:
    repository.write({"new.txt": "mine"})
    repository.git("add", "new.txt")


def _detach(repository: ConfigRepository) -> None:
    repository.git("checkout", "--quiet", "--detach")


def _commit(repository: ConfigRepository) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "-m", "Mine")


def _diverge(repository: ConfigRepository) -> None:
    tip = repository.head
    repository.commit({"apps/other/app.yaml": manifest("other:5")}, "Theirs")
    repository.git("reset", "--quiet", "--hard", tip)
    _commit(repository)


def _stand_in_the_way(repository: ConfigRepository) -> None:
    repository.write({"apps/shop/shop.toml": "mine", ".git/info/exclude": "*.toml\n"})


def _begin_to_pick(repository: ConfigRepository) -> None:
    (repository.work / ".git/CHERRY_PICK_HEAD").write_text(repository.head + "\n")


OBSTACLES = [
    (_edit, "UncommittedChanges", "apps/other/app.yaml"),
    (_stage, "UncommittedChanges", "new.txt"),
    (_detach, "DetachedHead", "on no branch"),
    (_commit, "NotPushed", "a commit that origin has not"),
    (_diverge, "Diverged", "different ways"),
    (_stand_in_the_way, "InTheWay", "apps/shop/shop.toml"),
    (_begin_to_pick, "OperationUnderWay", "a cherry-pick is under way"),
]
PASTED = {"DetachedHead", "Diverged", "InTheWay"}


@pytest.mark.parametrize(("spoil", "reason", "words"), OBSTACLES, ids=[reason for _, reason, _ in OBSTACLES])
def test_whoever_is_in_the_middle_of_something_gets_commands_that_work(
    repository: ConfigRepository,
    capsys: pytest.CaptureFixture[str],
    spoil: object,
    reason: str,
    words: str,
) -> None:
    assert callable(spoil)
    spoil(repository)
    before = untouched(repository)
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    answer = json.loads(capsys.readouterr().out)
    assert (answer["result"], answer["reason"], answer["commit"]) == ("not done", reason, None)
    assert words in answer["message"]
    assert untouched(repository) == before
    if reason not in PASTED:
        return
    assert roll_back(repository, "--dry-run") == DIFFERENCES
    assert "could not be pushed from here" in told(capsys)
    paste(answer["commands"], repository.work)
    assert "shop:1" in bare(repository, "show", "main:apps/shop/app.yaml")
    assert bare(repository, "ls-tree", "--name-only", "main:apps/shop").split() == ["app.yaml", "shop.toml"]
    # All that a person was in the middle of is still there.
    now = untouched(repository)
    assert (now[0], now[1:4]) == (before[0], before[1:4])
    assert not Path(f"{repository.work}-rollback-shop").exists()


def test_the_commands_move_an_app_back_and_leave_who_lives_in_its_folder(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository.work / "teams").mkdir()
    repository.git("mv", "apps/shop", "teams/a shop")
    moved = {"teams/a shop/app.yaml": manifest("shop:3", name="shop"), "teams/a shop/w/app.yaml": manifest("w:1")}
    repository.commit(moved, "Move shop")
    _edit(repository)
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    paste(json.loads(capsys.readouterr().out)["commands"], repository.work)
    assert bare(repository, "ls-tree", "-r", "--name-only", "main").split("\n") == [
        "apps/other/app.yaml",
        "apps/shop/app.yaml",
        "apps/shop/notes.md",
        "fleet.yaml",
        "teams/a shop/w/app.yaml",
    ]
    message = bare(repository, "log", "-1", "--format=%B", "main")
    assert message.startswith("Roll back shop to ")
    assert "back to what apps/shop was at" in message


def paste(commands: Sequence[str], directory: Path) -> None:
    """What a person does with commands that they are shown."""
    script = "\n".join(["set -e", *commands])
    subprocess.run(["sh", "-c", script], check=True, cwd=directory, timeout=60, capture_output=True)


def test_a_remote_that_says_no_leaves_the_clone_as_it_was(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = repository.bare / "hooks/update"
    hook.write_text('#!/bin/sh\ncase "$1" in */main) echo "main is for reviewed changes" >&2; exit 1;; esac\n')
    hook.chmod(0o755)
    before = untouched(repository)[:4]
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    answer = json.loads(capsys.readouterr().out)
    assert answer["reason"] == "PushRefused"
    assert "main is for reviewed changes" in answer["message"]
    assert untouched(repository)[:4] == before
    paste(answer["commands"][1:], repository.work)
    (branch,) = bare(repository, "for-each-ref", "--format=%(refname)", "refs/heads/rollback-*").split()
    assert "shop:1" in bare(repository, "show", f"{branch}:apps/shop/app.yaml")
    assert roll_back(repository) == DIFFERENCES
    text = told(capsys)
    assert "Nothing was changed: main of origin does not take it: main is for reviewed changes" in text
    assert "for review" in text


def test_ones_own_hooks_have_a_say_in_the_push_alone(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks = repository.work / ".git/hooks"
    for name in ("pre-commit", "commit-msg", "pre-push"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} says no >&2\nexit 1\n")
        (hooks / name).chmod(0o755)
    assert roll_back(repository) == DIFFERENCES
    assert "pre-push says no" in told(capsys)
    (hooks / "pre-push").unlink()
    assert roll_back(repository) == IN_SYNC


def test_somebody_who_is_quicker_wins_and_commits_are_signed_where_a_person_signs(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # The signing program runs after our look at the remote.
    program = tmp_path / "gpg"
    program.write_text(
        "#!/bin/sh\ncat >/dev/null\nprintf '\\n[GNUPG:] SIG_CREATED \\n' >&2\n"
        f"echo '-----BEGIN PGP SIGNATURE-----'\ntest -e {tmp_path}/quick || exit 0\n"
        f"unset GIT_DIR\ncd {repository.bare}\n"
        "new=$(git -c user.name=B -c user.email=b@example.com commit-tree -p main -m Quicker 'main^{tree}')\n"
        "git update-ref refs/heads/main $new\n"
    )
    program.chmod(0o755)
    repository.git("config", "gpg.program", str(program))
    repository.git("config", "commit.gpgSign", "true")
    (tmp_path / "quick").touch()
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    answer = json.loads(capsys.readouterr().out)
    assert (answer["reason"], answer["commit"]) == ("PushedMeanwhile", None)
    assert bare(repository, "log", "-1", "--format=%s", "main") == "Quicker"
    (tmp_path / "quick").unlink()
    assert roll_back(repository) == IN_SYNC
    assert "BEGIN PGP SIGNATURE" in bare(repository, "cat-file", "commit", "main")


def test_a_remote_that_is_gone(repository: ConfigRepository, capsys: pytest.CaptureFixture[str]) -> None:
    repository.bare.rename(repository.bare.with_name("moved.git"))
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    answer = json.loads(capsys.readouterr().out)
    assert answer["reason"] == "RemoteUnavailable"
    assert any(f"--source={at(repository, 'Use shop 1')}" in command for command in answer["commands"])
    repository.git("remote", "remove", "origin")
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    assert json.loads(capsys.readouterr().out)["reason"] == "NoRemote"


def test_nobody_commits_who_has_no_name(
    repository: ConfigRepository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home/.gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    monkeypatch.delenv("EMAIL", raising=False)
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    assert json.loads(capsys.readouterr().out)["reason"] == "CommitFailed"


def test_roots_files_do_not_get_into_a_persons_clone(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "home/.gitconfig").write_text("[safe]\n\tdirectory = *\n")
    os.chown(repository.work, 12345, 12345)
    assert roll_back(repository, "--output", "json") == DIFFERENCES
    assert json.loads(capsys.readouterr().out)["reason"] == "ForeignClone"


def test_a_clone_that_lacks_half_of_it_says_so(repository: ConfigRepository, tmp_path: Path) -> None:
    bare(repository, "config", "uploadpack.allowFilter", "true")
    partial = tmp_path / "partial"
    url = repository.bare.as_uri()
    run_git(tmp_path, "clone", "--quiet", "--filter=blob:none", url, str(partial))
    with pytest.raises(Unavailable, match="git fetch --refetch"):
        roll_back(repository, "--repository", str(partial))
    shallow = tmp_path / "shallow"
    run_git(tmp_path, "clone", "--quiet", "--depth=1", url, str(shallow))
    with pytest.raises(InvalidInput, match="git fetch --unshallow"):
        roll_back(repository, "--repository", str(shallow), "--to", at(repository, "Use shop 1"))
    with pytest.raises(InvalidInput, match="no earlier version in this history"):
        roll_back(repository, "--repository", str(shallow))


def test_what_makes_no_sense_is_refused_by_name(repository: ConfigRepository, tmp_path: Path) -> None:
    before = untouched(repository)
    with pytest.raises(InvalidInput, match=r"no app called 'shopp'.*other, shop"):
        roll_back(repository, app="shopp")
    with pytest.raises(InvalidInput, match="neither now nor at"):
        roll_back(repository, "--to", "HEAD", app="shopp")
    with pytest.raises(InvalidInput) as alone:
        roll_back(repository, "--repository", str(tmp_path))
    assert alone.value.reason == "NoClone"
    with pytest.raises(InvalidInput, match="not a directory"):
        roll_back(repository, "--repository", str(tmp_path / "nowhere"))
    assert untouched(repository) == before
    repository.commit({"apps/late/app.yaml": manifest("late:1")}, "Add late")
    with pytest.raises(Refused, match="would remove it"):
        roll_back(repository, "--to", "HEAD~1", app="late")
    with pytest.raises(InvalidInput, match="no earlier version"):
        roll_back(repository, app="late")
    repository.commit({"apps/shop/app.yaml": None, "apps/shop/notes.md": None}, "Remove shop")
    repository.commit({"apps/shop/app.yaml": manifest("store:1", name="store")}, "Add store")
    with pytest.raises(Refused, match="where store is now"):
        roll_back(repository)


def test_what_would_not_be_valid_is_not_committed(repository: ConfigRepository) -> None:
    repository.commit({"apps/other/app.yaml": "kind: App\nimgae: other:9\n"}, "Break other")  # is not our doing
    repository.commit({"apps/shop/app.yaml": "kind: App\nimgae: shop:3\n"}, "Break shop")
    broken = repository.head
    repository.commit({"apps/shop/app.yaml": manifest("shop:4")}, "Mend shop")
    before = untouched(repository)
    with pytest.raises(InvalidInput, match=r"apps/shop/app.yaml:2:1: .*imgae") as error:
        roll_back(repository, "--to", broken)
    assert error.value.reason == "InvalidResult"
    assert "apps/other" not in str(error.value)
    assert untouched(repository) == before
    assert roll_back(repository, "--to", at(repository, "Use shop 2")) == IN_SYNC


def test_what_a_rollback_does_not_take_back_is_said(
    repository: ConfigRepository, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [{"source": "../../shared/tls.conf", "target": "/etc/tls.conf"}]
    step = {"command": ["migrate"]}
    repository.commit({"apps/shop/app.yaml": manifest("shop:3", files=shared), "shared/tls.conf": "one"}, "Use shop 3")
    repository.commit(
        {"apps/shop/app.yaml": manifest("shop:4", before_deploy=step), "shared/tls.conf": "two"}, "Use shop 4"
    )
    repository.commit({"fleet.yaml": FLEET + "  web-2: {}\n"}, "Add web-2")
    assert roll_back(repository) == IN_SYNC
    text = told(capsys)
    assert "shared/tls.conf has changed since" in text
    assert "the fleet file has changed since" in text
    assert "before_deploy (migrate) has run since; what it changed in the database stays" in " ".join(text.split())
    assert "has no before_deploy that could undo it" in " ".join(text.split())


# --- on a host --------------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(repository: ConfigRepository, tmp_path: Path) -> tuple[Path, SqliteStore]:
    """Settings and store of an agent that has followed the repository."""
    state = tmp_path / "state"
    config = tmp_path / "agent.yaml"
    config.write_text(
        yaml.safe_dump({"host": "web-1", "repository": {"url": str(repository.bare)}, "state": str(state)})
    )
    from reconciler.settings import load_settings  # noqa: PLC0415  (it reads what was just written)

    source = GitSource(load_settings(config).repository, state / "mirror.git")
    source.fetch()
    source.close()
    store = SqliteStore(state / "store.db")
    return config, store


def ran(store: SqliteStore, *versions: tuple[str, str]) -> None:
    for at_, (event, revision) in enumerate(versions):
        fingerprint = f"f{versions.index(next(v for v in versions if v[1] == revision))}"
        store.add(HistoryEntry(float(at_), "shop", event, revision, fingerprint))
        store.record_applied("shop", revision, fingerprint, float(at_))
    store.close()


def test_on_a_host_without_a_clone_the_commands_are_told(
    repository: ConfigRepository,
    agent: tuple[Path, SqliteStore],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, store = agent
    first, second = at(repository, "Use shop 1"), at(repository, "Use shop 2")
    ran(store, ("deployed", first), ("deployed", second))
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    files = sorted((tmp_path / "state").rglob("*"))
    asked = ("--repository", str(nowhere), "--output", "json")
    assert roll_back(repository, *asked, config=config) == DIFFERENCES
    answer = json.loads(capsys.readouterr().out)
    assert (answer["reason"], answer["to"]["sha"]) == ("NoClone", first)
    assert answer["because"] == "which is what web-1 ran before"
    left = [path for path in files if "store.db-" not in path.name]
    assert [path for path in sorted((tmp_path / "state").rglob("*")) if "store.db-" not in path.name] == left
    paste(answer["commands"], nowhere)
    assert "shop:1" in bare(repository, "show", "main:apps/shop/app.yaml")
    assert "other:3" in bare(repository, "show", "main:apps/other/app.yaml")


def test_what_the_host_runs_decides_where_back_is(
    repository: ConfigRepository, agent: tuple[Path, SqliteStore], capsys: pytest.CaptureFixture[str]
) -> None:
    config, store = agent
    first = at(repository, "Use shop 1")
    repository.commit({"apps/shop/app.yaml": manifest("shop:3")}, "Use shop 3")
    # The second and the third version never became healthy here.
    ran(store, ("deployed", first))
    store.quarantine("shop", Quarantined("t", "CrashLoop", "it ended 3 times", repository.head, 9.0))
    store.close()
    assert roll_back(repository, config=config) == IN_SYNC
    text = told(capsys)
    assert "which is what web-1 runs" in text
    assert "it ended 3 times" in bare(repository, "log", "-1", "--format=%B", "main")
    assert "shop:1" in bare(repository, "show", "main:apps/shop/app.yaml")


def test_what_failed_long_ago_is_no_reason_for_a_rollback_of_today(
    repository: ConfigRepository, agent: tuple[Path, SqliteStore]
) -> None:
    config, store = agent
    store.quarantine("shop", Quarantined("t", "CrashLoop", "it ended 3 times", "0" * 40, 0.5))
    ran(store, ("deployed", at(repository, "Use shop 1")), ("deployed", at(repository, "Use shop 2")))
    assert roll_back(repository, config=config) == IN_SYNC
    message = bare(repository, "log", "-1", "--format=%B", "main")
    assert "what web-1 ran before" in " ".join(message.split())
    assert "it ended" not in message


def test_another_repositorys_clone_is_not_mistaken(
    repository: ConfigRepository,
    agent: tuple[Path, SqliteStore],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, store = agent
    ran(store, ("deployed", at(repository, "Use shop 1")))
    stranger = ConfigRepository(tmp_path / "stranger")
    stranger.commit({"apps/shop/app.yaml": manifest("shop:1")})
    assert roll_back(repository, "--repository", str(stranger.work), config=config) == DIFFERENCES
    assert "does not have the commit that this host is at" in told(capsys)


@pytest.mark.parametrize("ready", [True, False])
def test_who_goes_back_to_what_was_rehearsed_is_told_what_came_of_it(
    repository: ConfigRepository,
    agent: tuple[Path, SqliteStore],
    capsys: pytest.CaptureFixture[str],
    ready: bool,  # noqa: FBT001  (the answer)
) -> None:
    config, store = agent
    first, second = at(repository, "Use shop 1"), at(repository, "Use shop 2")
    ran(store, ("deployed", first), ("deployed", second))
    for number, revision in enumerate((first, second)):
        store.record_applied("shop", revision, f"f{number}", float(number), f"sha256:{number}")
    between = at(repository, "Use other 2")  # at which shop is what it was
    store.record_rehearsal("shop", Rehearsed("f1", "f0", ready, "", "no such column: total", between, NOW))
    store.close()
    assert roll_back(repository, "--dry-run", config=config) == DIFFERENCES
    text = told(capsys)
    words = "yes, rehearsed at 2027-01-15" if ready else "no, as of 2027-01-15 08:00:00Z: no such column: total"
    assert f"could we go back: {words}" in text
    assert roll_back(repository, "--dry-run", "--to", second, config=config) == IN_SYNC
    assert "could we go back" not in told(capsys)
