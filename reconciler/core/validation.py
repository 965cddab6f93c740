"""JSON Schema over nodes: one clear problem for each thing that is wrong, at the very key or value.

Some annotations are ours, beside the ``patternErrorMessage`` that editors know: ``x-private`` marks values that must
not be repeated in a message, because people put secrets there by mistake; ``x-instead`` tells what to write instead
of a key that other tools have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice, takewhile
from typing import Any, cast

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from referencing import Registry

from reconciler.core.model import Problem
from reconciler.core.node import MOST_PROBLEMS, Node, in_order

Schema = Mapping[str, Any]

_KINDS = {
    "object": "a mapping",
    "array": "a list",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_LONGEST_ECHO = 60  # characters of a wrong value that a message repeats


@dataclass(frozen=True, slots=True)
class Findings:
    """What a schema says about a document."""

    problems: tuple[Problem, ...]
    damaged: frozenset[tuple[str, ...]]
    """Keys, outermost first, whose value cannot be used."""

    @property
    def damaged_keys(self) -> frozenset[str]:
        """Keys of the document's top level under which something cannot be used."""
        return frozenset(path[0] for path in self.damaged)


class Validator:
    """One schema, ready to be used many times.

    Args:
        schema: The schema.
        others: All schemas it may refer to, by the last part of their ``$id``.
    """

    def __init__(self, schema: Schema, others: Mapping[str, Schema]) -> None:
        # An empty registry: without it jsonschema would fetch what it does not know over HTTP.
        self._validator = _Strict(_expanded(schema, schema, others), registry=Registry())

    def check(self, root: Node, app: str | None = None, told: Collection[Problem] = ()) -> Findings:
        """Find everything that is wrong.

        Args:
            root: The document.
            app: The app that every problem is about.
            told: Problems that the reader found; nothing is added at their places.
        """
        problems: list[Problem] = []
        damaged: set[tuple[str, ...]] = set()
        for error in self._validator.iter_errors(root.value):
            # A file of 30,000 unknown keys should not keep anybody waiting for 30,000 suggestions.
            problems += islice(_translate(error, root, app), max(0, MOST_PROBLEMS - len(problems)))
            keys = tuple(takewhile(lambda step: isinstance(step, str), error.absolute_path))
            if keys and error.validator != "additionalProperties":
                damaged.add(cast("tuple[str, ...]", keys))
        places = {(each.line, each.column) for each in told}
        return Findings(
            in_order(each for each in problems if (each.line, each.column) not in places), frozenset(damaged)
        )


def suggestion(word: str, known: Collection[str]) -> str:
    """``; did you mean 'image'?`` or nothing."""
    close = _closest(word, tuple(known)) if len(word) <= _LONGEST_ECHO else ""
    return f"; did you mean {close!r}?" if close else ""


@lru_cache(maxsize=1024)  # a thousand apps may depend on the same misspelt one
def _closest(word: str, known: tuple[str, ...]) -> str:
    same = (each for each in known if each.lower() == word.lower().replace("-", "_"))
    cutoff = 0.5 if len(word) <= 3 else 0.6  # noqa: PLR2004  (one letter of two is half of them)
    return next(same, "") or next(iter(get_close_matches(word, known, n=1, cutoff=cutoff)), "")


def listed(words: Collection[str]) -> str:
    """``a, b, c`` for a message; never endless."""
    names = [word for word in words if word != "$schema"]  # only editors want that one
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")  # noqa: PLR2004  (as said)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    # ``$`` of Python also matches before a line end, that of JSON Schema (and of every editor) does not.
    return re.compile(pattern.replace("$", r"\Z"), re.ASCII)


def _pattern(_: Any, pattern: str, instance: object, schema: Schema) -> Iterator[ValidationError]:  # noqa: ANN401  (jsonschema's own type)
    # A text that is too long has its own error; no pattern should have to look at 256 KB.
    if not isinstance(instance, str) or len(instance) > schema.get("maxLength", len(instance)):
        return
    if not _compiled(pattern).search(instance):
        yield ValidationError("pattern")


def _unique(_: Any, wanted: object, instance: object, __: Schema) -> Iterator[ValidationError]:  # noqa: ANN401  (as above)
    # jsonschema compares each with each when the items cannot be sorted. Ours are texts; others have their own error.
    texts = [each for each in instance if isinstance(each, str)] if isinstance(instance, list) and wanted else []
    if len(set(texts)) < len(texts):
        yield ValidationError("uniqueItems")


_Strict = validators.extend(Draft202012Validator, {"pattern": _pattern, "uniqueItems": _unique})  # type: ignore[no-untyped-call]


def _expanded(part: Any, schema: Schema, others: Mapping[str, Schema]) -> Any:  # noqa: ANN401  (any JSON)
    """The schema with every ``$ref`` replaced by what it refers to: faster, and errors know their whole schema."""
    if isinstance(part, list):
        return [_expanded(each, schema, others) for each in part]
    if not isinstance(part, Mapping):
        return part
    reference = part.get("$ref")
    own = {
        key: _expanded(value, schema, others)
        for key, value in part.items()
        if key != "$ref" and not (part is schema and key == "$defs")
    }
    if not isinstance(reference, str):
        return own
    file, _, pointer = reference.partition("#/")
    home = others[file] if file else schema
    target: Any = home
    for step in pointer.split("/"):
        target = target[step]
    return {**_expanded(target, home, others), **own}


