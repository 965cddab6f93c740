from __future__ import annotations

import contextlib
import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import secretfile
from reconciler.core.secretfile import Format, binary_key, check, format_of, secrets
from reconciler.errors import InvalidInput

SEALED = b"a: ENC[AES256_GCM,data:xx,type:str]\nsops:\n    version: 3\n"


def test_the_example_in_the_docstring_holds() -> None:
    assert doctest.testmod(secretfile).failed == 0


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("apps/shop/secrets.sops.yaml", "yaml"),
        ("secrets.yml", "yaml"),
        ("secrets.sops.json", "json"),
        ("shop.sops.env", "dotenv"),
        (".env", "dotenv"),
        ("shop.dotenv", "dotenv"),
        ("tls.sops.key", "binary"),
        ("secrets.yaml.sops", "binary"),
        ("secrets.YAML", "binary"),
        ("noending", "binary"),
    ],
)
def test_the_format_is_the_one_that_sops_chose(path: str, form: Format) -> None:
    assert format_of(path) == form


def test_ini_is_refused_with_what_to_write_instead() -> None:
    with pytest.raises(InvalidInput, match="yaml, json or env") as caught:
        format_of("a/b.ini")
    assert caught.value.reason == "FormatUnsupported"


def test_a_binary_file_is_one_secret_named_after_the_file() -> None:
    content = b'{"data": "ENC[...]", "sops": {}}'
    found = secrets("apps/shop/tls.sops.key", "binary", content, b"\x00\xff")
    assert {key: value.reveal() for key, value in found.items()} == {"tls.key": b"\x00\xff"}
    assert binary_key("ca.sops.pem") == "ca.pem"


def test_scalars_keep_their_digits() -> None:
    found = secrets(
        "s.yaml", "yaml", SEALED, b'{"a": 12345678901234567890, "b": 1.10, "c": true, "d": false, "e": null, "f": ""}'
    )
    assert [value.reveal() for value in found.values()] == [
        b"12345678901234567890",
        b"1.10",
        b"true",
        b"false",
        b"",
        b"",
    ]


@pytest.mark.parametrize("number", ["1.2345678901234568e+22", "12345678901234567000", "0.12345678901234568"])
def test_a_number_that_sops_rounded_is_refused(number: str) -> None:
    with pytest.raises(InvalidInput, match="'account' lost digits") as caught:
        secrets("s.yaml", "yaml", b"account: ENC[x,type:float]", f'{{"account": {number}}}'.encode())
    assert caught.value.reason == "NumberRounded"
    assert number not in str(caught.value)


@pytest.mark.parametrize("number", ["0.5", "-1.25", "0", "100000000000000000000", "0.0"])
def test_a_number_that_a_float_keeps_is_fine(number: str) -> None:
    found = secrets("s.yaml", "yaml", b"a: ENC[x,type:float]", f'{{"a": {number}}}'.encode())
    assert found["a"].reveal() == number.encode()


@pytest.mark.parametrize("value", ['{"inner": "hunter2"}', '["hunter2"]', "{}", "[]"])
def test_nested_values_are_refused_by_key_and_never_shown(value: str) -> None:
    with pytest.raises(InvalidInput, match="'outer'") as caught:
        secrets("s.yaml", "yaml", SEALED, f'{{"fine": "x", "outer": {value}}}'.encode())
    assert caught.value.reason == "NestedSecret"
    assert "hunter2" not in str(caught.value)
    assert "inner" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'a' stands twice") as caught:
        secrets("s.json", "json", SEALED, b'{"a": "1", "a": "2"}')
    assert caught.value.reason == "DuplicateKey"


