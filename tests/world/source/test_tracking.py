"""What a branch may do to us: move on, be reverted, be rewritten, and what becomes of a mirror that is damaged."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.git import ConfigRepository, processes, run_git
from harness.waiting import eventually

from reconciler.errors import InvalidInput, InvalidSettings, Refused, Unavailable
from reconciler.settings import Repository
from reconciler.world.source import GitSource

MANIFEST = "apps/shop/app.yaml"


class Lab:
    """A repository with three commits, and a source that follows it."""

    def __init__(self, root: Path) -> None:
        self.remote = ConfigRepository(root / "remote")
        self.first, self.second, self.third = (
            self.remote.commit({MANIFEST: f"image: shop:{number}\n"}, f"Deploy shop {number}") for number in (1, 2, 3)
        )
        self.mirror = root / "state" / "mirror.git"
        self.source = self.again()

    def again(self) -> GitSource:
        """A source as a restarted agent has it."""
        if hasattr(self, "source"):
            self.source.close()
        self.source = GitSource(Repository(url=str(self.remote.bare), timeout=20), self.mirror)
        return self.source

    def image(self, revision: str) -> str:
        return self.source.tree(revision).read(MANIFEST).decode().removeprefix("image: ").strip()

    def objects(self) -> list[Path]:
        return [path for path in (self.mirror / "objects").rglob("*") if path.is_file()]

    def lose(self, revision: str) -> None:
        """Take the manifest's blob out of the mirror."""
        for pack in (self.mirror / "objects/pack").glob("*.pack"):
            content = pack.read_bytes()
            pack.unlink()
            pack.with_suffix(".idx").unlink()
            environment = {"PATH": os.environ["PATH"], "GIT_DIR": str(self.mirror)}
            subprocess.run(["git", "unpack-objects", "-q"], input=content, env=environment, check=True, timeout=10)
        blob = run_git(self.remote.work, "rev-parse", f"{revision}:{MANIFEST}")
        (self.mirror / "objects" / blob[:2] / blob[2:]).unlink()

    def refuse(self) -> Refused:
        with pytest.raises(Refused) as caught:
            self.source.fetch()
        assert caught.value.reason == "HistoryRewritten"
        return caught.value


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.source.close()


# --- moving on ---


def test_follows_the_branch(lab: Lab) -> None:
    assert lab.source.trusted() is None
    assert not lab.mirror.exists()
    commit = lab.source.fetch()
    assert (commit.sha, commit.author, commit.subject) == (lab.third, "Ada Lovelace", "Deploy shop 3")
    assert abs(commit.committed_at - time.time()) < 60
    assert lab.source.trusted() == commit
    fourth = lab.remote.commit({MANIFEST: "image: shop:4\n"})
    assert lab.source.fetch().sha == fourth
    assert [lab.image(sha) for sha in (lab.first, lab.third, fourth)] == ["shop:1", "shop:3", "shop:4"]
    assert lab.again().trusted() == lab.source.commit(fourth)


def test_revert_is_a_step_forward(lab: Lab) -> None:
    lab.source.fetch()
    reverted = lab.remote.revert()
    assert lab.source.fetch().sha == reverted
    assert lab.image(reverted) == "shop:2"
    assert lab.source.tree(reverted).entries[MANIFEST] == lab.source.tree(lab.second).entries[MANIFEST]


def test_nothing_is_fetched_when_nothing_moved(lab: Lab) -> None:
    commit = lab.source.fetch()
    before = sorted(str(path) for path in lab.mirror.rglob("*"))
    assert lab.source.fetch() is commit
    assert lab.source.tree(commit.sha) is lab.source.tree(commit.sha)
    assert sorted(str(path) for path in lab.mirror.rglob("*")) == before


def test_packs_are_put_together_at_a_quiet_poll(lab: Lab) -> None:
    lab.source.fetch()
    for name, value in {"fetch.unpackLimit": "1", "gc.autoPackLimit": "1", "gc.autoDetach": "false"}.items():
        run_git(lab.mirror, "config", name, value)
    packs = lab.mirror / "objects/pack"
    for number in range(3):
        lab.remote.commit({"x": str(number)})
        lab.source.fetch()
    assert len(list(packs.glob("*.pack"))) > 2, "nobody waits for it while commits arrive"
    head = lab.source.fetch()
    assert len(list(packs.glob("*.pack"))) == 1
    assert lab.again().trusted() == head


