"""What a SOPS file must look like before it is decrypted, and which secrets its plaintext holds.

SOPS is lenient where a lost character breaks a login: it drops all documents but the first, keeps both of two equal
keys, and rounds numbers when it *encrypts*. What can be noticed is refused here. No message ever holds a value.

What cannot be noticed, because SOPS has already changed it in the file: an unquoted ``012`` is 10, an unquoted
``1.10`` is 1.1, an unquoted date gets a time. In dotenv files quotes belong to the value, and a backslash with ``n``
is a newline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Literal

from reconciler.core.model import Secret
from reconciler.errors import InvalidInput

Format = Literal["yaml", "json", "dotenv", "binary"]

LARGEST = 1024 * 1024
"""Bytes of one SOPS file; secrets live in memory, on tmpfs and in the environment."""

REASONS: tuple[str, ...] = (
    "AgeKeyExposed",
    "AgeKeyMissing",
    "DecryptNoKey",
    "DuplicateKey",
    "FormatUnsupported",
    "KeyServiceRefused",
    "MacMismatch",
    "NestedSecret",
    "NotEncrypted",
    "NumberRounded",
    "SecretKeyUnfit",
    "SecretTampered",
    "SecretsTooLarge",
    "SecretsUnreadable",
    "SeveralDocuments",
    "SopsFailed",
    "SopsMissing",
    "SopsTimeout",
)
"""Every reason for which a SOPS file is not revealed, so that metrics begin at zero."""

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_HARMLESS = re.compile(r"[\w .-]{1,60}", re.ASCII)
_EXACT_DIGITS = 15  # decimal digits that a 64-bit float always keeps
_SUFFIXES: tuple[tuple[str, Format], ...] = (
    (".yaml", "yaml"),
    (".yml", "yaml"),
    (".json", "json"),
    (".env", "dotenv"),
    (".dotenv", "dotenv"),
)


class _Pairs(tuple[tuple[str, object], ...]):
    """An object of JSON as it was written: equal keys are still both there."""

    __slots__ = ()


class _Number(str):
    """A number of JSON with the digits that it was written with."""

    __slots__ = ()


def format_of(path: str) -> Format:
    """The format that ``sops encrypt`` chose for a file of this name; the case of letters matters, as it does to sops.

    Raises:
        InvalidInput: ``FormatUnsupported`` for INI, which sops knows and we do not.
    """
    if path.endswith(".ini"):
        raise InvalidInput(
            f"{path}: SOPS files in INI form cannot be used",
            reason="FormatUnsupported",
            remedy="Write it as yaml, json or env, or give it another ending to encrypt it as one binary secret",
        )
    return next((form for suffix, form in _SUFFIXES if path.endswith(suffix)), "binary")


def binary_key(path: str) -> str:
    """The one key of a binary file: its name without the folder and without ``.sops``.

    >>> binary_key("apps/shop/tls.sops.key"), binary_key("apps/shop/client.p12")
    ('tls.key', 'client.p12')
    """
    return path.rpartition("/")[2].replace(".sops", "", 1)


def check(path: str, form: Format, content: bytes) -> None:
    """Refuse a file whose decryption would silently lose something. Needs no key.

    Raises:
        InvalidInput: ``SecretsTooLarge``, ``SeveralDocuments``, ``NotEncrypted`` or ``SecretsUnreadable``.
    """
    if len(content) > LARGEST:
        raise InvalidInput(
            f"{path}: {len(content)} bytes are too many for a SOPS file; {LARGEST} are allowed",
            reason="SecretsTooLarge",
            remedy="Keep large data in a volume",
        )
    if not content.strip():
        raise not_encrypted(path, content)
    text = _text(path, content)
    if form == "yaml" and _several_yaml_documents(text):
        raise _several(path)
    if form in {"json", "binary"}:
        _check_json(path, text, content)


def not_encrypted(path: str, content: bytes) -> InvalidInput:
    """The error for a file that sops does not recognise as its own."""
    if not content.strip():
        return InvalidInput(
            f"{path}: the SOPS file is empty", reason="NotEncrypted", remedy=f"Fill it with `sops edit {path}`"
        )
    if b"ENC[" in content:
        return _unreadable(
            path,
            "its `sops` section is missing or damaged, a merge conflict was left in it, or its format is not the one "
            "that the file's name says",
        )
    return InvalidInput(
        f"{path}: the file is not encrypted: its secrets are readable for everyone who can read the repository",
        reason="NotEncrypted",
        remedy=f"Change these secrets where they are used, then encrypt the new ones with `sops encrypt -i {path}`",
    )


def secrets(path: str, form: Format, content: bytes, plaintext: bytes) -> Mapping[str, Secret]:
    """Read what sops printed: JSON, or the very bytes of a binary file.

    Args:
        path: The file's path in the tree, for messages.
        form: Its format.
        content: The encrypted file; it tells the types that numbers had when they were encrypted.
        plaintext: Standard output of ``sops decrypt``.

    Raises:
        InvalidInput: ``NestedSecret``, ``DuplicateKey``, ``SecretKeyUnfit``, ``NumberRounded`` or
            ``SecretsUnreadable``; it names the key and never the value.
    """
    if form == "binary":
        return {_fit(path, binary_key(path), 1): Secret(plaintext)}
    pairs = _parse(plaintext)
    if pairs is None:
        raise _unreadable(path, "what sops decrypted is not a mapping of keys to values")
    rounded = b"type:float" in content
    found: dict[str, Secret] = {}
    for position, (key, value) in enumerate(pairs, 1):
        name = _fit(path, key, position)
        if name in found:
            raise InvalidInput(
                f"{path}: the key {name!r} stands twice",
                reason="DuplicateKey",
                remedy=f"Keep one of them: `sops edit {path}`",
            )
        found[name] = Secret(_scalar(path, name, value, rounded=rounded))
    return found


def _parse(plaintext: bytes) -> _Pairs | None:
    # JSONDecodeError holds the whole document: it must end here, and not become the cause of another error.
    try:
        parsed: object = json.loads(
            plaintext, object_pairs_hook=_Pairs, parse_int=_Number, parse_float=_Number, parse_constant=_Number
        )
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, _Pairs) else None


def _scalar(path: str, key: str, value: object, *, rounded: bool) -> bytes:
    match value:
        case None:
            text = ""
        case bool():
            text = "true" if value else "false"
        case _Number():
            if rounded and not _exact(value):
                raise InvalidInput(
                    f"{path}: the number under {key!r} lost digits when sops encrypted it",
                    reason="NumberRounded",
                    remedy="Write it in quotes, so that it is a text: `sops edit " + path + "`",
                )
            text = value
        case str():
            text = value
        case _:
            raise InvalidInput(
                f"{path}: the value of {key!r} is a mapping or a list; each secret must be one text, number or boolean",
                reason="NestedSecret",
                remedy="Give every secret a key of its own at the top level",
            )
    if "\ufffd" in text or not _encodable(text):
        raise InvalidInput(
            f"{path}: the value of {key!r} holds bytes that are not UTF-8, which sops cannot keep in this format",
            reason="SecretsUnreadable",
            remedy="Put it into a file of its own and encrypt that as binary: `sops encrypt --input-type binary`",
        )
    return text.encode()


def _exact(number: str) -> bool:
    digits = number.lstrip("-").replace(".", "").strip("0")
    return digits.isdecimal() and len(digits) <= _EXACT_DIGITS if digits else True


def _encodable(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _fit(path: str, key: str, position: int) -> str:
    if _KEY.fullmatch(key):
        return key
    # In a dotenv file whose lines are no assignments a "key" may be half of a secret.
    shown = f"{key!r}" if _HARMLESS.fullmatch(key) else f"number {position}"
    remedy = "Rename it with `sops edit " + path + "`"
    if key.startswith("export "):
        remedy = "Write the line without `export`"
    elif key == binary_key(path):
        remedy = "Rename the file: its name without `.sops` is the key"
    raise InvalidInput(
        f"{path}: the key {shown} cannot name a file or a variable; letters, digits, `_`, `.` and `-` are allowed, "
        "a letter or `_` first",
        reason="SecretKeyUnfit",
        remedy=remedy,
    )


def _text(path: str, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"  # raised below, where the exception with the bytes in it is gone
    if "\0" in text:
        if b"ENC[" not in content:
            raise not_encrypted(path, content)
        raise _unreadable(path, "it is not UTF-8 text")
    return text


def _several_yaml_documents(text: str) -> bool:
    begun = False
    for line in text.removeprefix("\ufeff").splitlines():
        if line[:3] in {"---", "..."} and line[3:4] in {"", " ", "\t"}:
            if begun:
                return True
            begun = bool(line[3:].strip())
        elif line.strip() and not line.startswith(("#", "%")):
            begun = True
    return False


def _check_json(path: str, text: str, content: bytes) -> None:
    body = text.removeprefix("\ufeff").strip()
    try:
        _, end = json.JSONDecoder().raw_decode(body)
    except (ValueError, RecursionError):
        end = -1
    if end == -1:
        raise not_encrypted(path, content)
    if end != len(body):
        raise _several(path)


def _several(path: str) -> InvalidInput:
    return InvalidInput(
        f"{path}: the SOPS file holds several documents; sops would silently drop all but the first",
        reason="SeveralDocuments",
        remedy="Keep one document in the file",
    )


def _unreadable(path: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path}: the SOPS file cannot be read: {why}",
        reason="SecretsUnreadable",
        remedy=f"Restore it from an earlier commit, or encrypt it anew: `git log -- {path}`",
    )
