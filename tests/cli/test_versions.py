from __future__ import annotations

import pytest

from reconciler.cli.versions import named_revision, previous_version
from reconciler.core.memory import Applied
from reconciler.protocols import HistoryEntry

# ``tests/cli/test_rollback.py`` shows the walk through a repository.


def history(*entries: str) -> list[HistoryEntry]:
    """``deployed a``: newest first, as the store has it."""
    made = []
    for at, entry in enumerate(entries):
        event, _, fingerprint = entry.rpartition(" ")
        made.append(HistoryEntry(float(at), "shop", event, f"r{at}", fingerprint))
    return made[::-1]


@pytest.mark.parametrize(
    ("entries", "applied", "expected"),
    [
        ((), "", None),
        (("deployed a",), "a", None),
        (("deployed a", "deployed b"), "b", "r0"),
        (("adopted a", "repaired -", "deployed b"), "b", "r0"),
        # The one that was rolled back from is not gone back to.
        (("deployed a", "deployed b", "deployed c", "rolled back b"), "b", "r0"),
        (("deployed a", "deployed b", "rolled back a"), "a", None),
        (("deployed a", "deployed b", "rolled back a", "rolled back b"), "b", "r2"),
        # One that failed was never applied; one that is gone was.
        (("deployed a", "failed b"), "a", None),
        (("deployed a", "deployed b", "pruned -"), "", "r1"),
    ],
)
def test_the_version_before_is_the_one_below_the_top(
    entries: tuple[str, ...], applied: str, expected: str | None
) -> None:
    found = previous_version(history(*entries), Applied("r", applied, 0.0) if applied else None)
    assert (found.revision if found else None) == expected


def test_what_a_person_names_is_taken() -> None:
    assert named_revision("abc").revision == "abc"
