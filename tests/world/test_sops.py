from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.secrets import SecretSmith
from harness.waiting import eventually

from reconciler.core.model import Secret
from reconciler.core.secretfile import REASONS, Format
from reconciler.errors import InvalidInput, ReconcilerError, Unavailable
from reconciler.world import sops
from reconciler.world.sops import SopsVault

HUSH = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def smith(tmp_path_factory: pytest.TempPathFactory) -> SecretSmith:
    return SecretSmith(tmp_path_factory.mktemp("smith"))


@pytest.fixture
def vault(smith: SecretSmith) -> SopsVault:
    return SopsVault("sops", smith.key)


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert HUSH not in caplog.text


def shown(found: object) -> dict[str, bytes]:
    assert isinstance(found, dict)
    return {key: value.reveal() for key, value in found.items() if isinstance(value, Secret)}


def refusal(call: Callable[[], object]) -> ReconcilerError:
    """The error of a call, after a look at everything that hangs on it."""
    with pytest.raises(ReconcilerError) as caught:
        call()
    error = caught.value
    assert error.reason in REASONS
    assert error.remedy
    cause: BaseException | None = error
    while cause is not None:
        assert HUSH not in repr((str(cause), cause.args, vars(cause)))
        cause = cause.__cause__ or cause.__context__
    assert HUSH not in "".join(traceback.format_exception(error))
    return error


@pytest.fixture
def counted(tmp_path: Path) -> tuple[str, Callable[[], int]]:
    """Real sops behind a script that counts its runs: (command, count)."""
    runs = tmp_path / "runs"
    script = tmp_path / "counting-sops"
    script.write_text(f'#!/bin/sh\necho x >> {runs}\nPATH=/usr/local/bin:/usr/bin:/bin exec sops "$@"\n')
    script.chmod(0o755)
    return str(script), lambda: len(runs.read_text().splitlines()) if runs.exists() else 0


def fake(tmp_path: Path, body: str) -> str:
    script = tmp_path / "fake-sops"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return str(script)


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_yaml(smith: SecretSmith, vault: SopsVault) -> None:
    sealed = smith.encrypt(
        f'# a comment\nA: {HUSH}\nB: "1.10"\nC: 1234567890123456789\nD: true\nE: null\nF: ""\nG: |\n  two\n  lines\n'
    )
    assert shown(vault.reveal("apps/shop/secrets.sops.yaml", "b1", sealed)) == {
        "A": HUSH.encode(),
        "B": b"1.10",
        "C": b"1234567890123456789",
        "D": b"true",
        "E": b"",
        "F": b"",
        "G": b"two\nlines\n",
    }


def test_json(smith: SecretSmith, vault: SopsVault) -> None:
    sealed = smith.encrypt('{"A": "\\u00e4<&>\\u2028", "B": 42}', "json")
    assert shown(vault.reveal("s.sops.json", "b", sealed)) == {"A": "ä<&>\u2028".encode(), "B": b"42"}


def test_dotenv_with_odd_lines(smith: SecretSmith, vault: SopsVault) -> None:
    sealed = smith.encrypt('# comment\n\nA=a=b=c\nB="quotes stay"\nC=one\\ntwo\nD=\nE= spaces \n', "dotenv")
    assert shown(vault.reveal("s.sops.env", "b", sealed)) == {
        "A": b"a=b=c",
        "B": b'"quotes stay"',
        "C": b"one\ntwo",
        "D": b"",
        "E": b" spaces ",
    }


def test_dotenv_with_export_and_with_a_line_that_stands_twice(smith: SecretSmith, vault: SopsVault) -> None:
    error = refusal(lambda: vault.reveal("s.env", "b", smith.encrypt(f"export A={HUSH}\n", "dotenv")))
    assert (type(error), error.reason) == (InvalidInput, "SecretKeyUnfit")
    assert "export" in error.remedy
    error = refusal(lambda: vault.reveal("s.env", "c", smith.encrypt(f"A={HUSH}\nA=2\n", "dotenv")))
    assert error.reason == "DuplicateKey"


