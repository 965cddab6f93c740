from __future__ import annotations

from pathlib import Path

import pytest
from harness.git import ConfigRepository

from reconciler.cli import DIFFERENCES, IN_SYNC, parser
from reconciler.cli.against import plan_against
from reconciler.errors import InvalidInput

FLEET = "kind: Fleet\nhosts:\n  web-1: {labels: [web]}\n  db-1: {}\n"


def against(repository: ConfigRepository, *more: str) -> int:
    return plan_against(parser().parse_args(["plan", "--against", "HEAD", "--path", str(repository.work), *more]))


def test_each_host_of_the_fleet_is_told_what_concerns_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = ConfigRepository(tmp_path)
    repository.commit({"fleet.yaml": FLEET, "apps/shop/app.yaml": "kind: App\nimage: shop:1\nhosts: [web]\n"})
    repository.write({"apps/shop/app.yaml": "kind: App\nimage: shop:2\nhosts: [web]\n"})
    assert against(repository, "--host", "db-1") == IN_SYNC
    capsys.readouterr()
    assert against(repository) == DIFFERENCES
    told = capsys.readouterr().out
    assert told.count("shop:1 -> shop:2") == 1
    assert "web-1" in told
    with pytest.raises(InvalidInput, match="lists no host"):
        against(repository, "--host", "nobody")


def test_a_secret_that_changed_is_named_though_nobody_can_open_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.secrets import SecretSmith  # noqa: PLC0415  (only here)

    smith = SecretSmith(tmp_path / "keys")
    repository = ConfigRepository(tmp_path / "git")
    manifest = "kind: App\nimage: shop:1\nsecrets: {file: secrets.sops.yaml}\n"
    repository.commit({"apps/shop/app.yaml": manifest, "apps/shop/secrets.sops.yaml": smith.yaml({"PASSWORD": "one"})})
    repository.write({"apps/shop/secrets.sops.yaml": smith.yaml({"PASSWORD": "two"})})
    assert against(repository) == DIFFERENCES
    assert "secrets.file.PASSWORD" in capsys.readouterr().out


def test_a_way_back_over_a_migration_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = ConfigRepository(tmp_path)
    first = "kind: App\nimage: shop:1\n"
    second = "kind: App\nimage: shop:2\nbefore_deploy: {command: [./manage.py, migrate]}\n"
    one = repository.commit({"apps/shop/app.yaml": first})
    repository.commit({"apps/shop/app.yaml": second})
    repository.commit({"apps/other/app.yaml": "kind: App\nimage: other:1\n"})
    repository.write({"apps/shop/app.yaml": first})
    assert against(repository) == DIFFERENCES
    told = " ".join(capsys.readouterr().out.split())
    assert f"going back from shop:2 ({repository.head[:8]}) to shop:1 ({one[:8]})" in told
    assert "before_deploy (./manage.py migrate) has run since" in told
    assert f"shop:1 ({one[:8]}) has no before_deploy that could undo it" in told
    repository.write({"apps/shop/app.yaml": second.replace("shop:2", "shop:3")})
    assert against(repository) == DIFFERENCES
    assert "going back" not in capsys.readouterr().out
