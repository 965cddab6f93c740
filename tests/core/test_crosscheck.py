"""What is wrong between manifests is shown in ``manifests/trees/``; here is what it costs."""

from __future__ import annotations

import time

from harness.trees import MemoryTree

from reconciler import schema
from reconciler.core.manifest import ManifestReader


def timed(files: dict[str, bytes | str]) -> tuple[float, int, int]:
    reader = ManifestReader({name: schema.load(name) for name in schema.NAMES})
    tree = MemoryTree(files)
    began = time.perf_counter()
    catalog = reader.read(tree)
    return time.perf_counter() - began, len(catalog.apps), len(catalog.problems)


def manifests(count: int, text: str) -> dict[str, bytes | str]:
    return {
        f"apps/a{number}/app.yaml": "kind: App\nimage: x\n" + text.replace("NEXT", str(number + 1))
        for number in range(count)
    }


def test_five_hundred_that_misspell_the_same_app() -> None:
    seconds, usable, problems = timed(manifests(500, "depends_on: [dtabase]\n"))
    assert (usable, problems) == (0, 500)
    assert seconds < 15


def test_a_chain_of_five_hundred_is_no_cycle() -> None:
    files = manifests(500, "depends_on: [aNEXT]\n")
    seconds, usable, problems = timed({**files, "apps/a500/app.yaml": "kind: App\nimage: x\n"})
    assert (usable, problems) == (501, 0)
    assert seconds < 15


def test_a_cycle_of_five_hundred() -> None:
    files = manifests(500, "depends_on: [aNEXT]\n")
    seconds, usable, problems = timed({**files, "apps/a500/app.yaml": "kind: App\nimage: x\ndepends_on: [a0]\n"})
    assert (usable, problems) == (0, 501)
    assert seconds < 30


def test_two_hundred_that_claim_the_same() -> None:
    text = "ingress: [{host: a.example.com, port: 1}]\nvolumes: ['data:/data']\n"
    seconds, usable, problems = timed(manifests(200, text))
    assert (usable, problems) == (0, 400)
    assert seconds < 15
