"""Manifests, from files to a catalog. The many ways to be wrong are files: ``manifests/NAME.yaml`` beside
``NAME.problems``, and whole trees in ``manifests/trees/``. ``UPDATE_GOLDEN=1`` refreshes the expected problems.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.golden import assert_golden
from harness.trees import MemoryTree

from reconciler import schema
from reconciler.core.manifest import ManifestReader
from reconciler.core.model import Catalog

CASES = Path(__file__).parent / "manifests"
FILES = sorted(file for file in CASES.iterdir() if file.suffix in {".yaml", ".json"})
TREES = sorted(file for file in (CASES / "trees").iterdir() if file.is_dir())


@pytest.fixture(scope="module")
def reader() -> ManifestReader:
    return ManifestReader(schema.load_all())


def summary(catalog: Catalog) -> str:
    lines = [f"{'warning: ' if each.severity == 'warning' else ''}{each}" for each in catalog.problems]
    lines += [f"= {name} can be used" for name in catalog.apps]
    lines += [f"= {each.path} is broken ({each.app or 'nobody knows which app'})" for each in catalog.broken]
    lines += ["= the fleet is broken"] if catalog.fleet_broken else []
    return "\n".join(lines)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_bad_manifest(file: Path, reader: ManifestReader) -> None:
    catalog = reader.read(MemoryTree({f"apps/shop/app{file.suffix}": file.read_bytes()}))
    assert catalog.problems
    assert not catalog.apps
    assert_golden(file.with_suffix(".problems"), summary(catalog))


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_tree(tree: Path, reader: ManifestReader) -> None:
    assert_golden(tree.with_suffix(".problems"), summary(reader.read(MemoryTree.of(tree))))