def test_another_branch_is_no_rewrite(lab: Lab) -> None:
    lab.source.fetch()
    lab.remote.git("checkout", "--quiet", "--orphan", "stage/eu")
    lab.remote.branch = "stage/eu"
    stage = lab.remote.commit({MANIFEST: "image: shop:stage\n"})
    other = GitSource(Repository(url=str(lab.remote.bare), branch="stage/eu"), lab.mirror)
    assert other.fetch().sha == stage
    other.close()
    trusted = lab.source.trusted()
    assert trusted is not None
    assert trusted.sha == lab.third


def test_many_fetches_leak_nothing(lab: Lab) -> None:
    lab.source.fetch()
    lab.source.tree(lab.third).read(MANIFEST)
    lab.source.fetch()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  (Path.iterdir holds a descriptor of its own)
    for number in range(20):
        sha = lab.remote.commit({MANIFEST: f"image: shop:1{number}\n"})
        lab.source.fetch()
        assert lab.image(sha) == f"shop:1{number}"
    lab.source.fetch()
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208  (as above)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    eventually(lambda: not {*map(int, children.read_text().split())} & {*processes("cat-file")}, what="all have ended")


# --- rewritten ---


def test_rewritten_branch_is_refused_until_accepted(lab: Lab) -> None:
    lab.source.fetch()
    rewritten = lab.remote.rewrite({MANIFEST: "image: evil:1\n"})
    for _ in range(2):  # a refusal that is repeated says the same
        error = lab.refuse()
        assert lab.third in error.message
        assert rewritten in error.message
        assert "rewritten, and 1 commit would vanish" in error.message
        assert f"reconciler accept {rewritten[:12]}" in error.remedy
    trusted = lab.source.trusted()
    assert trusted is not None
    assert trusted.sha == lab.third
    assert lab.image(lab.third) == "shop:3"
    assert lab.image(rewritten) == "evil:1"

    assert lab.source.accept(rewritten[:8]).sha == rewritten
    assert lab.source.fetch().sha == rewritten
    run_git(lab.mirror, "gc", "--quiet")
    assert lab.again().fetch().sha == rewritten
    assert lab.image(lab.third) == "shop:3", "what was applied before the rewrite stays readable"


def test_rewound_branch_is_refused(lab: Lab) -> None:
    lab.source.fetch()
    lab.remote.rewind(2)
    assert "rewound, and 2 commits would vanish" in lab.refuse().message
    assert lab.again().trusted() is not None
    assert "rewound" in lab.refuse().message
    lab.source.accept(lab.first)
    assert lab.source.fetch().sha == lab.first
    fourth = lab.remote.commit({MANIFEST: "image: shop:4\n"})
    assert lab.source.fetch().sha == fourth


def test_branch_that_comes_back_needs_nobody(lab: Lab) -> None:
    lab.source.fetch()
    lab.remote.rewrite({MANIFEST: "image: evil:1\n"})
    lab.refuse()
    lab.remote.git("reset", "--quiet", "--hard", lab.third)
    lab.remote.push(force=True)
    assert lab.source.fetch().sha == lab.third


def test_accept_by_another_process_is_seen_at_once(lab: Lab) -> None:
    lab.source.fetch()
    rewritten = lab.remote.rewrite({MANIFEST: "image: shop:9\n"})
    lab.refuse()
    other = GitSource(Repository(url=str(lab.remote.bare)), lab.mirror)
    other.accept(rewritten)
    other.close()
    assert lab.source.fetch().sha == rewritten


@pytest.mark.parametrize("revision", ["main", "HEAD", "--all", "zz", "0" * 40, "dead", "", "HEAD~1", ":/Deploy"])
def test_accept_takes_known_revisions_only(lab: Lab, revision: str) -> None:
    lab.source.fetch()
    with pytest.raises(InvalidInput) as caught:
        lab.source.accept(revision)
    assert caught.value.reason == "UnknownRevision"
    with pytest.raises(InvalidInput):
        lab.source.tree(revision)


# --- trees ---


def test_directory(lab: Lab) -> None:
    sha = lab.remote.commit({"hosts/web/apps/api/app.yaml": "image: api:1\n"})
    source = GitSource(Repository(url=str(lab.remote.bare), directory="./hosts/web/"), lab.mirror)
    source.fetch()
    assert list(source.tree(sha).entries) == ["apps/api/app.yaml"]
    with pytest.raises(InvalidInput) as caught:
        source.tree(lab.first)
    source.close()
    assert caught.value.reason == "DirectoryMissing"
    assert "no directory 'hosts/web'" in caught.value.message


