"""Container output made fit for a terminal, a status and a database."""

from __future__ import annotations

import re
import unicodedata

_MOST = 64 * 1024  # bytes
_TERMINAL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_KEPT = "\n\t"


def tail(raw: bytes) -> str:
    """The end of the output, at most 64 KiB of UTF-8, without what drives a terminal or hides its neighbours."""
    plain = _TERMINAL.sub("", raw[-_MOST:].decode(errors="replace")).replace("\r\n", "\n")
    harmless = "".join(
        each if each in _KEPT or not unicodedata.category(each).startswith("C") else "\ufffd" for each in plain
    )
    return harmless.encode()[-_MOST:].decode(errors="ignore")
