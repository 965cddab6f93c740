"""Versions that never become healthy, each in its own way, and what clients, the name and the status said meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from harness.python_image import PYTHON
from harness.registry import Registry
from harness.rollouts import Fields, Rollouts, Seen

_DEADLINE = {"http": "/healthz", "port": 8080, "interval": "1s", "timeout": "1s", "deadline": "5s"}
_SICK = [PYTHON, "-I", "-S", "/app/sick.py"]
_MIGRATION = {"command": ["sh", "-c", "echo the table is locked; exit 4"], "timeout": "20s"}


@dataclass(frozen=True, slots=True)
class Fault:
    """A way in which a version fails."""

    reason: str
    """What the status must say."""
    words: str
    """What else ``reconciler why`` must say."""
    fields: Fields
    """How the manifest brings it about."""


def faults(registry: Registry) -> Mapping[str, Fault]:
    """All of them; the registry is one that has no image at all."""

    def sick(how: str, reason: str, words: str, **more: Any) -> Fault:
        return Fault(reason, words, {"command": [*_SICK, how, "8080"], "health": _DEADLINE, **more})

    nowhere = f"{registry.host}/webapp:never-pushed"
    return {
        "it exits at once": sick("exit", "CrashLoop", "last exit code 3"),
        "it listens after the deadline": sick("late", "DeadlineExceeded", "was not healthy within 5 s"),
        "it listens on another port": sick("port", "DeadlineExceeded", "refused"),
        "it answers 500": sick("500", "DeadlineExceeded", "500"),
        "it accepts and never answers": sick("hang", "DeadlineExceeded", "within 1 s"),
        "it runs out of memory": sick("memory", "OutOfMemory", "limit 96 MiB", resources={"memory": "96MiB"}),
        "its image does not exist": Fault("ImageNotFound", f"there is no image {nowhere}", {"image": nowhere}),
        "its before_deploy fails": Fault("BeforeDeployFailed", "the table is locked", {"before_deploy": _MIGRATION}),
    }


@dataclass
class Verdict:
    """What came of it."""

    seen: Seen = field(default_factory=Seen)
    seconds: float = 0.0
    """From the commit to the reason in the status."""
    message: str = ""
    """That the status gave."""
    wrong: list[str] = field(default_factory=list)


def commit_and_revert(lab: Rollouts, fault: Fault, *, clients: int) -> Verdict:
    """Commit such a version of ``shop``; when it has been given up look around, and take the commit back."""
    verdict, host = Verdict(), lab.host
    before, version = lab.name("shop").read_text(), host.serves("shop")

    def scenario(lab: Rollouts) -> None:
        with _witness(lab) as (names, versions):
            began = time.monotonic()
            lab.upgrade("shop", **fault.fields)
            status = host.wait_reason(fault.reason, "shop", within=90)
            verdict.seconds, verdict.message = time.monotonic() - began, status["message"]
            told = " ".join(host.reconciler("why", "shop", expect=2).replace("\n    | ", "\n").split())
            verdict.wrong += [f"why does not say {each}: {told}" for each in _unsaid(told, fault)]
            time.sleep(1.0)  # in which it could take traffic after all
            lab.revert()
            lab.finish("shop")
        verdict.wrong += [f"the name became {name!r}, was {before!r}" for name in names - {before}]
        verdict.wrong += [f"{each!r} answered, not {version!r}" for each in versions - {version}]

    verdict.seen = lab.measure(scenario, hosts=("shop",), clients=clients)
    return verdict


def _unsaid(told: str, fault: Fault) -> list[str]:
    return [each for each in (fault.reason, fault.words) if each not in told]


@contextmanager
def _witness(lab: Rollouts) -> Iterator[tuple[set[str], set[str]]]:
    """Meanwhile: every content of the name's file, and every version that answered through nginx."""
    names: set[str] = set()
    versions: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            names.add(lab.name("shop").read_text())
            try:
                versions.add(lab.host.get("/version")[1])
            except OSError as error:
                versions.add(repr(error))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield names, versions
    finally:
        over.set()
        looking.join()