def test_binary(smith: SecretSmith, vault: SopsVault) -> None:
    data = bytes(range(256)) * 10
    assert shown(vault.reveal("a/tls.sops.key", "b", smith.encrypt(data, "binary"))) == {"tls.key": data}
    assert shown(vault.reveal("a/empty.bin", "c", smith.encrypt(b"", "binary"))) == {"empty.bin": b""}


def test_an_encrypted_empty_mapping_is_no_secrets(smith: SecretSmith, vault: SopsVault) -> None:
    assert shown(vault.reveal("s.yaml", "b", smith.encrypt("{}"))) == {}


def test_secrets_do_not_print(smith: SecretSmith, vault: SopsVault) -> None:
    found = vault.reveal("s.yaml", "b", smith.yaml({"A": HUSH}))
    assert HUSH not in repr(found)
    assert HUSH not in f"{vault!r} {found['A']}"


# --- files that are wrong ---------------------------------------------------------------------------------------------


def other_letter(match: re.Match[bytes]) -> bytes:
    return match[1] + (b"A" if match[2] != b"A" else b"B")


def tamper_value(sealed: bytes) -> bytes:
    return re.sub(rb"^(A: ENC\[AES256_GCM,data:)(.)", other_letter, sealed, flags=re.MULTILINE)


def rename_key(sealed: bytes) -> bytes:
    return re.sub(rb"^A:", b"ADMIN:", sealed, flags=re.MULTILINE)


def add_plain(sealed: bytes) -> bytes:
    return sealed + f"NEW: {HUSH}\n".encode()


def remove_key(sealed: bytes) -> bytes:
    return re.sub(rb"^A: .*\n", b"", sealed, flags=re.MULTILINE)


def tamper_mac(sealed: bytes) -> bytes:
    return re.sub(rb"(mac: ENC\[AES256_GCM,data:)(.)", other_letter, sealed)


def remove_mac(sealed: bytes) -> bytes:
    return re.sub(rb"^ +mac: .*\n", b"", sealed, flags=re.MULTILINE)


def strip_metadata(sealed: bytes) -> bytes:
    return sealed.partition(b"sops:\n")[0]


def merge_conflict(sealed: bytes) -> bytes:
    return b"<<<<<<< HEAD\n" + sealed + b"=======\n" + sealed + b">>>>>>> other\n"


def second_document(sealed: bytes) -> bytes:
    return sealed + f"---\nB: {HUSH}\n".encode()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (tamper_value, "SecretTampered"),
        (rename_key, "SecretTampered"),
        (add_plain, "SecretTampered"),
        (remove_key, "MacMismatch"),
        (tamper_mac, "MacMismatch"),
        (remove_mac, "MacMismatch"),
        (strip_metadata, "SecretsUnreadable"),
        (merge_conflict, "SecretsUnreadable"),
        (second_document, "SeveralDocuments"),
    ],
)
def test_damage(smith: SecretSmith, vault: SopsVault, damage: Callable[[bytes], bytes], reason: str) -> None:
    sealed = smith.yaml({"A": HUSH, "B": "other"})
    damaged = damage(sealed)
    assert damaged != sealed
    error = refusal(lambda: vault.reveal("apps/shop/secrets.sops.yaml", "b", damaged))
    assert (type(error), error.reason) == (InvalidInput, reason)
    assert "apps/shop/secrets.sops.yaml" in error.message


def test_several_documents_as_sops_itself_writes_them(smith: SecretSmith, vault: SopsVault) -> None:
    error = refusal(lambda: vault.reveal("s.yaml", "b", smith.encrypt(f"A: 1\n---\nB: {HUSH}\n")))
    assert error.reason == "SeveralDocuments"


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("s.yaml", f"A: {HUSH}\n"),
        ("s.yaml", f"- {HUSH}\n"),
        ("s.yaml", f"A: [{HUSH}\n"),
        ("s.json", f'{{"A": "{HUSH}"}}'),
        ("s.env", f"A={HUSH}\n"),
        ("s.env", f"{HUSH}\n"),
        ("tls.key", f"{HUSH}\n"),
        ("tls.key", f'{{"A": "{HUSH}"}}'),
    ],
)
def test_a_file_in_plain_text(vault: SopsVault, path: str, content: str) -> None:
    error = refusal(lambda: vault.reveal(path, "b", content.encode()))
    assert (type(error), error.reason) == (InvalidInput, "NotEncrypted")
    assert "readable for everyone" in error.message


