"""A whole host for each test, on one engine for each process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.engine import PrivateEngine
from harness.host import Host, make_app_images


@pytest.fixture(scope="session")
def images(engine: PrivateEngine) -> PrivateEngine:
    """The engine, with images of a small web app."""
    make_app_images(engine)
    return engine


@pytest.fixture
def host(images: PrivateEngine, tmp_path: Path) -> Iterator[Host]:
    """A fresh host with nginx running; no agent yet."""
    host = Host(images, tmp_path / "host")
    try:
        host.nginx.start()
        yield host
    finally:
        host.destroy()
