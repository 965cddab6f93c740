from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.trees import MemoryTree
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler import schema
from reconciler.core.document import read
from reconciler.core.manifest import ManifestReader
from reconciler.core.node import LARGEST, MOST_PROBLEMS

CASES = Path(__file__).parent / "manifests"


def value(text: str) -> object:
    document = read("a.yaml", text.encode())
    assert document.root is not None
    assert not document.problems
    return document.root.value


def said(content: bytes, path: str = "a.yaml") -> list[str]:
    return [str(problem) for problem in read(path, content).problems]


TRAPS = """
no yes on off n y 012 0o17 0x1F 0b1 1:30 12:30:45 2026-01-01 2026-01-01T00:00:00Z 1_000 +1 .5 5. .inf .nan 1e999 = <
1234567890123456789 -0777 nULL tRUE 1.2.3 1e
"""


@pytest.mark.parametrize("word", TRAPS.split())
def test_words_that_yaml_1_1_would_change_stay_text(word: str) -> None:
    assert value(f"key: {word}") == {"key": word}
    assert value(f"[{word}]") == [word]


def test_numbers_booleans_and_null_by_the_rules_of_json() -> None:
    text = "[0, -1, 42, 1.50, 1e3, -2.5E-1, true, True, FALSE, null, ~, Null, '1', \"true\", '']"
    assert value(text) == [0, -1, 42, 1.5, 1000.0, -0.25, True, True, False, None, None, None, "1", "true", ""]
    assert value("a:\nb: ") == {"a": None, "b": None}


def test_scalars_know_how_they_were_written() -> None:
    root = read("a.yaml", b"{version: 1.10, big: 1e3, on: True, quoted: '1.10', empty: }").root
    assert root is not None
    assert {key: node.text for key, node in root.fields.items()} == {
        "version": "1.10",
        "big": "1e3",
        "on": "True",
        "quoted": "1.10",
        "empty": "",
    }


def test_places_count_characters_from_one() -> None:
    root = read("a.yaml", "ä: {ö: x, 'ü': [1, 😀]}\nb:\n  - c: |\n      text\n".encode()).root
    assert root is not None
    inner = root.at("ä")
    assert inner is not None
    umlaut = inner.fields["ü"]
    assert (umlaut.key_line, umlaut.key_column, umlaut.line, umlaut.column) == (1, 11, 1, 16)
    assert (umlaut.items[1].line, umlaut.items[1].column) == (1, 20)
    block = root.each("b")[0].fields["c"]
    assert (block.key_line, block.key_column, block.line, block.column) == (3, 5, 3, 8)
    assert block.value == "text\n"


def test_json_has_the_same_places() -> None:
    text = '{"a": [1, {"b": "x"}],\r\n\t"\\u00e4": null}'
    root = read("a.json", text.encode()).root
    assert root is not None
    b = root.each("a")[1].fields["b"]
    assert (b.key_line, b.key_column, b.line, b.column) == (1, 12, 1, 17)
    umlaut = root.fields["ä"]
    assert (umlaut.key_line, umlaut.key_column, umlaut.line, umlaut.column) == (2, 2, 2, 12)


