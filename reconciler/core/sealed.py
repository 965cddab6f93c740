"""What a SOPS file tells without its key: whether it is encrypted, and the names of what is in it."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from reconciler.core.document import read
from reconciler.core.model import Problem
from reconciler.core.node import Node, in_order
from reconciler.core.recipients import objections, objections_to_lines, remedy
from reconciler.core.secretfile import LARGEST, binary_key, format_of
from reconciler.errors import InvalidInput

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,199}")
_ASSIGNMENT = re.compile(r"([^=\s#][^=]*)=(.*)")
_ENCRYPTED = re.compile(r"ENC\[AES256_GCM,data:(.+),iv:(.+),tag:(.+),type:.+\]")
_RULES = ("encrypted_suffix", "unencrypted_regex", "encrypted_regex", "unencrypted_comment_regex")


@dataclass(frozen=True, slots=True)
class Sealed:
    """A look at a SOPS file."""

    keys: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    """Why it cannot be used, with places in the file itself; never with a value of it."""
    identity: str = ""
    """Equal for files that were encrypted together: one is a copy of the other, however its text was changed."""


def look(path: str, content: bytes) -> Sealed:
    """Look at a SOPS file without decrypting it. Never raises."""
    try:
        form = format_of(path)
    except InvalidInput as error:
        return Sealed(problems=(Problem(path, 1, 1, f"{error.message.removeprefix(f'{path}: ')}. {error.remedy}"),))
    if b"ENC[" not in content or b"sops" not in content:
        return Sealed(problems=(Problem(path, 1, 1, _not_encrypted(path)),))
    if form == "dotenv":
        return _dotenv(path, content)
    document = read(path, content, LARGEST, form="yaml" if form == "yaml" else "json")
    if document.root is None or document.problems:
        return Sealed(problems=document.problems)
    return _mapping(path, document.root, binary=form == "binary")


def _not_encrypted(path: str) -> str:
    return (
        "this file is not encrypted with SOPS: everyone who can read the repository can read what is in it; "
        f"change these secrets where they are used, then encrypt the new ones with `sops encrypt -i {path}`"
    )


def _plain(key: str) -> str:
    return f"the value of {key!r} is not encrypted; change that secret, and write secrets with `sops edit` only"


def _unfit(key: str) -> str | None:
    if _KEY.fullmatch(key):
        return None
    # What is no key may be half of a secret: it is not repeated.
    return (
        "this key cannot name a file or a variable: letters, digits, '_', '.' and '-' are allowed, "
        "a letter or '_' first"
    )


def _mapping(path: str, root: Node, *, binary: bool) -> Sealed:
    metadata = root.at("sops")
    if metadata is None or metadata.at("mac") is None:
        return Sealed(problems=(root.problem(_not_encrypted(path)),))
    secrets = {key: node for key, node in root.fields.items() if key != "sops"}
    problems = [node.problem(f"{why}. {remedy(path)}") for why, node in objections(root)]
    for key, node in secrets.items():
        wrong = _unfit(key)
        if wrong:
            problems.append(node.key_problem(wrong))
        elif isinstance(node.value, dict | list):
            problems.append(
                node.key_problem(f"{key!r} is nested; every secret needs a key of its own at the top level")
            )
        elif node.value not in {"", None} and not node.text.startswith("ENC[") and not _left_plain(key, metadata):
            problems.append(node.key_problem(_plain(key)))
    mac = metadata.fields["mac"].text
    return Sealed((binary_key(path),) if binary else tuple(secrets), in_order(problems), _identity(mac))


def _identity(mac: str) -> str:
    """The checksum as sops encrypted it, with a number that is never used twice. Decoded: base64 has several ways."""
    match = _ENCRYPTED.match(mac)
    if match is None:
        return ""
    try:
        return "/".join(base64.b64decode(part).hex() for part in match.groups())
    except ValueError:
        return ""


def _left_plain(key: str, metadata: Node) -> bool:
    """SOPS was told to leave this value alone. Its regular expressions are not run: they may take for ever."""
    suffix = metadata.at("unencrypted_suffix")
    return any(rule in metadata.fields for rule in _RULES) or (suffix is not None and key.endswith(suffix.text or "\0"))


def _dotenv(path: str, content: bytes) -> Sealed:
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return Sealed(problems=(Problem(path, 1, 1, "this file is not UTF-8 text"),))
    found: dict[str, int] = {}
    problems: list[Problem] = []
    mac: str | None = None
    for number, line in enumerate(lines, 1):
        match = _ASSIGNMENT.fullmatch(line.rstrip("\r"))
        if match is None:
            if line.strip() and not line.startswith("#"):
                problems.append(Problem(path, number, 1, "this line is no KEY=VALUE"))
            continue
        key, value = match.groups()
        if key.startswith("sops_"):
            mac = value if key == "sops_mac" else mac
            continue
        wrong = "leave out 'export': SOPS takes it for a part of the key" if key.startswith("export ") else _unfit(key)
        if wrong is None and key in found:
            wrong = f"{key!r} stands twice; the first one is in line {found[key]}"
        if wrong is None and value and not value.startswith("ENC["):
            wrong = _plain(key)
        if wrong:
            problems.append(Problem(path, number, 1, wrong))
        found.setdefault(key, number)
    if mac is None:
        return Sealed(problems=(Problem(path, 1, 1, _not_encrypted(path)),))
    refused = objections_to_lines("\n".join(lines))
    problems += [Problem(path, line, 1, f"{why}. {remedy(path)}") for why, line in refused]
    return Sealed(tuple(found), in_order(problems), _identity(mac))
