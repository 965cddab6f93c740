from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import ownership
from reconciler.core.observed import Claim, Container

KEY = b"k" * 32
NAME = "shop.1.3fa9c2d1"
CLAIM = Claim(
    app="shop",
    fingerprint="3fa9c2d1" * 2,
    slot=1,
    role="replica",
    manifest="apps/shop/app.yaml",
    revision="c" * 40,
    image="registry.example.com/shop:2.3.1",
    fields={"image": "1a2b", "environment.LOG_LEVEL": "3c4d"},
    files_directory="/var/lib/reconciler/files/shop/1a2b",
    secrets_directory="/run/reconciler/secrets/shop/3c4d",
)
LATER = ("reconciler.run", "reconciler.well")
words = st.text(max_size=20)


@given(
    st.builds(
        Claim,
        app=words,
        fingerprint=words,
        slot=st.integers(0, 99),
        role=st.sampled_from(["replica", "task", "check", "after", "rehearsal"]),
        manifest=words,
        revision=words,
        image=words,
        fields=st.dictionaries(words, words, max_size=3),
        files_directory=words,
        secrets_directory=words,
        run=words,
        well=st.lists(words, max_size=3).map(tuple),
    ),
    words,
)
def test_what_is_written_is_read(claim: Claim, name: str) -> None:
    assert ownership.read(name, ownership.labels(name, claim, KEY), KEY) == (claim, True)


@pytest.mark.parametrize("label", sorted(ownership.labels(NAME, CLAIM, KEY)))
def test_no_label_can_be_changed_or_left_out(label: str) -> None:
    written = ownership.labels(NAME, CLAIM, KEY)
    assert not ownership.read(NAME, {**written, label: written[label] + "0"}, KEY)[1]
    del written[label]
    assert not ownership.read(NAME, written, KEY)[1]


def test_what_an_older_agent_made_is_still_ours() -> None:
    written = ownership.labels(NAME, CLAIM, KEY)
    older = {label: value for label, value in written.items() if label not in {*LATER, ownership.SIGNATURE}}
    older[ownership.SIGNATURE] = ownership._sign("claim", NAME, older, KEY)  # noqa: SLF001  (as it was made then)
    assert ownership.read(NAME, older, KEY) == (CLAIM, True)


@pytest.mark.parametrize("well", ["", "{}", "[1]", "x"])
def test_nonsense_in_a_later_label_is_no_claim(well: str) -> None:
    assert ownership.read(NAME, {**ownership.labels(NAME, CLAIM, KEY), LATER[1]: well}, KEY) == (None, False)


def test_a_label_without_a_signature_is_a_claim_that_is_not_ours() -> None:
    written = ownership.labels(NAME, CLAIM, KEY)
    del written[ownership.SIGNATURE]
    assert ownership.read(NAME, written, KEY) == (CLAIM, False)
    assert ownership.read(NAME, {**written, ownership.SIGNATURE: ""}, KEY) == (CLAIM, False)
    assert ownership.read(NAME, {**written, ownership.SIGNATURE: "ü"}, KEY) == (CLAIM, False)


def test_another_name_or_key_does_not_own() -> None:
    written = ownership.labels(NAME, CLAIM, KEY)
    assert ownership.read("shop.2.3fa9c2d1", written, KEY) == (CLAIM, False)
    assert ownership.read(NAME, written, b"another") == (CLAIM, False)


def test_values_cannot_be_moved_from_one_label_into_the_next() -> None:
    one = replace(CLAIM, app="sh", fingerprint="op")
    other = replace(CLAIM, app="s", fingerprint="hop")
    signatures = {ownership.labels(NAME, claim, KEY)[ownership.SIGNATURE] for claim in (one, other)}
    assert len(signatures) == 2


def test_further_labels_of_an_image_or_a_manifest_change_nothing() -> None:
    written = ownership.labels(NAME, CLAIM, KEY)
    assert ownership.read(NAME, {**written, "reconciler.later": "1", "vendor": "x"}, KEY) == (CLAIM, True)


@pytest.mark.parametrize(
    ("label", "value"),
    [
        ("reconciler.slot", "one"),
        ("reconciler.role", "king"),
        ("reconciler.fields", "{"),
        ("reconciler.fields", "[]"),
        ("reconciler.fields", '{"image": 1}'),
    ],
)
def test_labels_that_are_no_claim_are_none(label: str, value: str) -> None:
    written = {**ownership.labels(NAME, CLAIM, KEY), label: value}
    assert ownership.read(NAME, written, KEY) == (None, False)


def test_foreign_labels_are_no_claim() -> None:
    assert ownership.read("db", {}, KEY) == (None, False)
    assert ownership.read("db", {"com.docker.compose.project": "x"}, KEY) == (None, False)


def test_a_temporary_container_is_known_by_its_name_and_key() -> None:
    mark = ownership.temporary("look-1", KEY)
    assert ownership.is_temporary("look-1", mark, KEY)
    assert not ownership.is_temporary("look-2", mark, KEY)
    assert not ownership.is_temporary("look-1", mark, b"another")
    assert not ownership.is_temporary("look-1", {}, KEY)


def test_the_key_stands_in_no_label() -> None:
    key = b"do-not-show-this-key"
    assert "do-not-show" not in str(ownership.labels(NAME, CLAIM, key))


@pytest.mark.parametrize("owned", [True, False])
def test_a_replica_of_a_rehearsal_is_none_of_the_apps_own_and_a_strangers_stays_a_stranger(owned: bool) -> None:  # noqa: FBT001
    claim = replace(CLAIM, role="rehearsal", slot=0)
    tried = Container("c", NAME, "running", "sha256:1", 1.0, claim, owned, "10.0.0.1")
    assert ownership.is_rehearsal(tried) is owned
    ours, foreign = ownership.by_app([tried])
    assert (ours, foreign) == ({}, {} if owned else {CLAIM.app: (tried,)})
    assert not ownership.is_rehearsal(replace(tried, claim=None))
    assert not ownership.is_rehearsal(replace(tried, claim=CLAIM))