def test_json_must_be_json_and_yaml_may_be() -> None:
    assert said(b"kind: App\n", "a.json") == ["a.json:1:1: not valid JSON: text must stand in double quotes"]
    assert value('{"kind": "App"}') == {"kind": "App"}
    assert read("a.pem", b'{"x": 1,}', form="json").problems


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", '{"a":', "? "])
def test_depth_is_limited_where_the_composer_would_overflow_the_stack(opening: str) -> None:
    content = (opening * (LARGEST // len(opening))).encode()
    for path in ("a.yaml", "a.json"):
        began = time.perf_counter()
        problems = said(content, path)
        assert problems
        assert time.perf_counter() - began < 5
    assert read("a.yaml", b"[" * 50 + b"]" * 50).problems == ()
    assert read("a.json", b"[" * 50 + b"]" * 50).problems == ()
    assert said(b"[" * 51 + b"]" * 51) == ["a.yaml:1:51: more than 50 mappings and lists within one another"]
    assert said(b"[" * 51 + b"]" * 51, "a.json") == ["a.json:1:51: more than 50 objects and lists within one another"]


def test_size_is_limited() -> None:
    assert not said(b"a: " + b"x" * (LARGEST - 3))
    assert said(b"a: " + b"x" * LARGEST) == [
        f"a.yaml:1:1: the file has {LARGEST + 3} bytes; at most {LARGEST} are allowed"
    ]


def test_a_flood_of_problems_is_cut_short() -> None:
    assert len(said(b"a: 1\n" * 5_000)) == MOST_PROBLEMS


def test_without_libyaml_the_same_is_read() -> None:
    """PyYAML without its C half: other words for some errors, but the same values and no fewer problems."""
    script = """
import sys
sys.modules["yaml._yaml"] = None
from pathlib import Path
from reconciler.core.document import read
from reconciler.core.yamltext import yaml
assert not yaml.__with_libyaml__
for file in sorted(Path(sys.argv[1]).glob("*.yaml")):
    document = read("a.yaml", file.read_bytes())
    print(file.name, document.root is not None and document.root.value, [(p.line, p.column) for p in document.problems])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(CASES)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    slow = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    for file in CASES.glob("*.yaml"):
        document = read("a.yaml", file.read_bytes())
        places = [(problem.line, problem.column) for problem in document.problems]
        fast = f"{document.root is not None and document.root.value} {places}"
        if document.root is not None or len(places) > 1:
            assert slow[file.name] == fast
        assert slow[file.name].endswith("[]") == fast.endswith("[]"), file.name


# --- any bytes ------------------------------------------------------------------------------------------------------

GOOD = b"""\
kind: App
image: registry.example.com/shop:2.3.1
replicas: 2
hosts: [web]
environment: {LOG_LEVEL: info, N: 1}
secrets: {file: secrets.sops.yaml, environment: [DATABASE_URL]}
health: {http: /healthz, port: 8080, interval: 5s}
ingress:
  - {host: shop.example.com, port: 8080}
volumes: ["data:/data"]
files: [{source: a.toml, target: /a}]
"""
PIECES = st.one_of(
    st.sampled_from("[]{}:,-?&*!|>%@`'\"#~<=\\ \t\n\r\0\x85\u2028\ufeff\ud7ffä😀"),
    st.sampled_from(["- ", ": ", "? ", "<<: ", "---\n", "...\n", "!!str ", "&a ", "*a ", "\n  ", "}\n", "\\u0000"]),
    st.sampled_from(["kind: App\n", "image: ", "name: ", "health: ", "ingress: ", "environment: ", "secrets: {file: "]),
    st.sampled_from(["sops:\n  mac: ENC[", "1e9999", "9" * 5000, "true", "012", "x" * 300, "a.-" * 200]),
)
TEXTS = st.lists(PIECES, max_size=40).map(lambda pieces: "".join(pieces).encode("utf-8", "surrogatepass"))


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    content = bytearray(GOOD)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 8))
        content[at : at + length] = draw(st.one_of(TEXTS, st.binary(max_size=4)))
    return bytes(content)


ANYTHING = st.one_of(st.binary(max_size=300), TEXTS, mutated())
READER = ManifestReader({name: schema.load(name) for name in ("app", "fleet")})


@settings(deadline=None, max_examples=150)
@example(b"name: a" + b" " * 100_000 + b"!", b"\n" * 100_000, b"", ".yaml")
@example(b"{" + b"".join(b"k%d: 1, " % i for i in range(5_000)) + b"}", b"", b"", ".yaml")
@example(b"hosts: [" + b"a, 1, {}, " * 5_000 + b"]", b"hosts: {}", b"", ".yaml")
@example(b"command: '" + b"\\ " * 100_000 + b"'", b"", b"", ".yaml")
@example(b"", b"---", b"", ".yaml")
@example(b"image: " + b"a-" * 256, b"", b"", ".yaml")
@example(b"image: " + b"a." * 255 + b"!", b"", b"", ".yaml")
@example(b"environment: {" + b"".join(b"K%d: 1, " % i for i in range(5_000)) + b"}", b"", b"", ".yaml")
@example(b"labels: {" + b"-" * 199 + b"!: 1}", b"", b"a=ENC[" * 1000 + b"sops", ".yaml")
@given(ANYTHING, ANYTHING, ANYTHING, st.sampled_from([".yaml", ".yml", ".json"]))
def test_any_bytes_give_an_answer(manifest: bytes, fleet: bytes, secrets: bytes, suffix: str) -> None:
    files = {
        f"apps/shop/app{suffix}": manifest,
        "apps/near/App.yaml": manifest,
        f"fleet{suffix}": fleet,
        "apps/shop/secrets.sops.yaml": secrets,
        "apps/user/secrets.sops.env": secrets,
        "apps/user/app.yaml": b"kind: App\nimage: x\nsecrets: {file: secrets.sops.env}\n",
    }
    began = time.perf_counter()
    catalog = READER.read(MemoryTree(files))
    assert time.perf_counter() - began < 10
    for problem in catalog.problems:
        lines = files[problem.path].decode("utf-8", "replace").split("\n")
        assert 1 <= problem.line <= len(lines), problem
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, problem
        assert "\n" not in problem.message
    assert not {broken.app for broken in catalog.broken} & catalog.apps.keys()


@pytest.mark.parametrize("path", ["app.yaml", "app.json"])
def test_a_file_of_too_many_values_is_given_up_early(path: str) -> None:
    content = b'{"command": [' + b"1," * 120_000 + b"1]}"
    assert len(content) < LARGEST
    began = time.perf_counter()
    document = read(path, content)
    assert time.perf_counter() - began < 2
    assert document.root is None
    (problem,) = document.problems
    assert problem.message == "more than 20000 keys and values in one file"
    assert 40_000 < problem.column < 40_100


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON, st.sampled_from([None, 1, "\t"]), st.sampled_from(["ascii", "utf-8"]))
def test_json_is_read_as_the_standard_library_reads_it(
    given_value: object, indent: int | str | None, encoding: str
) -> None:
    text = json.dumps(given_value, indent=indent, ensure_ascii=encoding == "ascii")
    document = read("a.json", text.encode("utf-8", "surrogatepass"))
    if document.problems:
        assert any("not allowed" in problem.message or "UTF-8" in problem.message for problem in document.problems)
    else:
        assert document.root is not None
        assert document.root.value == json.loads(text)


@settings(deadline=None)
@given(st.text('0123456789.eE+-nulltrefas "[]{},:\\\n', max_size=30))
def test_what_json_refuses_is_refused(text: str) -> None:
    try:
        loaded = json.loads(text, parse_constant=lambda _: math.nan)
    except (ValueError, RecursionError):
        assert read("a.json", text.encode()).problems
    else:
        document = read("a.json", text.encode())
        assert document.root is not None or not text.strip() or "NaN" in text, (text, loaded)
