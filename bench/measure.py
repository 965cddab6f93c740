"""What is measured, and how it is printed: CPU and memory from /proc, commands from an audit hook, medians."""

from __future__ import annotations

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has used so far."""

    own: float
    """CPU seconds of the process itself."""
    children: float
    """CPU seconds of its children that have ended, and of theirs."""
    resident: int
    """Bytes of memory, now."""

    @classmethod
    def of(cls, pid: int) -> Usage:
        """As the kernel counts it."""
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        own, children = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
        return cls(own / _TICK, children / _TICK, pages * os.sysconf("SC_PAGE_SIZE"))


def cpu() -> tuple[float, float]:
    """CPU milliseconds of this process, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() * 1000, (children.ru_utime + children.ru_stime) * 1000


class Commands:
    """Every command that this process starts, whoever starts it: Python itself tells."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen":
            argv = arguments[1]
            words = [os.fsdecode(word) for word in argv] if isinstance(argv, list | tuple) else [str(argv)]
            self.seen.append(" ".join(words))
        elif event in {"os.posix_spawn", "os.fork", "os.forkpty", "os.system", "os.exec"}:
            self.seen.append(event)


def wait(what: str, check: Callable[[], bool], within: float = 300.0, every: float = 0.1) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what}: not within {within:g} s")
        time.sleep(every)


@dataclass(slots=True)
class Section:
    """A table that is filled row by row, and whatever went wrong meanwhile."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """One row. An error is something that went wrong, and no reason not to measure the others; says how it went."""
        began, before = time.monotonic(), len(self.wrong)
        try:
            yield
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told at the end)
            self.wrong.append(f"{name}: {type(error).__name__}: {error}")
        went = "; ".join(self.wrong[before:]) or "well"
        say(f"{self.title}: {name}: {went} ({time.monotonic() - began:.0f} s)")

    def add(self, row: Sequence[object], wrong: Sequence[str]) -> None:
        """A row, the first cell of which is its name, and what went wrong in it."""
        self.rows.append(row)
        self.wrong += [f"{row[0]}: {said}" for said in wrong]

    def show(self) -> None:
        """Print the table."""
        table(self.title, self.head, self.rows)


def say(text: str) -> None:
    """For whoever waits; the tables alone go to standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table as Markdown has them."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.3g}' if isinstance(cell, float) else str(cell) for cell in row)} |")
    sys.stdout.flush()


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
