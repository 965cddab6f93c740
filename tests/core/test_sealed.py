"""A look at real SOPS files without their key."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
from harness.secrets import SecretSmith

from reconciler.core.sealed import look

VALUES = {"DATABASE_URL": "postgres://hunter2@db", "tls.key": "line\nline", "EMPTY": "", "PORT": "5432"}


@pytest.fixture(scope="module")
def smith(tmp_path_factory: pytest.TempPathFactory) -> SecretSmith:
    return SecretSmith(tmp_path_factory.mktemp("keys"))


def said(path: str, content: bytes | str) -> list[str]:
    sealed = look(path, content if isinstance(content, bytes) else content.encode())
    assert "hunter2" not in str(sealed)
    return [str(problem) for problem in sealed.problems]


def test_keys_of_yaml_and_json(smith: SecretSmith) -> None:
    plain = json.dumps({**VALUES, "N": 5, "B": True, "Z": None})
    keys = (*VALUES, "N", "B", "Z")
    assert look("s.sops.yaml", smith.encrypt(plain, "yaml")).keys == keys
    assert look("s.sops.json", smith.encrypt(plain, "json")).keys == keys
    commented = "# a comment\nA: b # another\n# last\n"
    sealed = look("s.sops.yml", smith.encrypt(commented, "yaml"))
    assert (sealed.keys, sealed.problems) == (("A",), ())


def test_keys_of_dotenv(smith: SecretSmith) -> None:
    sealed = look("s.sops.env", smith.encrypt("# comment\nA=hunter2\nB_C=\nD=x=y\n", "dotenv"))
    assert (sealed.keys, sealed.problems) == (("A", "B_C", "D"), ())


def test_a_binary_file_is_one_secret_named_after_the_file(smith: SecretSmith) -> None:
    sealed = look("apps/shop/tls.sops.key", smith.encrypt(b"\x00\xff hunter2", "binary"))
    assert (sealed.keys, sealed.problems) == (("tls.key",), ())
    large = smith.encrypt(b"x" * 400_000, "binary")  # larger than a manifest may be
    assert look("apps/shop/store.sops.p12", large).problems == ()


@pytest.mark.parametrize("path", ["s.sops.yaml", "s.sops.json", "s.sops.env", "key.sops.pem", "s.yaml"])
@pytest.mark.parametrize("content", ["A=hunter2\n", "A: hunter2\n", '{"A": "hunter2"}', "", "\0\xff", "ENC[ sops"])
def test_what_is_not_encrypted_is_said_to_be_so(path: str, content: str) -> None:
    (only,) = said(path, content)
    assert only.startswith(f"{path}:1:") or "JSON" in only
    if content != "ENC[ sops" and "\0" not in content:
        assert "not encrypted with SOPS: everyone who can read the repository" in only


def test_a_value_that_was_added_by_hand(smith: SecretSmith) -> None:
    content = smith.encrypt('{"A": "x"}', "yaml")
    words = "the value of 'NEW' is not encrypted; change that secret, and write secrets with `sops edit` only"
    assert said("s.sops.yaml", b"NEW: hunter2\n" + content) == [f"s.sops.yaml:1:1: {words}"]
    content = smith.encrypt("A=x\n", "dotenv")
    by_hand = content.replace(b"sops_age", b"NEW=hunter2\nsops_age", 1)
    assert said("s.sops.env", by_hand) == [f"s.sops.env:2:1: {words}"]


def test_values_that_sops_was_told_to_leave(smith: SecretSmith) -> None:
    content = smith.encrypt('{"A": "x", "user_unencrypted": "bob"}', "yaml")
    text = content.decode()
    assert "bob" not in text or "unencrypted_suffix" in text
    assert not look("s.sops.yaml", content).problems
    rule = re.sub(r"(?m)^( +)mac:", r"\1encrypted_regex: ^A$\n\1mac:", text)
    assert not look("s.sops.yaml", b"other: plain\n" + rule.encode()).problems


def test_nested_secrets(smith: SecretSmith) -> None:
    content = smith.encrypt('{"A": {"b": "hunter2"}, "C": ["hunter2"], "d": "x"}', "json")
    problems = said("s.sops.json", content)
    assert [problem.partition(" ")[2] for problem in problems] == [
        "'A' is nested; every secret needs a key of its own at the top level",
        "'C' is nested; every secret needs a key of its own at the top level",
    ]
    assert problems[0].startswith("s.sops.json:2:2: ")


def test_keys_that_could_be_no_file(smith: SecretSmith) -> None:
    content = smith.encrypt('{"../../etc/passwd": "x", "a b": "x", "1": "x", ".hidden": "x"}', "json")
    problems = said("s.sops.json", content)
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "4", "5"]
    assert all("cannot name a file or a variable" in problem for problem in problems)
    problems = said("s.sops.env", smith.encrypt("export A=x\nB=y\n", "dotenv"))
    assert problems == ["s.sops.env:1:1: leave out 'export': SOPS takes it for a part of the key"]


def test_what_sops_would_lose_in_silence(smith: SecretSmith) -> None:
    one = smith.encrypt('{"A": "x"}', "yaml")
    lines = one.count(b"\n")
    assert said("s.sops.yaml", one + b"---\n" + one) == [
        f"s.sops.yaml:{lines + 1}:1: a second document begins here; only one is allowed"
    ]
    assert said("s.sops.yaml", b"A: ENC[hunter2]\n" + one) == [
        "s.sops.yaml:2:1: the key 'A' stands twice; the first one is in line 1"
    ]
    dotenv = smith.encrypt("A=x\n", "dotenv")
    assert said("s.sops.env", b"A=ENC[hunter2]\nno assignment hunter2\n" + dotenv) == [
        "s.sops.env:2:1: this line is no KEY=VALUE",
        "s.sops.env:3:1: 'A' stands twice; the first one is in line 1",
    ]


def test_a_copy_is_known_however_it_is_dressed(smith: SecretSmith) -> None:
    content = smith.encrypt('{"A": "x"}', "yaml")
    dressed = b"# mine\n" + content.replace(b"    mac:", b"    mac:   ")
    dressed = re.sub(rb"(tag:[^=]{21})(.)==(,type:str\]\n +unencr)", other_base64, dressed)
    assert base64_of(dressed) != base64_of(content)
    identity = look("s.sops.yaml", content).identity
    assert identity
    assert look("other.sops.yaml", dressed).identity == identity
    assert look("s.sops.yaml", smith.encrypt('{"A": "x"}', "yaml")).identity != identity
    assert look("s.sops.env", smith.encrypt("A=x\n", "dotenv")).identity
    assert look("s.sops.json", b'{"sops": {"mac": "ENC[AES256_GCM,data:*,iv:a,tag:b,type:str]"}}').identity == ""


def base64_of(content: bytes) -> list[bytes]:
    return re.findall(rb"tag:[^,]*", content)


def other_base64(match: re.Match[bytes]) -> bytes:
    """Another letter that stands for the same bytes."""
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return match[1] + letters[letters.index(match[2]) + 1 :][:1] + b"==" + match[3]


def test_metadata_is_needed(smith: SecretSmith) -> None:
    content = smith.encrypt('{"A": "x"}', "yaml").replace(b"    mac:", b"    mac_was:")
    assert "not encrypted with SOPS" in said("s.sops.yaml", content)[0]
    content = smith.encrypt("A=x\n", "dotenv").replace(b"sops_mac=", b"sops_was=")
    assert "not encrypted with SOPS" in said("s.sops.env", content)[0]


def test_ini_is_refused() -> None:
    assert said("s.sops.ini", "[a]\nb=ENC[x] sops")[0].startswith(
        "s.sops.ini:1:1: SOPS files in INI form cannot be used"
    )


def test_it_agrees_with_sops_itself(smith: SecretSmith) -> None:
    """What we call usable sops decrypts, to these very keys."""
    content = smith.encrypt(json.dumps(VALUES), "yaml")
    done = subprocess.run(
        ["sops", "decrypt", "--input-type", "yaml", "--output-type", "json"],
        input=content,
        capture_output=True,
        check=True,
        timeout=60,
        env={"HOME": "/nonexistent", "SOPS_AGE_KEY_FILE": str(smith.key), "PATH": os.environ["PATH"]},
    )
    assert tuple(json.loads(done.stdout)) == look("s.sops.yaml", content).keys
