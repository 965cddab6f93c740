"""What needs no engine; the volumes are in test_containers.py, and a real mount in test_engine.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from harness.labs import claim

from reconciler.core.target import Mount
from reconciler.errors import Refused
from reconciler.world.containers.mounts import check_binds, foreign_volume


def bind(source: Path | str) -> list[Mount]:
    return [Mount("bind", str(source), "/x", read_only=True)]


def test_our_own_directories_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    state = tmp_path / "state"
    state.symlink_to("disk")
    ours = replace(claim(), files_directory=f"{state}/files/shop/1", secrets_directory=f"{state}/secrets/shop/2")
    check_binds(ours, [*bind(f"{state}/files/shop/1/a"), *bind(f"{state}/secrets/shop/2")])
    for source in (f"{state}/files/shop/10", f"{state}/files/shop/1/../../../x"):
        with pytest.raises(Refused, match="symbolic link"):
            check_binds(ours, bind(source))


def test_what_is_missing_or_plain_is_left_to_docker(tmp_path: Path) -> None:
    check_binds(claim(), [*bind(tmp_path), *bind(tmp_path / "missing"), Mount("volume", "data", "/y", read_only=False)])


def test_a_link_that_leads_nowhere_yet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("missing")
    with pytest.raises(Refused, match="missing") as caught:
        check_binds(claim(), bind(tmp_path / "link"))
    assert caught.value.reason == "BindSourceIsLink"


def test_who_wants_the_data_is_told_the_command() -> None:
    error = foreign_volume("shop", "old", "it belongs to the app 'bank'")
    assert "docker volume create --label reconciler.owner=shop NEW" in error.remedy
    assert "-v old:/from:ro -v NEW:/to" in error.remedy
