from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import paths
from reconciler.core.paths import stored_name


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(paths).failed == 0


def test_equal_basenames_in_different_directories_differ() -> None:
    assert stored_name("/etc/a/app.toml") != stored_name("/etc/b/app.toml")


def test_names_that_differ_only_in_unfit_characters_differ() -> None:
    assert stored_name("/etc/a b") != stored_name("/etc/a:b")


@given(st.text())
def test_any_target_gives_a_plain_file_name(target: str) -> None:
    name = stored_name(target)
    assert name == stored_name(target)
    assert name.isascii()
    assert "/" not in name
    assert name not in {"", ".", ".."}
    assert len(name) < 120
