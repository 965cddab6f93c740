"""Names on the host's disk that both the plan and the disk's room must agree on."""

from __future__ import annotations

import hashlib
import re

_UNFIT = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 100  # of a basename; with the hash far below the 255 bytes that file systems take


def stored_name(target: str) -> str:
    """The file name under which content for the container's path ``target`` is stored in its app's directory.

    Targets of one app differ in their directories too (``/etc/a/app.toml``, ``/etc/b/app.toml``), so a short hash of
    the whole path comes first; the basename follows for the eyes of people.

    >>> stored_name("/etc/shop/settings.toml")
    '88936906cdbf-settings.toml'
    """
    digest = hashlib.sha256(target.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    basename = _UNFIT.sub("_", target.rpartition("/")[2])[-_LONGEST:]
    return f"{digest}-{basename}"