@pytest.mark.parametrize("path", ["s.yaml", "s.json", "s.env", "tls.key"])
def test_an_empty_file(vault: SopsVault, path: str) -> None:
    error = refusal(lambda: vault.reveal(path, "b", b""))
    assert (type(error), error.reason) == (InvalidInput, "NotEncrypted")
    assert "empty" in error.message


@pytest.mark.parametrize(
    ("plaintext", "form", "reason"),
    [
        (f"A: {{inner: {HUSH}}}\n", "yaml", "NestedSecret"),
        (f'{{"A": ["{HUSH}"]}}', "json", "NestedSecret"),
        (f'{{"A": "{HUSH}", "A": "2"}}', "json", "SecretsUnreadable"),
        (f"a b: {HUSH}\n", "yaml", "SecretKeyUnfit"),
        (f'A: {HUSH}\nB: !!binary "gIGC"\n', "yaml", "SecretsUnreadable"),
        ("A: 123456789012345678901\n", "yaml", "NumberRounded"),
        ("A: .inf\n", "yaml", "SecretsUnreadable"),
    ],
)
def test_a_plaintext_that_cannot_be_used(
    smith: SecretSmith, vault: SopsVault, plaintext: str, form: Format, reason: str
) -> None:
    error = refusal(lambda: vault.reveal(f"s.{form}", "b", smith.encrypt(plaintext, form)))
    assert (type(error), error.reason) == (InvalidInput, reason)


def test_a_format_that_the_name_does_not_say(smith: SecretSmith, vault: SopsVault) -> None:
    error = refusal(lambda: vault.reveal("s.json", "b", smith.yaml({"A": HUSH})))
    assert (type(error), error.reason) == (InvalidInput, "SecretsUnreadable")
    assert refusal(lambda: vault.reveal("s.ini", "b", b"[a]\nb=c\n")).reason == "FormatUnsupported"


def test_a_file_that_asks_a_key_service_never_reaches_sops(
    smith: SecretSmith, counted: tuple[str, Callable[[], int]]
) -> None:
    command, runs = counted
    service = b"sops:\n    azure_kv:\n        - vault_url: http://192.0.2.1\n          name: n\n          version: v\n"
    sealed = smith.yaml({"A": HUSH}).replace(b"sops:\n", service)
    error = refusal(lambda: SopsVault(command, smith.key).reveal("s.yaml", "b", sealed))
    assert (type(error), error.reason) == (InvalidInput, "KeyServiceRefused")
    assert "'azure_kv'" in error.message
    assert runs() == 0


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_says_which_key_would_fit(smith: SecretSmith) -> None:
    other, recipient = smith.make_key()
    error = refusal(lambda: SopsVault("sops", other).reveal("s.yaml", "b", smith.yaml({"A": HUSH})))
    assert (type(error), error.reason) == (Unavailable, "DecryptNoKey")
    assert smith.recipient in error.message
    assert recipient in error.message
    assert "updatekeys" in error.remedy
    assert "AGE-SECRET-KEY" not in str(error)


@pytest.mark.parametrize("content", ["", "garbage\n", "# public key: none\n"])
def test_a_key_file_without_a_key(smith: SecretSmith, tmp_path: Path, content: str) -> None:
    key = tmp_path / "age.key"
    key.write_text(content)
    key.chmod(0o600)
    error = refusal(lambda: SopsVault("sops", key).reveal("s.yaml", "b", smith.yaml({"A": HUSH})))
    assert (type(error), error.reason) == (Unavailable, "DecryptNoKey")
    assert "holds no age key" in error.message