@pytest.mark.parametrize("key", ["1st", "a/b", "..", "a b", "", "a\\n", "ä", "a" * 201, "a=b", "export A"])
def test_keys_that_cannot_be_files_or_variables_are_refused(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        secrets("s.env", "dotenv", SEALED, f'{{"{key}": "hunter2"}}'.encode())
    assert caught.value.reason == "SecretKeyUnfit"
    assert "hunter2" not in str(caught.value)


def test_a_key_that_may_be_half_of_a_secret_is_counted_and_not_shown() -> None:
    with pytest.raises(InvalidInput, match="number 2") as caught:
        secrets("s.env", "dotenv", SEALED, b'{"A": "x", "postgres://me:hunter2@db/?sslmode": "on"}')
    assert "hunter2" not in str(caught.value)


def test_export_gets_its_own_advice() -> None:
    with pytest.raises(InvalidInput, match="without `export`"):
        secrets("s.env", "dotenv", SEALED, b'{"export A": "x"}')


@pytest.mark.parametrize("output", [b"", b"[1]", b'"x"', b"hunter2", b"\xff", b"[" * 100_000])
def test_output_that_is_no_mapping_is_refused_without_showing_it(output: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        secrets("s.yaml", "yaml", SEALED, output)
    assert caught.value.reason == "SecretsUnreadable"
    assert caught.value.__context__ is None, "json's error holds the whole document"
    assert "hunter2" not in str(caught.value)


def test_bytes_that_json_cannot_carry_are_refused() -> None:
    with pytest.raises(InvalidInput, match="binary") as caught:
        secrets("s.yaml", "yaml", SEALED, b'{"a": "x\\ufffdy"}')
    assert caught.value.reason == "SecretsUnreadable"
    with pytest.raises(InvalidInput, match="binary"):
        secrets("s.yaml", "yaml", SEALED, b'{"a": "x\\ud800y"}')


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\n---\nb: 2\n",
        "---\na: 1\n---\nb: 2\n",
        "a: 1\r---\rb: 2",
        "a: 1\n...\nb: 2\n",
        "--- a\n--- b\n",
        "%YAML 1.2\n---\na: 1\n--- \nb: 1",
        "a: 1\u2028---\u2028b: 2",
    ],
)
def test_several_yaml_documents_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check("s.yaml", "yaml", text.encode())
    assert caught.value.reason == "SeveralDocuments"


@pytest.mark.parametrize(
    "text", ["---\na: 1\n", "# c\n\n---\na: 1\n", "a: |\n  ---\n", "a: ---x\n---x: 1\n", "%YAML 1.2\n---\na: 1\n"]
)
def test_one_yaml_document_is_fine(text: str) -> None:
    check("s.yaml", "yaml", text.encode())


def test_a_second_json_document_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        check("s.json", "json", b'{"a": "ENC[x]", "sops": {}} {"b": 1}')
    assert caught.value.reason == "SeveralDocuments"


@pytest.mark.parametrize("form", ["yaml", "json", "dotenv", "binary"])
@pytest.mark.parametrize("content", [b"", b" \n\t"])
def test_an_empty_file_is_called_empty(form: Format, content: bytes) -> None:
    with pytest.raises(InvalidInput, match="is empty") as caught:
        check("s", form, content)
    assert caught.value.reason == "NotEncrypted"


def test_plain_bytes_are_not_encrypted_and_sealed_garbage_is_unreadable() -> None:
    with pytest.raises(InvalidInput, match="readable for everyone") as caught:
        check("tls.key", "binary", b"\xff\x00hunter2")
    assert caught.value.reason == "NotEncrypted"
    with pytest.raises(InvalidInput) as caught:
        check("s.yaml", "yaml", SEALED + b"\xff")
    assert caught.value.reason == "SecretsUnreadable"
    assert caught.value.__context__ is None, "UnicodeDecodeError holds the bytes"


def test_a_file_too_large_is_refused() -> None:
    with pytest.raises(InvalidInput) as caught:
        check("s.yaml", "yaml", b"x" * (secretfile.LARGEST + 1))
    assert caught.value.reason == "SecretsTooLarge"


@given(st.binary(max_size=300), st.sampled_from(["yaml", "json", "dotenv", "binary"]))
def test_any_bytes_pass_or_are_refused_and_nothing_else(content: bytes, form: Format) -> None:
    with contextlib.suppress(InvalidInput):
        check("s", form, content)
        secrets("s", form, content, content)
