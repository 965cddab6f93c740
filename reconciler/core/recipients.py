"""Who can open a SOPS file: holders of age keys, and nobody whom a host would have to ask.

A SOPS file names the key services that sops contacts, by address if need be (``azure_kv``, ``hc_vault``). Whoever
can commit one could send the host's root anywhere, and have it wait there. So only age is taken, and of sops' own
section only the words that are known to be harmless: its readers compare words more loosely than we do.
"""

from __future__ import annotations

import re

from reconciler.core.document import read
from reconciler.core.node import Node
from reconciler.core.secretfile import LARGEST, Format, not_encrypted
from reconciler.errors import InvalidInput

_HARMLESS = frozenset(
    {
        "encrypted_comment_regex",
        "encrypted_regex",
        "encrypted_suffix",
        "lastmodified",
        "mac",
        "mac_only_encrypted",
        "unencrypted_comment_regex",
        "unencrypted_regex",
        "unencrypted_suffix",
        "version",
    }
)
_NOTHING: tuple[object, ...] = ("", None, 0, [], {})
"""What sops writes for services that are not used."""
_AGE_LINE = re.compile(r"age__list_[0-9]+__map_(?:recipient|enc)")
_WORD = re.compile(r"[A-Za-z_0-9]{1,60}")

NO_AGE = "it is encrypted for no age key, and this agent opens files with its host's age key only"


def check(path: str, form: Format, content: bytes) -> None:
    """Refuse a file that asks a key service, before sops reads it.

    Raises:
        InvalidInput: ``KeyServiceRefused``; ``NotEncrypted`` or ``SecretsUnreadable`` where that cannot be told.
    """
    if form == "dotenv":
        if b"sops_" not in content:
            raise not_encrypted(path, content)
        found = [why for why, _ in objections_to_lines(content.decode("utf-8", "replace"))]
    else:
        document = read(path, content, LARGEST, form="yaml" if form == "yaml" else "json")
        if document.root is None or document.root.at("sops") is None:
            raise not_encrypted(path, content)
        if document.problems:
            raise InvalidInput(
                f"{path}: the SOPS file cannot be read: line {document.problems[0].line} has more than plain keys and "
                "values, or a key that stands twice",
                reason="SecretsUnreadable",
                remedy=f"Run `reconciler validate`, which says what is wrong, then `sops edit {path}`",
            )
        found = [why for why, _ in objections(document.root)]
    if found:
        raise InvalidInput(
            f"{path}: the SOPS file is not opened: {found[0]}", reason="KeyServiceRefused", remedy=remedy(path)
        )


def remedy(path: str) -> str:
    """What to do about an objection."""
    return f"Name only age keys in .sops.yaml, then run `sops updatekeys {path}` (or encrypt it anew) and commit"


def objections(root: Node) -> list[tuple[str, Node]]:
    """Why a file in YAML or JSON is not opened, and where that stands."""
    found = [
        ("a second key reads like 'sops'", node)
        for key, node in root.fields.items()
        if key != "sops" and key.casefold() == "sops"
    ]
    metadata = root.at("sops") or root
    for key, node in metadata.fields.items():
        if key != "age" and key not in _HARMLESS and node.value not in _NOTHING:
            found.append((_foreign(key), node))
    recipients = (item.at("recipient") for item in metadata.each("age"))
    if not any(recipient is not None and recipient.text for recipient in recipients):
        found.append((NO_AGE, metadata))
    return found


def objections_to_lines(text: str) -> list[tuple[str, int]]:
    """Why a file in dotenv form is not opened, and in which line that stands."""
    found = []
    age = False
    for number, line in enumerate(text.split("\n"), 1):
        key, _, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not key.startswith("sops_") or not value:
            continue
        name = key.removeprefix("sops_")
        if _AGE_LINE.fullmatch(name):
            age = age or name.endswith("recipient")
        elif name not in _HARMLESS:
            found.append((_foreign(name), number))
    return found if age else [*found, (NO_AGE, 1)]


def _foreign(key: str) -> str:
    shown = repr(key) if _WORD.fullmatch(key) else "something unknown"
    return f"its section of sops names {shown}; key services and key groups are not used, only age keys"