@pytest.mark.parametrize("directory", ["/etc", "../x", "a/../../b", "a\nb"])
def test_directory_outside(lab: Lab, directory: str) -> None:
    with pytest.raises(InvalidSettings):
        GitSource(Repository(url=str(lab.remote.bare), directory=directory), lab.mirror)


def test_malicious_objects_are_not_taken(lab: Lab) -> None:
    lab.source.fetch()
    blob = run_git(lab.remote.work, "hash-object", "-w", "--stdin")
    listing = lab.mirror.parent / "listing"
    listing.write_text(f"100644 blob {blob}\t.git\n")
    run_git(lab.remote.work, "config", "core.protectHFS", "false")
    raw = b"100644 .git\0" + bytes.fromhex(blob)
    listing.write_bytes(raw)
    tree = run_git(lab.remote.work, "hash-object", "-w", "-t", "tree", "--literally", str(listing))
    commit = run_git(lab.remote.work, "commit-tree", tree, "-p", lab.third, "-m", "Evil")
    run_git(lab.remote.work, "reset", "--quiet", "--soft", commit)
    lab.remote.push()
    with pytest.raises(Unavailable) as caught:
        lab.source.fetch()
    assert caught.value.reason == "GitObjectsRejected"
    trusted = lab.source.trusted()
    assert trusted is not None
    assert trusted.sha == lab.third


def test_subject_cannot_steer_a_terminal(lab: Lab) -> None:
    lab.remote.commit({"x": "1"}, "Red \x1b[31malert\x07 \u202egnp")
    assert lab.source.fetch().subject == "Red  [31malert   gnp"


# --- a damaged mirror ---


def test_truncated_object_is_healed(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.source.fetch()
    for path in lab.objects():
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:10])
    lab.again()
    with pytest.raises(Unavailable) as caught:
        lab.source.trusted()
    assert caught.value.reason == "MirrorDamaged"
    with caplog.at_level(logging.WARNING):
        assert lab.source.fetch().sha == lab.third
    assert "made anew" in caplog.text
    assert "which revision was trusted" not in caplog.text
    assert lab.image(lab.first) == "shop:1"
    assert lab.mirror.with_name("mirror.git.damaged").is_dir()


def test_blob_that_is_found_damaged_while_reading(lab: Lab) -> None:
    commit = lab.source.fetch()
    tree = lab.source.tree(commit.sha)
    lab.source.close()  # its cat-file still has the old pack open
    lab.lose(commit.sha)
    with pytest.raises(Unavailable) as caught:
        tree.read(MANIFEST)
    assert caught.value.reason == "MirrorDamaged"
    lab.source.fetch()
    assert tree.read(MANIFEST) == b"image: shop:3\n"


@pytest.mark.parametrize("file", ["HEAD", "config"])
def test_garbage_in_the_repository(lab: Lab, file: str) -> None:
    lab.source.fetch()
    (lab.mirror / file).write_bytes(b"\0\1garbage")
    fourth = lab.remote.commit({MANIFEST: "image: shop:4\n"})
    lab.again()
    assert lab.source.fetch().sha == fourth


def test_damaged_mirror_still_refuses_a_rewritten_branch(lab: Lab) -> None:
    """The trusted revision survives, although neither the new mirror nor the remote has its commit any more."""
    lab.source.fetch()
    rewritten = lab.remote.rewrite({MANIFEST: "image: evil:1\n"})
    for path in lab.objects():
        path.unlink()
    lab.again()
    for _ in range(2):
        assert "no longer in its history" in lab.refuse().message
        lab.again()
    lab.source.accept(rewritten)
    assert lab.source.fetch().sha == rewritten


def test_damaged_mirror_gives_what_it_still_has(lab: Lab) -> None:
    """A kept revision that the remote has no more is brought over from the damaged mirror."""
    lab.source.fetch()
    rewritten = lab.remote.rewrite({MANIFEST: "image: shop:9\n"})
    lab.refuse()
    lab.source.accept(rewritten)
    lab.lose(rewritten)
    lab.again()
    with pytest.raises(Unavailable):
        lab.image(rewritten)
    assert lab.source.fetch().sha == rewritten
    assert lab.image(rewritten) == "shop:9"
    assert lab.image(lab.third) == "shop:3"


