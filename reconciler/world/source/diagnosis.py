"""What git and ssh print when a remote fails, as reasons that a person understands.

Matching text is brittle, but there is nothing else: git exits with 128 for all of it. So commands run with LC_ALL=C,
the tests make every one of these happen on the real transport, and what is not recognised is shown as git said it.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from pathlib import Path

from reconciler import disk
from reconciler.errors import Unavailable

_SHOWN = 300  # characters of git's own words


@dataclass(frozen=True, slots=True)
class _Symptom:
    pattern: re.Pattern[str]
    reason: str
    happened: str
    remedy: str


def _symptom(pattern: str, reason: str, happened: str, remedy: str) -> _Symptom:
    return _Symptom(re.compile(pattern, re.IGNORECASE), reason, happened, remedy)


# The first that matches counts: ssh says several of these in one breath.
_SYMPTOMS = (
    _symptom(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|REVOKED HOST KEY",
        "GitHostKeyChanged",
        "{url} shows another host key than the one in known_hosts; nothing was sent to it",
        "Ask whoever runs the server whether its key was changed, and only then replace the line in known_hosts",
    ),
    _symptom(
        r"Host key verification failed|host key is known for",
        "GitHostKeyUnknown",
        "the host key of {url} is not in known_hosts; nothing was sent to it",
        "Compare the output of ssh-keyscan with the fingerprint that the server's owner published, and add it to the "
        "file that repository.known_hosts names",
    ),
    _symptom(
        r"UNPROTECTED PRIVATE KEY FILE",
        "GitAuthFailed",
        "ssh does not use the deploy key for {url}, because others may read its file",
        "Run chmod 600 on the file that repository.ssh_key names",
    ),
    _symptom(
        r"Load key .*(?:libcrypto|invalid format|incorrect passphrase)",
        "GitAuthFailed",
        "ssh cannot use the deploy key for {url}: it is damaged, no private key, or has a passphrase",
        "Put a private key without passphrase into the file that repository.ssh_key names",
    ),
    _symptom(
        r"Permission denied \(|Too many authentication failures|Authentication failed|could not read (?:User|Pass)"
        r"|HTTP Basic: Access denied|returned error: 40[13]",
        "GitAuthFailed",
        "{url} does not let us in",
        "Check that the deploy key or token in the agent's settings is registered there, may read, and has not expired",
    ),
    _symptom(
        r"certificate (?:verification|verify|problem|has expired)|SSL: (?:no alternative|certificate)|gnutls_handshake"
        r"|SSL_connect",
        "GitCertificateUntrusted",
        "the certificate of {url} is not to be trusted; nothing was sent to it",
        "Renew the certificate, or install its authority in the host's store (update-ca-certificates)",
    ),
    _symptom(
        r"unable to update url base from redirection|returned error: 30\d",
        "GitRedirected",
        "{url} sends us to another address, where the token must not follow",
        "Write the new address as repository.url",
    ),
    _symptom(
        r"does not appear to be a git repository|repository '.*' not found|Repository not found|returned error: 404"
        r"|No such file or directory",
        "GitRepositoryMissing",
        "there is no Git repository at {url}, or none that we may see",
        "Check repository.url, and that the deploy key or token has access to it",
    ),
    _symptom(
        r"timed out|too slow|Timeout was reached",
        "GitTimeout",
        "{url} does not answer in time",
        "Check the server and the network on the way",
    ),
    _symptom(
        r"Could not resolve|Connection refused|Failed to connect|Couldn't connect|No route to host"
        r"|Network is unreachable|Connection reset|Connection closed|unexpectedly closed|early EOF|hung up"
        r"|unexpected disconnect|RPC failed|returned error: 5\d\d|Empty reply|CONNECT tunnel|Recv failure",
        "GitUnreachable",
        "{url} cannot be reached",
        "Check the server and the network on the way",
    ),
    _symptom(
        r"fsck error|fsckObjects|error in (?:packed )?object|invalid fsck",
        "GitObjectsRejected",
        "{url} sent objects that git holds to be malformed or dangerous; they were not taken",
        "Look for the commit that git names, and remove it from the branch",
    ),
)

_DISK = (
    (re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"Read-only file system", re.IGNORECASE), errno.EROFS),
    (re.compile(r"insufficient permission|(?:cannot|unable to|could not) [^\n]*: Permission denied"), errno.EACCES),
)


def explain(stderr: str, url: str, command: str) -> Unavailable:
    """The error for a git command that talked to ``url`` and failed. Reason ``GitFailed`` where it is not known."""
    for symptom in _SYMPTOMS:
        if symptom.pattern.search(stderr):
            return Unavailable(
                f"{symptom.happened.format(url=url)} (git: {gist(stderr)})",
                reason=symptom.reason,
                remedy=symptom.remedy,
            )
    return Unavailable(f"git {command} of {url} failed: {gist(stderr)}", reason="GitFailed")


def disk_trouble(stderr: str, mirror: Path) -> Unavailable | None:
    """The error for a git command that failed for want of room or permission on our side; None for all else."""
    for pattern, number in _DISK:
        if pattern.search(stderr):
            error = OSError(number, gist(stderr))
            return disk.unavailable(error, mirror, "the config repository's mirror cannot be written")
    return None


def timed_out(command: str, url: str, timeout: float) -> Unavailable:
    """The error for a git command that was ended because its time was over."""
    return Unavailable(
        f"{url} did not answer git {command} within {timeout:g} s",
        reason="GitTimeout",
        remedy="Check the server and the network on the way; raise repository.timeout if it is merely slow",
    )


def gist(stderr: str) -> str:
    """What git said, as one short line: its last ``fatal`` or ``error``, without control characters."""
    lines = ["".join(c if c.isprintable() else " " for c in line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line]
    telling = [line for line in lines if re.match(r"(?:fatal|error|remote|ERROR):", line)]
    chosen = (telling or lines or ["nothing"])[-1]
    ssh = [line for line in lines if re.search(r"Permission denied|verification failed|host key|ssh: ", line)]
    text = f"{ssh[-1]} {chosen}" if ssh and ssh[-1] != chosen else chosen
    return text[:_SHOWN]