def test_a_missing_key_is_noticed_when_it_comes(smith: SecretSmith, tmp_path: Path) -> None:
    key = tmp_path / "age.key"
    vault = SopsVault("sops", key)
    sealed = smith.yaml({"A": HUSH})
    error = refusal(lambda: vault.reveal("s.yaml", "b", sealed))
    assert (type(error), error.reason) == (Unavailable, "AgeKeyMissing")
    assert str(key) in error.message
    key.write_bytes(smith.key.read_bytes())
    key.chmod(0o600)
    assert shown(vault.reveal("s.yaml", "b", sealed)) == {"A": HUSH.encode()}


def test_a_directory_as_key(smith: SecretSmith, tmp_path: Path) -> None:
    error = refusal(lambda: SopsVault("sops", tmp_path).reveal("s.yaml", "b", smith.yaml({"A": HUSH})))
    assert error.reason == "AgeKeyMissing"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_can_reach_is_refused(smith: SecretSmith, tmp_path: Path, mode: int) -> None:
    key = tmp_path / "age.key"
    key.write_bytes(smith.key.read_bytes())
    key.chmod(mode)
    vault = SopsVault("sops", key)
    sealed = smith.yaml({"A": HUSH})
    error = refusal(lambda: vault.reveal("s.yaml", "b", sealed))
    assert (type(error), error.reason) == (Unavailable, "AgeKeyExposed")
    assert f"chmod 600 {key}" in error.remedy
    key.chmod(0o600)
    assert vault.reveal("s.yaml", "b", sealed)


