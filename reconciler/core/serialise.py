"""Our values as plain JSON, and a host's status back from it.

Keys are the field names, in their order. A field that holds a Unix time (``TIMES``) becomes two keys: ``since`` for
people, in RFC 3339, and ``since_unix`` for arithmetic; both are null where nothing happened yet. Readers ignore keys
that they do not know, so that a command line and an agent of neighbouring versions understand each other.

Invariant: a ``Secret`` cannot pass. Neither can anything else whose form nobody decided on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from reconciler.core.model import Secret
from reconciler.core.status import HostStatus
from reconciler.errors import InvalidInput

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

TIMES = frozenset({"at", "since", "committed_at", "next_retry", "applied_at", "last_fetch_at", "not_before"})
"""Names of fields that hold a Unix time."""

_UNIX = "_unix"


def plain(value: object) -> Json:
    """A value as JSON knows it: dataclasses and mappings become objects, tuples and sets become arrays.

    Raises:
        TypeError: The value is, or contains, a ``Secret``, bytes, or something else that is not made for printing.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # JSON has neither NaN nor infinity
    if isinstance(value, Secret):
        message = "a secret cannot be serialised"
        raise TypeError(message)
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value)
    if isinstance(value, Mapping):
        return {_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return [plain(item) for item in sorted(value)]
    # The type alone: the value may be what must not be printed.
    message = f"a {type(value).__name__} cannot be serialised"
    raise TypeError(message)


def text(value: object, *, indent: int | None = None) -> str:
    """``plain(value)`` as JSON text, readable in any language; odd bytes of a commit's author come out escaped."""
    dumped = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return dumped.encode("utf-8", "backslashreplace").decode()  # a lone surrogate becomes JSON's own \udcXX


def rfc3339(at: float) -> str | None:
    """A Unix time as ``2026-11-03T09:15:42.123Z``; None for 0 and for what no calendar has."""
    if not at:
        return None
    try:
        moment = datetime.fromtimestamp(at, UTC)
    except (OverflowError, ValueError, OSError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def host_status(data: object) -> HostStatus:
    """A host's status from what ``plain`` made of it.

    Raises:
        InvalidInput: Reason ``UnreadableStatus``: it is not a status, or one of an agent too different from us.
    """
    try:
        status: HostStatus = _dataclass(HostStatus, data)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"the agent's status cannot be read: {error}",
            reason="UnreadableStatus",
            remedy="Use a reconciler of the agent's version; `reconciler version` prints this one's",
        ) from error
    return status


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    message = f"a {type(key).__name__} cannot be a key of a JSON object"
    raise TypeError(message)


def _object(value: Any) -> Json:  # noqa: ANN401  (any dataclass)
    result: dict[str, Json] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if field.name in TIMES:
            stamp = None if item is None else rfc3339(item)
            result[field.name] = stamp
            result[field.name + _UNIX] = None if stamp is None else item
        else:
            result[field.name] = plain(item)
    return result


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _dataclass(kind: Any, data: object) -> Any:  # noqa: ANN401  (any dataclass, and one of it)
    if not isinstance(data, Mapping):
        message = f"{kind.__name__} is not an object"
        raise TypeError(message)
    arguments: dict[str, object] = {}
    for field in fields(kind):
        key = field.name + _UNIX if field.name in TIMES else field.name
        hint = _hints(kind)[field.name]
        required = field.default is MISSING and field.default_factory is MISSING
        if key not in data:
            if required:
                message = f"{kind.__name__} has no {key!r}"
                raise ValueError(message)
        elif data[key] is None and hint is float:
            arguments[field.name] = 0.0
        else:
            arguments[field.name] = _value(hint, data[key], f"{kind.__name__}.{key}")
    return kind(**arguments)


def _value(hint: Any, data: object, place: str) -> object:  # noqa: ANN401  (the type of a field)
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if data is None and NoneType in parts:
            return None
        return _value(next(part for part in parts if part is not NoneType), data, place)
    if origin is Literal and data in parts:
        return data
    if origin is tuple and isinstance(data, list):
        kinds = [parts[0]] * len(data) if parts[-1] is Ellipsis else parts
        if len(kinds) == len(data):
            return tuple(_value(part, item, place) for part, item in zip(kinds, data, strict=True))
    if origin is Mapping and isinstance(data, Mapping):
        return {_key(key): _value(parts[1], item, place) for key, item in data.items()}
    if is_dataclass(hint) and isinstance(hint, type):
        return _dataclass(hint, data)
    if hint is float and isinstance(data, (int, float)) and not isinstance(data, bool):
        return float(data)
    if hint in (str, int, bool) and type(data) is hint:
        return data
    message = f"{place} has an unexpected value"
    raise ValueError(message)
