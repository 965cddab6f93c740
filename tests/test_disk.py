from __future__ import annotations

import errno
from pathlib import Path

import pytest

from reconciler import disk


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "DiskFull"),
        (errno.EDQUOT, "DiskFull"),
        (errno.EROFS, "DiskReadOnly"),
        (errno.EIO, "DiskError"),
        (errno.EACCES, "DiskError"),
    ],
)
def test_every_error_has_a_reason_a_path_and_a_remedy(number: int, reason: str) -> None:
    error = disk.unavailable(OSError(number, "words of the system"), Path("/var/lib/x"), "the files of shop")
    assert error.reason == reason
    assert error.message.startswith("the files of shop: ")
    assert "/var/lib/x" in error.message
    assert error.remedy


def test_syncing_what_is_no_directory(tmp_path: Path) -> None:
    disk.sync_directory(tmp_path)
    with pytest.raises(FileNotFoundError):
        disk.sync_directory(tmp_path / "missing")
