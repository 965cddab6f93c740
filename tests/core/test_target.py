from __future__ import annotations

from harness.builders import app, desired


def test_a_version_is_called_after_its_app() -> None:
    assert desired(app("other")).name == "other"
