"""What the papers say is true: commands, links, examples and the map."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reconciler

ROOT = Path(__file__).parents[1]
PAPERS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "example-repo").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))


def _reconciler(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "reconciler", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT)


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("paper", PAPERS, ids=_name)
def test_links_lead_somewhere(paper: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", paper.read_text())
    assert [link for link in links if not (paper.parent / link).exists()] == []


@pytest.mark.parametrize("paper", PAPERS, ids=_name)
def test_commands_exist(paper: Path) -> None:
    text = paper.read_text()
    scripts = set(re.findall(r"(?:\./)?(scripts/[a-z]+)\b", text))
    assert {script for script in scripts if not (ROOT / script).is_file()} == set()
    verbs = set(re.findall(r"`reconciler ([a-z]+)", text)) | set(
        re.findall(r"^ +(?:\$ )?reconciler ([a-z]+)", text, re.MULTILINE)
    )
    known = set(re.findall(r"^    ([a-z]+) ", _reconciler("--help").stdout, re.MULTILINE))
    assert verbs <= known


@pytest.mark.parametrize("paper", PAPERS, ids=_name)
def test_lines_fit_a_screen(paper: Path) -> None:
    prose = [line for line in paper.read_text().splitlines() if not line.startswith(("|", "    "))]
    assert [line for line in prose if len(line) > 160] == []


def test_the_readme_names_every_verb() -> None:
    table = (ROOT / "README.md").read_text()
    known = re.findall(r"^    ([a-z]+) ", _reconciler("--help").stdout, re.MULTILINE)
    assert [verb for verb in known if verb != "names" and f"{verb}" not in table] == []


def test_the_readmes_manifest_and_its_mistake(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (manifest,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    said = re.search(r"\$ reconciler validate \.\n    (.*)", readme)
    assert said is not None

    for app in ("web", "db"):
        (tmp_path / "apps" / app).mkdir(parents=True)
    (tmp_path / "apps/db/app.yaml").write_text("kind: App\nimage: postgres:16\n")
    secret = (
        (ROOT / "example-repo/apps/api/secrets.sops.yaml").read_text().replace("DATABASE_PASSWORD:", "DATABASE_URL:")
    )
    (tmp_path / "apps/web/secrets.sops.yaml").write_text(secret)
    web = tmp_path / "apps/web/app.yaml"
    web.write_text(manifest)
    fine = _reconciler("validate", tmp_path)
    assert fine.returncode == 0, fine.stdout

    web.write_text(manifest.replace("replicas:", "replcas:"))
    wrong = _reconciler("validate", tmp_path)
    assert wrong.returncode == 1
    assert said.group(1) in wrong.stdout


def test_the_map_shows_every_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    modules = [path.relative_to(ROOT / "reconciler") for path in (ROOT / "reconciler").rglob("*.py")]
    rooms = {f"{path.name}/" for path in (ROOT / "reconciler/world").iterdir() if f" {path.name}/ " in text}
    unseen = [
        str(module)
        for module in modules
        if not module.name.startswith("__")
        and module.parts[0] != "cli"
        and module.name not in text
        and f"{module.parent.name}/" not in rooms
    ]
    assert unseen == []
    shown = set(re.findall(r"\b([a-z]+\.py)\b", text))
    assert shown - {module.name for module in modules} == set()
    assert len(re.findall(r"^Invariant: ", text, re.MULTILINE)) >= 8


def test_every_dependency_has_a_page() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pages = "\n".join(page.read_text().lower() for page in ADRS)
    names = [re.split(r"[\[<>=]", dependency)[0] for dependency in project["project"]["dependencies"]]
    tools = [tool for tool in project["dependency-groups"]["dev"] if not tool.startswith("types-")]
    assert [name for name in (*names, *tools) if name.lower() not in pages] == []


@pytest.mark.parametrize("page", ADRS, ids=_name)
def test_a_decision_is_half_a_page(page: Path) -> None:
    title = page.read_text().splitlines()[0]
    assert title.startswith(f"# {page.name[:4]}: ")
    assert len(page.read_text().split()) <= 250


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [page.name[:4] for page in ADRS] == [f"{number:04}" for number in range(len(ADRS))]


def test_contributing_fits_on_a_screen() -> None:
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 50


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first.group(1) == reconciler.__version__


def test_the_locks_agree() -> None:
    """What builds the wheel is what the tools' lock says, and hosts run nothing that is not tested."""
    pins = {
        name: set(re.findall(r"^([a-z0-9._-]+==\S+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
    }
    assert pins["requirements.lock"] < pins["requirements-dev.lock"]
    assert pins["requirements-build.lock"] < pins["requirements-dev.lock"]


def test_no_path_of_one_machine_and_no_foreign_name_stands_in_the_tree() -> None:
    git = shutil.which("git")
    assert git is not None
    files = subprocess.run([git, "-C", ROOT, "ls-files"], check=True, capture_output=True, text=True, timeout=30).stdout
    words = ("/wo" + "rk/", "/root/.py" + "env")
    found = [
        file
        for file in files.splitlines()
        if (ROOT / file).is_file() and any(word in (ROOT / file).read_text(errors="replace") for word in words)
    ]
    assert found == []


@pytest.mark.parametrize("schema", ["app", "fleet", "agent"])
def test_every_key_of_a_schema_is_described(schema: str) -> None:
    document = json.loads((ROOT / "schemas" / f"{schema}.schema.json").read_text())
    assert [key for key, value in document["properties"].items() if not value.get("description")] == []
