"""Words of git and ssh that a test cannot easily provoke; the rest is provoked on real transports in test_remote.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.world.source.diagnosis import disk_trouble, explain, gist, timed_out


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("ERROR: Repository not found.\nfatal: Could not read from remote repository.", "GitRepositoryMissing"),
        ("remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://x/'", "GitAuthFailed"),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 403", "GitAuthFailed"),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 503", "GitUnreachable"),
        ("ssh: connect to host x port 22: Connection timed out\nfatal: Could not read", "GitTimeout"),
        ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed", "GitCertificateUntrusted"),
        ("fatal: the remote end hung up unexpectedly\nfatal: early EOF", "GitUnreachable"),
        ("ssh: connect to host x port 22: No route to host", "GitUnreachable"),
        ("fatal: a sentence that git learns next year", "GitFailed"),
        ("", "GitFailed"),
    ],
)
def test_reasons(stderr: str, reason: str) -> None:
    error = explain(stderr, "https://x/", "fetch")
    assert error.reason == reason
    assert "https://x/" in error.message


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("fatal: write error: No space left on device", "DiskFull"),
        ("error: unable to create temporary file: Read-only file system", "DiskReadOnly"),
        ("error: insufficient permission for adding an object to repository database objects", "DiskError"),
        ("fatal: cannot open 'x': Permission denied", "DiskError"),
        ("fatal: bad object HEAD", None),
        ("git@x: Permission denied (publickey).", None),
    ],
)
def test_our_own_disk(stderr: str, reason: str | None) -> None:
    trouble = disk_trouble(stderr, Path("/var/lib/reconciler/mirror.git"))
    assert (trouble.reason if trouble else None) == reason


def test_gist() -> None:
    assert gist("warning: a\nfatal: b\n\nhint: c\n") == "fatal: b"
    assert gist("remote: \x1b[31mred\x07\n") == "remote:  [31mred"
    assert (
        gist("git@x: Permission denied (publickey).\nfatal: no\n") == "git@x: Permission denied (publickey). fatal: no"
    )
    assert len(gist("fatal: " + "x" * 10_000)) == 300
    assert gist("") == "nothing"


def test_timed_out() -> None:
    error = timed_out("fetch", "https://x/", 30)
    assert (error.reason, error.message) == ("GitTimeout", "https://x/ did not answer git fetch within 30 s")
