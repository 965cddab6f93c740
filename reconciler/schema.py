"""The JSON Schemas that ship with the package; the files stand in ``schemas/`` at the root of the source."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

NAMES = ("app", "fleet", "agent")


def text(name: str) -> str:
    """The text of one schema. KeyError for a name that is not in ``NAMES``."""
    if name not in NAMES:
        raise KeyError(name)
    file = f"{name}.schema.json"
    packaged = files("reconciler") / "schemas" / file
    if packaged.is_file():
        return packaged.read_text("utf-8")
    # A source checkout or an editable install: only the wheel has a copy inside the package.
    return (Path(__file__).resolve().parent.parent / "schemas" / file).read_text("utf-8")


def load(name: str) -> dict[str, Any]:
    """One schema as a mapping."""
    loaded: dict[str, Any] = json.loads(text(name))
    return loaded