def test_unreadable_trusted_ref_is_said(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.source.fetch()
    (lab.mirror / "refs/reconciler/trusted/main").write_bytes(b"\0" * 41)
    with caplog.at_level(logging.WARNING):
        assert lab.source.fetch().sha == lab.third
    assert "does not say which revision was trusted" in caplog.text


def test_damaged_mirror_stays_while_the_remote_is_gone(lab: Lab) -> None:
    lab.source.fetch()
    (lab.mirror / "HEAD").write_text("garbage")
    lab.again()
    away = lab.remote.bare.with_name("away.git")
    lab.remote.bare.rename(away)
    with pytest.raises(Unavailable) as caught:
        lab.source.fetch()
    assert caught.value.reason == "GitRepositoryMissing"
    assert (lab.mirror / "HEAD").read_text() == "garbage"
    away.rename(lab.remote.bare)
    assert lab.source.fetch().sha == lab.third


def test_killed_between_the_two_renames(lab: Lab) -> None:
    """The new mirror is complete, the old one has been moved aside, and then the power went."""
    lab.source.fetch()
    lab.remote.rewrite({MANIFEST: "image: evil:1\n"})
    for path in lab.objects():
        path.unlink()
    lab.again()
    lab.refuse()
    lab.mirror.rename(lab.mirror.with_name("mirror.git.new"))
    lab.again()
    assert lab.third in lab.refuse().message


def test_half_made_mirror_is_made_again(lab: Lab) -> None:
    lab.mirror.with_name("mirror.git.new").mkdir(parents=True)
    assert lab.source.fetch().sha == lab.third


def test_lost_mirror(lab: Lab) -> None:
    lab.source.fetch()
    shutil.rmtree(lab.mirror)
    assert lab.again().fetch().sha == lab.third


def test_no_clone_in_a_loop(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    lab.source.fetch()
    for _ in range(2):
        (lab.mirror / "HEAD").write_text("garbage")
        lab.source.close()
        lab.remote.commit()
        with caplog.at_level(logging.WARNING):
            try:
                lab.source.fetch()
            except Unavailable as error:
                assert error.reason == "MirrorDamaged"  # noqa: PT017  (only the second time)
    assert caplog.text.count("it is made anew from") == 1


def test_locks_of_a_killed_git_do_not_bar_for_ever(lab: Lab) -> None:
    lab.source.fetch()
    fourth = lab.remote.commit({MANIFEST: "image: shop:4\n"})
    litter = [lab.mirror / "refs/reconciler/seen/main.lock", lab.mirror / "objects/pack/tmp_pack_abc"]
    for path in litter:
        path.touch()
    with pytest.raises(Unavailable) as caught:
        lab.source.fetch()
    assert caught.value.reason == "GitFailed"
    assert litter[0].exists(), "somebody may be holding it"
    for path in litter:
        os.utime(path, (time.time() - 3600,) * 2)
    with pytest.raises(Unavailable):
        lab.source.fetch()
    assert not any(path.exists() for path in litter)
    assert lab.source.fetch().sha == fourth


def test_state_directory_that_cannot_be_made(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = GitSource(Repository(url=str(lab.remote.bare)), tmp_path / "file" / "mirror.git")
    with pytest.raises(Unavailable) as caught:
        source.fetch()
    assert caught.value.reason == "DiskError"


def test_full_disk_is_no_damage(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=True, timeout=10)
    try:
        source = GitSource(Repository(url=str(lab.remote.bare)), disk / "mirror.git")
        source.fetch()
        big = lab.remote.commit({"noise": os.urandom(900_000)})
        with pytest.raises(Unavailable) as caught:
            source.fetch()
        assert caught.value.reason == "DiskFull"
        trusted = source.trusted()
        assert trusted is not None
        assert trusted.sha == lab.third
        assert source.tree(lab.third).read(MANIFEST)
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True, timeout=10)
        assert source.fetch().sha == big
        source.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=10)


# --- where we are called from ---


def test_called_from_a_hook_of_another_repository(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = ConfigRepository(tmp_path / "elsewhere")
    elsewhere.commit({"other": "1"})
    monkeypatch.setenv("GIT_DIR", str(elsewhere.work / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(elsewhere.work / ".git/index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(elsewhere.work / ".git/objects"))
    assert lab.source.fetch().sha == lab.third
    assert lab.image(lab.third) == "shop:3"


def test_cat_file_that_was_killed_is_started_again(lab: Lab) -> None:
    commit = lab.source.fetch()
    assert lab.image(commit.sha) == "shop:3"
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    readers = [int(pid) for pid in children if int(pid) in processes("cat-file")]
    assert readers
    for pid in readers:
        os.kill(pid, signal.SIGKILL)
    assert lab.image(commit.sha) == "shop:3"


def test_without_git(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unavailable) as caught:
        lab.source.fetch()
    assert caught.value.reason == "CommandMissing"
