"""A real Prometheus that scrapes loopback, and questions to it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.waiting import eventually

_CONFIG = """\
global: {{scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}}
rule_files: {rules}
scrape_configs:
  - job_name: reconciler
    static_configs: [{{targets: {targets}}}]
"""


@dataclass(frozen=True)
class Series:
    """One answer of a query."""

    labels: dict[str, str]
    """Without ``instance`` and ``job``."""
    value: float


class Prometheus:
    """Debian's prometheus on a free port; scrapes twice a second."""

    def __init__(self, directory: Path, targets: Sequence[str], rules: Sequence[Path] = ()) -> None:
        self.directory = directory
        (directory / "prometheus.yml").write_text(
            _CONFIG.format(targets=json.dumps(list(targets)), rules=json.dumps([str(path) for path in rules]))
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self.directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self.directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(lambda: self._get("/-/ready"), within=60, what=f"Prometheus; its log is {self.directory / 'log'}")

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def query(self, expression: str) -> list[Series]:
        """An instant vector, or a scalar as one series without labels."""
        answer = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))["data"]
        if answer["resultType"] == "scalar":
            return [Series({}, float(answer["result"][1]))]
        return [
            Series(
                {name: word for name, word in each["metric"].items() if name not in {"instance", "job"}},
                float(each["value"][1]),
            )
            for each in answer["result"]
        ]

    def value(self, expression: str) -> float | None:
        """The value of the one series that the expression gives; None when it gives none."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression} gives {len(found)} series: {found}"
        return found[0].value if found else None

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, with ``health`` and ``lastError``."""
        return list(json.loads(self._get("/api/v1/targets"))["data"]["activeTargets"])

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:  # noqa: S310  (our own loopback URL)
            return bytes(answer.read())
