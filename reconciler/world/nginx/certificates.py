"""Which host names have a certificate with a key that fits."""

from __future__ import annotations

import hashlib
import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import Unavailable

log = logging.getLogger(__name__)

HALF_RENEWED = 60.0
"""Seconds for which a certificate and key may not fit, while somebody replaces one after the other."""

Signature = tuple[int, ...]


@dataclass(slots=True)
class _Pair:
    signature: Signature | None
    """None while one of the two files is missing."""
    digest: str
    """Of the last certificate that fitted its key; empty when there is none."""
    misfit_since: float | None = None
    """Monotonic seconds; None while they fit."""


class Certificates:
    """The pairs NAME.crt and NAME.key of a directory; one is read again only when its files have changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pairs: dict[str, _Pair] = {}
        self._looked = False
        self._complaints: dict[str, str] = {}
        """Host, or nothing for the directory -> what was last said about it in the log."""

    def usable(self) -> dict[str, str]:
        """Host name -> digest of its certificate.

        Pairs that do not fit are left out: ``nginx -t`` would fail, and hold up the routes of every app. What cannot be
        looked at for now counts as unchanged: a host must not go on in plain HTTP because we had no file descriptor.

        Raises:
            Unavailable: reason ``CertificatesUnreadable``, where the directory could not be read even once.
        """
        try:
            found = self._found()
        except OSError as error:
            if not self._looked:
                raise Unavailable(
                    f"the certificates in {self._directory} cannot be read ({error.strerror}), so nobody knows which "
                    "hosts have HTTPS; nginx goes on with the routes it has",
                    reason="CertificatesUnreadable",
                    remedy=f"See that {self._directory} is a directory that root can read, or remove it",
                ) from error
            self._complain("", f"{self._directory} cannot be read, its certificates count as unchanged: {error}")
        else:
            self._looked = True
            self._complaints.pop("", None)
            for host in self._pairs.keys() - found.keys():
                del self._pairs[host]
                self._complaints.pop(host, None)
            for host, signature in found.items():
                self._look_at(host, signature)
        return {host: pair.digest for host, pair in sorted(self._pairs.items()) if pair.digest}

    def _found(self) -> dict[str, Signature | None]:
        """Hosts that have a file at least. Raises OSError where the directory cannot be read; none is no error."""
        try:
            with os.scandir(self._directory) as entries:
                files = [Path(entry.path) for entry in entries if entry.name.endswith((".crt", ".key"))]
        except FileNotFoundError:
            return {}
        found: dict[str, Signature | None] = {}
        for host in {file.name[: -len(".crt")] for file in files}:
            crt, key = self._files(host)
            try:
                found[host] = (*_signature(crt.stat()), *_signature(key.stat()))
            except FileNotFoundError:
                found[host] = None
            except OSError as error:
                self._complain(host, f"certificate and key of {host} cannot be looked at: {error}")
                if host in self._pairs:
                    found[host] = self._pairs[host].signature
        return found

    def _look_at(self, host: str, signature: Signature | None) -> None:
        pair = self._pairs.get(host)
        now = time.monotonic()
        if pair is None or pair.signature != signature:
            try:
                digest, problem = self._read(host) if signature else ("", "one of the two files is missing")
            except OSError as error:  # it is tried again, as the signature is not remembered
                self._complain(host, f"certificate and key of {host} cannot be read: {error}")
                return
            if not problem:
                self._pairs[host] = _Pair(signature, digest)
                self._complaints.pop(host, None)
                return
            self._complain(host, f"certificate and key of {host} cannot be used: {problem}")
            since = now if pair is None or pair.misfit_since is None else pair.misfit_since
            self._pairs[host] = pair = _Pair(signature, pair.digest if pair else "", since)
        if pair.digest and pair.misfit_since is not None and now - pair.misfit_since > HALF_RENEWED:
            log.error("certificate and key of %s do not fit: it goes on without HTTPS", host)
            pair.digest = ""

    def _complain(self, host: str, problem: str) -> None:
        """Once, until it is another problem: this is looked at in every cycle."""
        if self._complaints.get(host) != problem:
            self._complaints[host] = problem
            log.warning("%s", problem)

    def _files(self, host: str) -> tuple[Path, Path]:
        return self._directory / f"{host}.crt", self._directory / f"{host}.key"

    def _read(self, host: str) -> tuple[str, str]:
        """Digest, or what is wrong. Raises OSError where that cannot be told for now."""
        crt, key = self._files(host)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(crt, key, password=_no_password)
            return hashlib.sha256(crt.read_bytes()).hexdigest()[:16], ""
        except (ssl.SSLError, ValueError, FileNotFoundError) as error:
            return "", str(error)


def _signature(about: os.stat_result) -> Signature:
    return (about.st_mtime_ns, about.st_ino, about.st_size)


def _no_password() -> str:
    """Refuse: nginx could not read an encrypted key either, and OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")
