"""The proof of docs/rollouts.md, on both forms of nginx's configuration, one section after another.

Rollouts under load, versions that never become healthy, a database on a volume; what each of them asks of us stands in
its own room. Some connections of an app that is never upgraded are open through all of it.

At the end rollouts are done wrong on purpose, and then requests must fail: a harness that reports nothing there proves
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.engine import PrivateEngine
from harness.isolation import isolate
from harness.load import Pinned
from harness.nginx import program
from harness.python_image import make_python_image
from harness.rollouts import Rollouts

from bench import database, scenarios
from bench.database import no_row_lost
from bench.faulty import never_healthy
from bench.measure import Section, say
from bench.scenarios import done_wrong, under_load


def main() -> None:
    """Print the tables for each nginx."""
    isolate()
    upgrades = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    began, before = time.monotonic(), os.getloadavg()[0]
    private = PrivateEngine()
    private.start()
    try:
        make_python_image(private)
        failures = [failure for kind in ("distribution", "newer") for failure in _soak(private, kind, upgrades)]
    finally:
        private.destroy()
    minutes = (time.monotonic() - began) / 60
    print(f"\n{minutes:.0f} minutes; load before {before:.1f}, at the end {os.getloadavg()[0]:.1f}")
    if failures:
        raise SystemExit("\n".join(["", "failed:", *failures]))


def _soak(private: PrivateEngine, kind: str, upgrades: int) -> list[str]:
    """Everything that went wrong."""
    nginx = program(kind)
    version = subprocess.run([nginx, "-v"], check=True, capture_output=True, text=True, timeout=10).stderr.strip()
    say(version)
    sections: list[Section] = []
    with tempfile.TemporaryDirectory(prefix="rec-soak-") as root:
        lab = Rollouts(private, Path(root, "host"), nginx, {**scenarios.APPS, **database.APPS})
        try:
            lab.begin()
            with Pinned(("127.0.0.1", lab.host.http), "still.example.com") as throughout:
                sections += [under_load(lab, upgrades), never_healthy(lab), no_row_lost(lab)]
            sections.append(done_wrong(lab))
        finally:
            lab.destroy()
    print(f"\n{version}; connections that were open throughout and cut: {len(throughout.cut)}")
    for section in sections:
        section.show()
    wrong = [f"{section.title}: {said}" for section in sections for said in section.wrong]
    return [f"{kind}: {said}" for said in (*wrong, *(f"throughout: {said}" for said in throughout.cut))]


if __name__ == "__main__":
    main()
