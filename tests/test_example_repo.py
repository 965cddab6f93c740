"""The example is a repository that a team could start from, and its README can be followed to the letter."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "example-repo"
MANIFESTS = sorted(EXAMPLE.glob("apps/*/app.yaml"))
SEALED = sorted(EXAMPLE.glob("apps/*/secrets.sops.yaml"))


def _validate(path: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "reconciler", "validate", str(path)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def test_it_is_valid() -> None:
    done = _validate(EXAMPLE)
    assert done.returncode == 0, done.stdout
    assert "warning" not in done.stdout


def test_it_shows_what_a_team_has() -> None:
    apps = {path.parent.name: yaml.safe_load(path.read_text()) for path in MANIFESTS}
    assert set(apps) == {"web", "api", "db", "worker"}
    assert apps["web"]["replicas"] == 2
    assert apps["web"]["ingress"]
    assert apps["api"]["secrets"]
    assert apps["api"]["depends_on"] == ["db"]
    assert apps["db"]["volumes"]
    assert sum("/shared/shop.conf" in path.read_text() for path in MANIFESTS) == 3


def test_editors_find_the_schemas() -> None:
    for manifest in (*MANIFESTS, EXAMPLE / "fleet.yaml"):
        schema = re.match(r"# yaml-language-server: \$schema=(\S+)\n", manifest.read_text())
        assert schema is not None, manifest
        assert (manifest.parent / schema.group(1)).is_file()


def test_nobody_can_read_its_secrets_and_no_key_lies_about() -> None:
    (recipient,) = re.findall(r"age: (age1[0-9a-z]+)", (EXAMPLE / ".sops.yaml").read_text())
    for file in SEALED:
        document = yaml.safe_load(file.read_text())
        assert [one["recipient"] for one in document["sops"]["age"]] == [recipient]
        assert all(value.startswith("ENC[") for key, value in document.items() if key != "sops")
    files = [path for path in EXAMPLE.rglob("*") if path.is_file()]
    assert not [path for path in files if "AGE-SECRET-" + "KEY" in path.read_text()]


def test_both_workflows_run_the_validation() -> None:
    github = yaml.safe_load((EXAMPLE / ".github/workflows/validate.yaml").read_text())
    assert github["jobs"]["validate"]["steps"][-1]["run"] == "reconciler validate ."
    gitlab = yaml.safe_load((EXAMPLE / ".gitlab-ci.yml").read_text())
    assert gitlab["validate"]["script"][-1] == "reconciler validate ."


def test_owners_are_of_folders_that_exist() -> None:
    lines = (line.split()[0] for line in (EXAMPLE / "CODEOWNERS").read_text().splitlines() if line[:1] not in {"#", ""})
    assert [folder for folder in lines if folder != "*" and not (EXAMPLE / folder.strip("/")).is_dir()] == []


# --- the five things ------------------------------------------------------------------------------------------------


@pytest.fixture
def team(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A clone of the example with secrets of its own, and the environment of somebody who works in it."""
    checkout = tmp_path / "shop"
    shutil.copytree(EXAMPLE, checkout)
    key = tmp_path / "age.key"
    subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True, timeout=20)
    public = subprocess.run(
        ["age-keygen", "-y", key], check=True, capture_output=True, text=True, timeout=20
    ).stdout.strip()
    rules = checkout / ".sops.yaml"
    rules.write_text(re.sub(r"age1[0-9a-z]+", public, rules.read_text()))

    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in {
        "reconciler": f'exec {sys.executable} -m reconciler "$@"',
        "editor": 'sed -i s/old/new/ "$1"',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{text}\n")
        (commands / name).chmod(stat.S_IRWXU)
    environment = {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "EDITOR": str(commands / "editor"),
        "SOPS_AGE_KEY_FILE": str(key),
        "GIT_CONFIG_NOSYSTEM": "1",
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.com\n[init]\ndefaultBranch = main\n")
    for file, secrets in {
        "apps/api/secrets.sops.yaml": "DATABASE_PASSWORD: a\npayment_key: old\n",
        "apps/db/secrets.sops.yaml": "password: a\n",
    }.items():
        (checkout / file).write_text(secrets)
        subprocess.run(["sops", "encrypt", "-i", file], cwd=checkout, env=environment, check=True, timeout=20)
    first = (
        "git init -q && git add -A && git commit -qm 'The shop' && git clone -q --bare . ../shop.git"
        " && git remote add origin ../shop.git && git push -qu origin main"
    )
    subprocess.run(["sh", "-ec", first], cwd=checkout, env=environment, check=True, timeout=30)
    return checkout, environment


def test_the_five_things_can_be_done_as_the_readme_says(team: tuple[Path, dict[str, str]]) -> None:
    checkout, environment = team
    chapters = (EXAMPLE / "README.md").read_text().split("## The five things")[1].split("## Making")[0]
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", chapters, re.MULTILINE)
    things = ["\n".join(line[4:] for line in block.splitlines()) for block in blocks]
    assert len(things) == 5

    def do(thing: str) -> str:
        done = subprocess.run(
            ["sh", "-exc", thing],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"{thing}\n{done.stdout}{done.stderr}"
        return subprocess.run(
            ["git", "--git-dir=../shop.git", "show", "--stat", "--format=%s", "main"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout

    upgrade, revert, secret, add, remove = things
    assert "apps/web/app.yaml" in do(upgrade)
    assert "web:1.5.0" in (checkout / "apps/web/app.yaml").read_text()
    assert do(revert).startswith('Revert "web 1.5.0')
    assert "web:1.4.0" in (checkout / "apps/web/app.yaml").read_text()
    assert "apps/api/secrets.sops.yaml" in do(secret)
    plain = subprocess.run(
        ["sops", "decrypt", "apps/api/secrets.sops.yaml"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        check=True,
        timeout=20,
    ).stdout
    assert b"payment_key: new" in plain
    assert "apps/mailer/app.yaml" in do(add)
    assert "apps/mailer/app.yaml" in do(remove)
    assert not (checkout / "apps/mailer").exists()
    assert _validate(checkout).returncode == 0
