"""What a wheel built from this checkout holds: everything that ``pip install`` must bring, nothing of this checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import reconciler

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={room}", str(ROOT)],
        check=True,
        timeout=100,
    )
    (built,) = room.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_schemas_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert wheel.name == f"reconciler-{reconciler.__version__}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"reconciler", f"reconciler-{reconciler.__version__}.dist-info"}
    assert {name for name in names if name.endswith(".json")} == {
        f"reconciler/schemas/{path.name}" for path in (ROOT / "schemas").glob("*.schema.json")
    }


@pytest.mark.parametrize("name", ["app", "fleet", "agent"])
def test_the_installed_command_prints_the_schemas(wheel: Path, tmp_path: Path, name: str) -> None:
    installed = tmp_path / "installed"
    subprocess.run([*PIP, "install", "--no-deps", f"--target={installed}", str(wheel)], check=True, timeout=100)
    # In front of the editable install, whose schemas stand beside the package and not in it.
    answer = subprocess.run(
        [installed / "bin" / "reconciler", "schema", name],
        env={"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert json.loads(answer.stdout) == json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text())
