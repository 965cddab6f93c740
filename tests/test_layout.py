"""Whoever adds a module adds its tests. One that holds nothing but values or Protocols needs none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "reconciler").rglob("*.py"))
NAMELESS = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}


def _does_something(module: Path) -> bool:
    """A function with a body of more than a docstring, a pass or an ellipsis."""
    functions = (node for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.FunctionDef))
    return any(not isinstance(statement, ast.Expr | ast.Pass) for node in functions for statement in node.body)


def _test_of(module: Path) -> Path:
    place = module.relative_to(ROOT / "reconciler")
    name = place.parent.name if place.name == "__init__.py" else place.stem
    return ROOT / "tests" / place.parent / f"test_{name}.py"


def test_a_module_that_does_something_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('class P:\n    def f(self) -> None:\n        """Words."""\n')
    assert not _does_something(module)
    module.write_text('def f() -> int:\n    """Words."""\n    return 1\n')
    assert _does_something(module)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_every_module_has_a_test_file(module: Path) -> None:
    assert not _does_something(module) or _test_of(module).is_file(), f"{_test_of(module).relative_to(ROOT)} is missing"


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert not [module for module in MODULES if module.stem in NAMELESS]


def test_no_test_is_skipped() -> None:
    words = (
        "pytest.mark." + "skip",
        "pytest.mark." + "xfail",
        "pytest." + "skip(",
        "pytest." + "xfail(",
        "importor" + "skip",
    )
    tests = (ROOT / "tests").rglob("*.py")
    assert not [str(test) for test in tests if any(word in test.read_text() for word in words)]
