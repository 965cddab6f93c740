from __future__ import annotations

import subprocess
import sys

from reconciler import __version__


def test_the_package_can_be_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reconciler", "version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == __version__
