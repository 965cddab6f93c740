"""Which host names have a certificate with a key that fits."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

HALF_RENEWED = 60.0
"""Seconds for which a certificate and key may not fit, while somebody replaces one after the other."""

Signature = tuple[int, ...]


@dataclass(slots=True)
class _Pair:
    signature: Signature
    digest: str
    """Of the last certificate that fitted its key; empty when there is none."""
    misfit_since: float | None = None
    """Monotonic seconds; None while they fit."""


class Certificates:
    """The pairs NAME.crt and NAME.key of a directory; one is read again only when its files have changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pairs: dict[str, _Pair] = {}

    def usable(self) -> dict[str, str]:
        """Host name -> digest of its certificate.

        Pairs that do not fit are left out: ``nginx -t`` would fail, and hold up the routes of every app.
        """
        found = self._found()
        for host in self._pairs.keys() - found.keys():
            del self._pairs[host]
        for host, signature in found.items():
            self._look_at(host, signature)
        return {host: pair.digest for host, pair in sorted(self._pairs.items()) if pair.digest}

    def _found(self) -> dict[str, Signature]:
        found = {}
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:  # none is no error: HTTP only
            for entry in entries:
                if entry.name.endswith(".crt"):
                    with contextlib.suppress(OSError):
                        key = Path(entry.path).with_suffix(".key")
                        found[entry.name.removesuffix(".crt")] = (*_signature(entry.stat()), *_signature(key.stat()))
        return found

    def _look_at(self, host: str, signature: Signature) -> None:
        pair = self._pairs.get(host)
        now = time.monotonic()
        if pair is None or pair.signature != signature:
            digest, problem = self._read(host)
            if not problem:
                self._pairs[host] = _Pair(signature, digest)
                return
            log.warning("certificate and key of %s cannot be used: %s", host, problem)
            since = now if pair is None or pair.misfit_since is None else pair.misfit_since
            self._pairs[host] = pair = _Pair(signature, pair.digest if pair else "", since)
        if pair.digest and pair.misfit_since is not None and now - pair.misfit_since > HALF_RENEWED:
            log.error("certificate and key of %s do not fit: it goes on without HTTPS", host)
            pair.digest = ""

    def _read(self, host: str) -> tuple[str, str]:
        """Digest, or what is wrong."""
        crt, key = self._directory / f"{host}.crt", self._directory / f"{host}.key"
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(crt, key, password=_no_password)
            return hashlib.sha256(crt.read_bytes()).hexdigest()[:16], ""
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            return "", str(error)


def _signature(about: os.stat_result) -> Signature:
    return (about.st_mtime_ns, about.st_ino, about.st_size)


def _no_password() -> str:
    """Refuse: nginx could not read an encrypted key either, and OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")