def _translate(error: ValidationError, root: Node, app: str | None) -> Iterator[Problem]:
    node, name = root, ""
    for step in error.absolute_path:
        if isinstance(step, int):
            node, name = node.items[step], f"this item of {name}" if name else "this item"
        else:
            node, name = node.fields[step], repr(step)
    schema: Schema = error.schema if isinstance(error.schema, Mapping) else {}
    keys = _KEYWORDS_FOR_KEYS.get(str(error.validator))
    if "propertyNames" in error.absolute_schema_path:
        where = f"the key in {name}" if name else "the key"
        yield node.fields[str(error.instance)].key_problem(_sentence(where, error, schema), app)
    elif keys is not None:
        yield from (at.key_problem(message, app) for at, message in keys(error, node, name or "the file", schema))
    elif error.validator == "uniqueItems":
        yield from _repeated(node, name, app)
    elif error.validator != "enum" or isinstance(error.instance, str):  # else the type is wrong, and has been reported
        yield node.problem(_sentence(name or "the file", error, schema), app)


def _unknown_keys(_: ValidationError, node: Node, __: str, schema: Schema) -> Iterator[tuple[Node, str]]:
    known = schema["properties"]
    for key, value in node.fields.items():
        if key not in known:
            yield value, _unknown(key, schema)


def _required(error: ValidationError, node: Node, name: str, _: Schema) -> Iterator[tuple[Node, str]]:
    needed: Any = error.validator_value
    yield node, f"{name} lacks {', '.join(repr(key) for key in needed if key not in node.fields)}"


def _dependent(error: ValidationError, node: Node, _: str, __: Schema) -> Iterator[tuple[Node, str]]:
    dependent: Any = error.validator_value
    for key, needed in dependent.items():
        if key in node.fields and any(each not in node.fields for each in needed):
            yield node.fields[key], f"{key!r} has no meaning without {' and '.join(map(repr, needed))}"


def _beside(error: ValidationError, node: Node, name: str, _: Schema) -> Iterator[tuple[Node, str]]:
    steps = list(error.absolute_schema_path)  # our schemas say ``not`` only of keys that exclude one another
    yield node, f"{name} cannot stand beside {steps[steps.index('dependentSchemas') + 1]!r}; keep one of them"


_KEYWORDS_FOR_KEYS = {
    "additionalProperties": _unknown_keys,
    "required": _required,
    "dependentRequired": _dependent,
    "not": _beside,
}


def _repeated(node: Node, name: str, app: str | None) -> Iterator[Problem]:
    seen: set[str] = set()
    for item in node.items:
        if isinstance(item.value, str) and item.value in seen:
            yield item.problem(f"{name} names this twice", app)
        seen.add(item.text)


def _unknown(key: str, schema: Schema) -> str:
    known: Mapping[str, Any] = schema["properties"]
    instead = schema.get("x-instead", {}).get(key)
    if instead:
        return f"unknown key {key!r}: {instead}"
    guess = suggestion(key, known)
    return f"unknown key {key!r}{guess or f'; allowed are {listed(known)}'}"


def _sentence(subject: str, error: ValidationError, schema: Schema) -> str:
    value: Any = error.validator_value
    instance: Any = error.instance
    match str(error.validator):
        case "type":
            return f"{subject} {_form(schema)}, not {_what(instance)}{_correction(instance, schema)}"
        case "pattern":
            return f"{subject} {_form(schema)}{_echo(instance, schema)}"
        case "enum":
            allowed = ("one of " if len(value) > 1 else "") + listed(value)
            return f"{subject} must be {allowed}{_echo(instance, schema)}{suggestion(instance, value)}"
        case "minimum" | "maximum":
            return f"{subject} must be from {schema['minimum']} to {schema['maximum']}, not {instance}"
        case "minLength" | "minItems":
            return f"{subject} must not be empty"
        case "maxLength":
            return f"{subject} has {len(instance)} characters; at most {value} are allowed"
        case "maxItems" | "maxProperties":
            return f"{subject} has {len(instance)} entries; at most {value} are allowed"
        case keyword:  # a test keeps our schemas to the keywords above
            return f"{subject} does not satisfy the schema's {keyword!r}"


def _form(schema: Schema) -> str:
    if "patternErrorMessage" in schema:
        return str(schema["patternErrorMessage"])
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    return "must be " + " or ".join(_KINDS[kind] for kind in kinds)


def _what(value: object) -> str:
    match value:
        case None:
            return "empty (null)"
        case bool():
            return str(value).lower()
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "a mapping"


def _correction(value: object, schema: Schema) -> str:
    if type(value) is int and "x-unit" in schema:
        return f"; did you mean {value}{schema['x-unit']}?"
    if type(value) in {int, float} and "pattern" in schema and _compiled(schema["pattern"]).search(f"{value}"):
        return "; put it in quotes"
    return ""


def _echo(value: str, schema: Schema) -> str:
    return "" if schema.get("x-private") or len(value) > _LONGEST_ECHO else f", not {value!r}"
