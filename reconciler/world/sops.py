"""SOPS: decrypts the files of the repository, in memory.

``sops`` gets the file on standard input and an environment of five variables, so that neither a ``.sops.yaml`` nor a
key of the host's users has a say. Its standard error is never read: a MAC mismatch prints the hash of the plaintext
there and a bad dotenv file prints the plaintext. The exit code is all we learn, and each has one meaning below.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler import process
from reconciler.core import recipients, secretfile
from reconciler.core.model import Secret
from reconciler.errors import InvalidInput, ReconcilerError, Unavailable

CREDENTIAL = "age.key"
"""Name of the systemd credential (``LoadCredential=age.key:/etc/reconciler/age.key``)."""

_KEPT = 256  # files
_FORGOTTEN = 86_400.0  # seconds: plaintext that nobody asked for so long is dropped; its app is gone, or has another
_RETRY_WORLD = 60.0  # seconds: what an operator mends without a commit is noticed after so long
_RETRY_FILE = 600.0  # seconds: the same bytes give the same answer, but for a repaired sops
_PUBLIC_KEY = re.compile(rb"\bage1[0-9a-z]{50,}\b")


@dataclass(frozen=True, slots=True)
class _Revealed:
    secrets: Mapping[str, Secret]


@dataclass(frozen=True, slots=True)
class _Refused:
    kind: type[ReconcilerError]
    message: str
    reason: str
    remedy: str
    key: tuple[int, ...] | None
    """The key file as it was; another one is worth another try."""
    until: float

    def again(self) -> ReconcilerError:
        # A new exception each time: one that is raised again and again grows by a traceback each time.
        return self.kind(self.message, reason=self.reason, remedy=self.remedy)


class SopsVault:
    """The ``Vault`` of protocols.py. Safe for use by several threads.

    The files that were asked for last stay decrypted in memory, also while the key is gone, each until nobody has
    asked for a day. Failures are kept too, for a minute or ten, so that a wrong key does not run sops in every cycle;
    a replaced key file is noticed at once.

    Args:
        command: ``sops``, or its path.
        age_key: The file with this host's age key; None takes the systemd credential ``age.key``.
        timeout: Seconds for one file.
        on_failure: Called with the reason of every failure that was not known before, e.g. a metric's counter.
    """

    def __init__(
        self,
        command: str,
        age_key: Path | None,
        *,
        timeout: float = 5.0,
        on_failure: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._command = command
        self._age_key = age_key
        self._timeout = timeout
        self._on_failure = on_failure
        self._known: dict[tuple[str, str], tuple[float, _Revealed | _Refused]] = {}
        self._lock = threading.Lock()

    def reveal(self, path: str, blob: str, content: bytes) -> Mapping[str, Secret]:
        """Decrypt one file of the repository.

        Args:
            path: Its path in the tree; its ending tells the format.
            blob: Its git object id.
            content: Its bytes.

        Raises:
            InvalidInput: The file itself is wrong; a commit mends it.
            Unavailable: No key fits, sops is missing or failed, time ran out; the operator mends it on this host.
        """
        known = self._recall((blob, path))
        if isinstance(known, _Revealed):
            return known.secrets
        if known and time.monotonic() < known.until and known.key == self._key_stamp():
            raise known.again()
        stamp = self._key_stamp()
        try:
            secrets = self._decrypt(path, content)
        except ReconcilerError as error:
            self._on_failure(error.reason)
            patience = _RETRY_FILE if isinstance(error, InvalidInput) else _RETRY_WORLD
            until = time.monotonic() + patience
            if error.reason not in {"SopsMissing", "AgeKeyMissing", "AgeKeyExposed"}:  # cheaper to ask than to remember
                refused = _Refused(type(error), error.message, error.reason, error.remedy, stamp, until)
                self._remember((blob, path), refused)
            raise
        self._remember((blob, path), _Revealed(secrets))
        return secrets

    def _recall(self, key: tuple[str, str]) -> _Revealed | _Refused | None:
        now = time.monotonic()
        with self._lock:
            # The dict keeps the order of the questions.
            while self._known and now - next(iter(self._known.values()))[0] > _FORGOTTEN:
                self._known.pop(next(iter(self._known)))
            _, known = self._known.pop(key, (now, None))
            if known is not None:
                self._known[key] = now, known
            return known

    def _remember(self, key: tuple[str, str], known: _Revealed | _Refused) -> None:
        with self._lock:
            self._known.pop(key, None)
            while len(self._known) >= _KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[key] = time.monotonic(), known

    def _decrypt(self, path: str, content: bytes) -> Mapping[str, Secret]:
        form = secretfile.format_of(path)
        secretfile.check(path, form, content)
        recipients.check(path, form, content)
        key = self._usable_key()
        command = shutil.which(self._command)
        if command is None:
            raise _sops_missing(self._command, "is not installed or not executable")
        argv = (command, "decrypt", "--input-type", form, "--output-type", "binary" if form == "binary" else "json")
        environment = {
            "HOME": "/nonexistent",  # keys are looked for in ~/.config and ~/.ssh too
            "SOPS_AGE_KEY_FILE": str(key),
            "SOPS_CONFIG": "/dev/null",  # a malformed .sops.yaml upward of the directory fails a decrypt otherwise
            "SOPS_HC_VAULT_ALLOWLIST": "none",  # the file names the server
            "SOPS_DISABLE_VERSION_CHECK": "1",
        }
        try:
            done = process.run(argv, timeout=self._timeout, environment=environment, stdin=content, quiet=True)
        except Unavailable as error:
            if error.reason == "CommandMissing":
                raise _sops_missing(command, "is not installed or not executable") from None
            if error.reason == "CommandFailed":  # e.g. built for another machine, or no memory for it
                raise Unavailable(f"{path}: {error.message}", reason="SopsFailed", remedy=error.remedy) from None
            raise Unavailable(
                f"{path}: sops did not decrypt it within {self._timeout:g} s",
                reason="SopsTimeout",
                remedy="See whether the host is overloaded; the agent tries again by itself",
            ) from None
        if done.code:
            raise _meaning(done.code, path, content, key)
        return secretfile.secrets(path, form, content, done.stdout)

    def _key_path(self) -> Path | None:
        if self._age_key is not None:
            return self._age_key.absolute()
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        return Path(directory) / CREDENTIAL if directory else None

    def _key_stamp(self) -> tuple[int, ...] | None:
        path = self._key_path()
        try:
            status = path.stat() if path else None
        except OSError:
            return None
        # The change time moves with chmod and with an older file moved over this one; the modification time does not.
        return (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns) if status else None

    def _usable_key(self) -> Path:
        path = self._key_path()
        if path is None:
            raise Unavailable(
                "this host has no age key, so no SOPS file can be decrypted",
                reason="AgeKeyMissing",
                remedy="Make one with `age-keygen -o /etc/reconciler/age.key`, name it under `sops: {age_key: ...}` in "
                "agent.yaml or as the systemd credential age.key, and encrypt the secrets for its public key",
            )
        try:
            mode = path.stat().st_mode
            with path.open("rb"):
                pass
        except OSError as error:
            raise Unavailable(
                f"the age key {path} cannot be read: {error.strerror}",
                reason="AgeKeyMissing",
                remedy=f"Put this host's age key there, owned by root with mode 0600; see `ls -l {path}`",
            ) from None
        # systemd guards its credentials by directory and ACL, and shows the ACL's mask as the group's permission.
        if self._age_key is not None and stat.S_IMODE(mode) & 0o077:
            raise Unavailable(
                f"the age key {path} is open to other users of this host (mode {stat.S_IMODE(mode):04o})",
                reason="AgeKeyExposed",
                remedy=f"Run `chmod 600 {path}`, and make a new key if others may have read it",
            )
        return path


def _sops_missing(command: str, what: str) -> Unavailable:
    return Unavailable(
        f"secrets cannot be decrypted: {command} {what}",
        reason="SopsMissing",
        remedy="Install sops 3.9 or later (https://github.com/getsops/sops/releases), or name its path under "
        "`sops: {command: ...}` in agent.yaml",
    )


def _meaning(code: int, path: str, content: bytes, key: Path) -> ReconcilerError:
    """The error that an exit code of ``sops decrypt`` stands for (3.13.2, measured)."""
    match code:
        case 128:
            return _no_key(path, content, key)
        case 25:
            return InvalidInput(
                f"{path}: a value was changed or added, or a key was renamed, without sops",
                reason="SecretTampered",
                remedy=f"Find out who did: `git log -p -- {path}`; restore the file, then edit it with "
                f"`sops edit {path}` only",
            )
        case 51 | 52:
            return InvalidInput(
                f"{path}: the SOPS file's checksum (MAC) is missing or does not match: keys were removed, moved or "
                "merged without sops",
                reason="MacMismatch",
                remedy=f"Find out who did: `git log -p -- {path}`; restore the file, then edit it with "
                f"`sops edit {path}` only",
            )
        case 1:
            return secretfile.not_encrypted(path, content)
        case 4 | 92:
            return InvalidInput(
                f"{path}: the SOPS file is empty or holds a number that cannot be written down (.inf, .nan)",
                reason="SecretsUnreadable",
                remedy=f"Write such values in quotes: `sops edit {path}`",
            )
        case _:
            return Unavailable(
                f"{path}: sops failed with exit code {code}",
                reason="SopsFailed",
                remedy="See that `sops --version` is 3.9 or later and that the host has memory left; its own words "
                f"may hold secrets, so they are not kept: run `sops decrypt {path}` by hand",
            )


def _no_key(path: str, content: bytes, key: Path) -> Unavailable:
    try:
        text = key.read_bytes()
    except OSError:
        text = b""
    if b"AGE-" not in text:
        return Unavailable(
            f"{path}: the age key file {key} holds no age key",
            reason="DecryptNoKey",
            remedy="Put the line AGE-SECRET-KEY-... of this host's key into it",
        )
    wanted = ", ".join(sorted(match.decode() for match in set(_PUBLIC_KEY.findall(content)))) or "no age key"
    ours = ", ".join(match.decode() for match in _PUBLIC_KEY.findall(text))
    return Unavailable(
        f"{path}: this host's age key{f' ({ours})' if ours else ''} does not fit; the file is encrypted for {wanted}",
        reason="DecryptNoKey",
        remedy=f"Add the host's public key (`age-keygen -y {key}`) to .sops.yaml, run `sops updatekeys {path}` and "
        "commit, or put the right key in its place",
    )
