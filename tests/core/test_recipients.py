"""Only age: what a file in any of sops' forms may say about its keys."""

from __future__ import annotations

import json

import pytest
from harness.secrets import SecretSmith

from reconciler.core.recipients import check
from reconciler.core.sealed import look
from reconciler.core.secretfile import Format, format_of
from reconciler.errors import InvalidInput

AGE = [{"recipient": "age1x", "enc": "-----BEGIN"}]
SEALED = {"age": AGE, "mac": "ENC[x]", "version": "3.13.2", "lastmodified": "2026-01-01T00:00:00Z"}


def both(path: str, content: str) -> tuple[str, str]:
    """What the agent and what ``validate`` says."""
    form: Format = format_of(path)
    try:
        check(path, form, content.encode())
    except InvalidInput as error:
        agent = f"{error.reason}: {error}"
    else:
        agent = ""
    return agent, " ".join(map(str, look(path, content.encode()).problems))


def document(sops: object, **more: object) -> str:
    return json.dumps({"A": "ENC[x]", **more, "sops": sops})


@pytest.mark.parametrize("form", ["yaml", "json", "dotenv", "binary"])
def test_what_sops_writes_for_age_is_opened(tmp_path_factory: pytest.TempPathFactory, form: Format) -> None:
    smith = SecretSmith(tmp_path_factory.mktemp("keys"))
    plain = {"yaml": "A: b\n", "json": '{"A": "b"}', "dotenv": "A=b\n", "binary": "b"}[form]
    path = {"dotenv": "s.env", "binary": "key"}.get(form, f"s.{form}")
    assert both(path, smith.encrypt(plain, form).decode()) == ("", "")


def test_services_that_are_listed_but_empty_are_none() -> None:
    older: dict[str, object] = {
        "kms": [],
        "gcp_kms": [],
        "azure_kv": [],
        "hc_vault": [],
        "pgp": None,
        "shamir_threshold": 0,
    }
    assert both("s.json", document({**SEALED, **older, "unencrypted_suffix": "_u"})) == ("", "")
    dotenv = (
        "A=ENC[x]\nsops_age__list_0__map_recipient=age1x\nsops_age__list_0__map_enc=x\nsops_mac=ENC[x]\nsops_kms=\n"
    )
    assert both("s.env", dotenv) == ("", "")


@pytest.mark.parametrize(
    "word",
    ["kms", "gcp_kms", "azure_kv", "hc_vault", "pgp", "key_groups", "hckms", "KMS", "Azure_KV", "shamir_threshold"],
)
@pytest.mark.parametrize("path", ["s.yaml", "s.json", "key"])
def test_key_services_and_groups_are_refused(path: str, word: str) -> None:
    agent, validate = both(path, document({**SEALED, word: 2 if "shamir" in word else [{"vault_url": "http://x"}]}))
    assert agent.startswith("KeyServiceRefused: ")
    for text in (agent, validate):
        assert f"{word!r}; key services and key groups are not used" in text
        assert "sops updatekeys" in text
        assert "http" not in text


@pytest.mark.parametrize("line", ["sops_kms__list_0__map_arn=x", "sops_hc_vault__list_0__map_x=y", "sops_key_groups=1"])
def test_dotenv_too(line: str) -> None:
    text = f"A=ENC[x]\nsops_age__list_0__map_recipient=age1x\nsops_mac=ENC[x]\n{line}\n"
    agent, validate = both("s.env", text)
    assert agent.startswith("KeyServiceRefused: ")
    assert validate.startswith("s.env:4:1: its section of sops names")


@pytest.mark.parametrize("age", [None, [], [{"enc": "x"}], [{"recipient": ""}], "age1x", {}])
def test_without_age_there_is_nobody_to_open_it(age: object) -> None:
    for text in both("s.json", document({**SEALED, "age": age})):
        assert "encrypted for no age key" in text
    agent, validate = both("s.env", "A=ENC[x]\nsops_mac=ENC[x]\nsops_version=3\n")
    assert "encrypted for no age key" in agent
    assert "encrypted for no age key" in validate


@pytest.mark.parametrize("key", ["SOPS", "Sops", "\u017fops"])
def test_a_second_section_that_sops_might_take_for_its_own(key: str) -> None:
    agent, validate = both("s.json", document(SEALED, **{key: {"kms": [{"arn": "x"}]}}))
    assert "a second key reads like 'sops'" in agent
    assert "a second key reads like 'sops'" in validate


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("s.yaml", "A: [b\n", "NotEncrypted"),
        ("s.yaml", "A: ENC[b]\n", "SecretsUnreadable"),
        ("s.yaml", f"x: &a 1\n{document(SEALED)[1:-1]}", "SecretsUnreadable"),
        ("s.yaml", "A: ENC[x]\nsops: {age: [{recipient: x}], kms: !!seq [], mac: x}\n", "SecretsUnreadable"),
        ("s.yaml", "A: ENC[x]\nsops: {age: [{recipient: x}]}\n'sops': {kms: [x]}\n", "SecretsUnreadable"),
        ("s.env", "A=b\n", "NotEncrypted"),
    ],
)
def test_what_sops_might_read_differently_is_not_opened(path: str, content: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check(path, format_of(path), content.encode())
    assert caught.value.reason == reason