def test_the_key_as_a_systemd_credential(smith: SecretSmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed = smith.yaml({"A": HUSH})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    error = refusal(lambda: SopsVault("sops", None).reveal("s.yaml", "b", sealed))
    assert error.reason == "AgeKeyMissing"
    assert "age-keygen" in error.remedy

    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert refusal(lambda: SopsVault("sops", None).reveal("s.yaml", "b", sealed)).reason == "AgeKeyMissing"
    credential = tmp_path / "age.key"
    credential.write_bytes(smith.key.read_bytes())
    credential.chmod(0o440)  # as systemd shows it to a service with an ACL
    assert SopsVault("sops", None).reveal("s.yaml", "b", sealed)


def test_a_key_of_the_users_is_not_taken(smith: SecretSmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # sops looks into the environment and the home directory too; our host's key must be the only one.
    keys = tmp_path / ".config/sops/age/keys.txt"
    keys.parent.mkdir(parents=True)
    keys.write_bytes(smith.key.read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setenv("SOPS_AGE_KEY", smith.key.read_text())
    other, _ = smith.make_key()
    assert refusal(lambda: SopsVault("sops", other).reveal("s.yaml", "b", smith.yaml({"A": HUSH}))).reason == (
        "DecryptNoKey"
    )


def test_a_malformed_sops_yaml_of_the_host_does_not_matter(
    smith: SecretSmith, vault: SopsVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".sops.yaml").write_text("{{{")
    monkeypatch.chdir(tmp_path)
    assert vault.reveal("s.yaml", "b", smith.yaml({"A": HUSH}))


# --- sops itself ------------------------------------------------------------------------------------------------------


def test_sops_missing_is_noticed_when_it_comes(smith: SecretSmith, tmp_path: Path) -> None:
    command = tmp_path / "sops"
    vault = SopsVault(str(command), smith.key)
    sealed = smith.yaml({"A": HUSH})
    error = refusal(lambda: vault.reveal("s.yaml", "b", sealed))
    assert (type(error), error.reason) == (Unavailable, "SopsMissing")
    assert "Install sops" in error.remedy
    command.write_text('#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin exec sops "$@"\n')
    command.chmod(0o644)
    assert refusal(lambda: vault.reveal("s.yaml", "b", sealed)).reason == "SopsMissing"
    command.chmod(0o755)
    assert vault.reveal("s.yaml", "b", sealed)


def test_sops_for_another_machine(smith: SecretSmith, tmp_path: Path) -> None:
    command = tmp_path / "sops"
    command.write_bytes(b"\x7fELFgarbage")
    command.chmod(0o755)
    error = refusal(lambda: SopsVault(str(command), smith.key).reveal("s.yaml", "b", smith.yaml({"A": HUSH})))
    assert (type(error), error.reason) == (Unavailable, "SopsFailed")
    assert "Exec format error" in error.message


def test_sops_that_hangs_is_killed_with_its_children(smith: SecretSmith, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    command = fake(tmp_path, f"sleep 300 & echo $$ $! > {pids}; wait")
    reported: list[str] = []
    vault = SopsVault(command, smith.key, timeout=1, on_failure=reported.append)
    sealed = smith.yaml({"A": HUSH})
    error = refusal(lambda: vault.reveal("s.yaml", "b", sealed))
    assert (type(error), error.reason) == (Unavailable, "SopsTimeout")
    for pid in pids.read_text().split():
        eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in status(pid), within=10)  # type: ignore[misc]
    assert refusal(lambda: vault.reveal("s.yaml", "b", sealed)).reason == "SopsTimeout"
    assert reported == ["SopsTimeout"], "a hang is not waited for in every cycle"


def status(pid: str) -> str:
    return Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        ("exit 2", Unavailable, "SopsFailed"),
        ("exit 100", Unavailable, "SopsFailed"),  # sops before 3.9 takes `decrypt` for a file's name
        ("kill -9 $$", Unavailable, "SopsFailed"),
        ("exit 52", InvalidInput, "MacMismatch"),
        ("exit 92", InvalidInput, "SecretsUnreadable"),
        (f"echo {HUSH}", InvalidInput, "SecretsUnreadable"),
        (f"echo {HUSH} >&2; exit 25", InvalidInput, "SecretTampered"),
    ],
)
def test_other_exits(smith: SecretSmith, tmp_path: Path, body: str, kind: type, reason: str) -> None:
    vault = SopsVault(fake(tmp_path, body), smith.key)
    error = refusal(lambda: vault.reveal("s.yaml", "b", smith.yaml({"A": HUSH})))
    assert (type(error), error.reason) == (kind, reason)


def test_argv_and_environment_hold_no_secret(smith: SecretSmith, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    go = tmp_path / "go"
    command = fake(
        tmp_path,
        f'PATH=/usr/local/bin:/usr/bin:/bin; tr "\\0" "\\n" < /proc/$$/environ > {seen}.environ\n'
        f'tr "\\0" "\\n" < /proc/$$/cmdline > {seen}.argv; pwd > {seen}.pwd; touch {seen}\n'
        f'while [ ! -e {go} ]; do sleep 0.02; done; exec sops "$@"',
    )
    vault = SopsVault(command, smith.key, timeout=60)
    found: list[object] = []
    sealed = smith.yaml({"A": HUSH})
    thread = threading.Thread(target=lambda: found.append(vault.reveal("apps/shop/s.yaml", "b", sealed)))
    thread.start()
    try:
        eventually(seen.exists)
        lines = (tmp_path / "seen.environ").read_text().split()
        assert sorted(line.partition("=")[0] for line in lines) == [
            "HOME",
            "SOPS_AGE_KEY_FILE",
            "SOPS_CONFIG",
            "SOPS_DISABLE_VERSION_CHECK",
            "SOPS_HC_VAULT_ALLOWLIST",
        ]
        argv = (tmp_path / "seen.argv").read_text()
        assert argv.endswith("decrypt\n--input-type\nyaml\n--output-type\njson\n")
        assert "shop" not in argv
        assert (tmp_path / "seen.pwd").read_text() == "/\n"
    finally:
        go.touch()
        thread.join(60)
    assert shown(found[0]) == {"A": HUSH.encode()}


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_known_blob_runs_no_sops(smith: SecretSmith, counted: tuple[str, Callable[[], int]]) -> None:
    command, runs = counted
    vault = SopsVault(command, smith.key)
    sealed = smith.yaml({"A": HUSH})
    first = vault.reveal("s.yaml", "b1", sealed)
    assert vault.reveal("s.yaml", "b1", sealed) is first
    assert runs() == 1
    vault.reveal("s.yaml", "b2", sealed)
    assert runs() == 2


def test_plaintext_that_nobody_asks_for_is_dropped(
    smith: SecretSmith, counted: tuple[str, Callable[[], int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, runs = counted
    monkeypatch.setattr(sops, "_KEPT", 2)
    vault = SopsVault(command, smith.key)
    sealed = smith.yaml({"A": HUSH})
    for blob in ("b1", "b2", "b1", "b3", "b1"):
        vault.reveal("s.yaml", blob, sealed)
    assert runs() == 3, "the one that was asked for longest ago went"
    vault.reveal("s.yaml", "b2", sealed)
    assert runs() == 4
    monkeypatch.setattr(sops, "_FORGOTTEN", -1.0)
    vault.reveal("s.yaml", "b2", sealed)
    assert runs() == 5


def test_a_known_blob_is_revealed_while_the_key_is_gone(smith: SecretSmith, tmp_path: Path) -> None:
    key = tmp_path / "age.key"
    key.write_bytes(smith.key.read_bytes())
    key.chmod(0o600)
    vault = SopsVault("sops", key)
    sealed = smith.yaml({"A": HUSH})
    vault.reveal("s.yaml", "b", sealed)
    key.unlink()
    assert vault.reveal("s.yaml", "b", sealed)


def test_a_wrong_key_runs_sops_once_until_it_is_replaced(
    smith: SecretSmith, tmp_path: Path, counted: tuple[str, Callable[[], int]]
) -> None:
    command, runs = counted
    reported: list[str] = []
    other, _ = smith.make_key()
    key = tmp_path / "age.key"
    key.write_bytes(other.read_bytes())
    key.chmod(0o600)
    vault = SopsVault(command, key, on_failure=reported.append)
    sealed = smith.yaml({"A": HUSH})
    errors = [refusal(lambda: vault.reveal("s.yaml", "b", sealed)) for _ in range(5)]
    assert runs() == 1
    assert {str(error) for error in errors} == {str(errors[0])}
    assert len({id(error) for error in errors}) == 5, "one exception raised again and again grows"
    assert reported == ["DecryptNoKey"]

    replacement = tmp_path / "age.key.new"
    replacement.write_bytes(smith.key.read_bytes())
    replacement.chmod(0o600)
    times = key.stat()
    os.utime(replacement, ns=(times.st_atime_ns, times.st_mtime_ns))
    replacement.rename(key)
    assert shown(vault.reveal("s.yaml", "b", sealed)) == {"A": HUSH.encode()}
    assert runs() == 2


def test_a_tampered_file_runs_sops_once(smith: SecretSmith, counted: tuple[str, Callable[[], int]]) -> None:
    command, runs = counted
    vault = SopsVault(command, smith.key)
    sealed = tamper_value(smith.yaml({"A": HUSH}))
    for _ in range(3):
        assert refusal(lambda: vault.reveal("s.yaml", "b", sealed)).reason == "SecretTampered"
    assert runs() == 1


def test_the_same_bytes_under_another_name_are_another_question(smith: SecretSmith, vault: SopsVault) -> None:
    sealed = smith.encrypt(b"data", "binary")
    assert set(vault.reveal("a/one.key", "b", sealed)) == {"one.key"}
    assert set(vault.reveal("a/two.key", "b", sealed)) == {"two.key"}


def test_threads(smith: SecretSmith, vault: SopsVault) -> None:
    sealed = {f"b{number}": smith.yaml({"A": f"{HUSH}{number}"}) for number in range(3)}
    results: list[tuple[str, bytes]] = []

    def reveal() -> None:
        for blob, content in sealed.items():
            results.append((blob, vault.reveal("s.yaml", blob, content)["A"].reveal()))

    threads = [threading.Thread(target=reveal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(results) == sorted((blob, f"{HUSH}{blob[1:]}".encode()) for blob in sealed for _ in range(4))
