from __future__ import annotations

from dataclasses import replace

import pytest
from harness.builders import app

from reconciler.core import slots
from reconciler.core.appfile import NAME
from reconciler.core.model import Ingress, Rollout
from reconciler.core.observed import NamesState, NameState

HERE = ("10.0.0.1",)


def state(written: tuple[str, ...] = HERE, answered: tuple[str, ...] | None = HERE) -> NameState:
    return NameState(written, 1.0, answered)


def known(**changes: NameState) -> NamesState:
    return NamesState(0.0, {"shop": state(), **{slot: state() for slot in slots.names_of("shop")}, **changes})


def test_slots_make_every_whole_percent() -> None:
    assert sum(slots.SIZES) == 100
    for weight in range(101):
        assert sum(slots.SIZES[place] for place in slots.taken(weight)) == weight


def test_no_app_can_be_called_like_a_slot_and_each_slot_knows_its_app() -> None:
    for name in slots.names_of("a-shop"):
        assert slots.is_slot(name)
        assert not NAME.fullmatch(name)
        assert slots.app_of(name) == "a-shop"
    for other in ("shop", "shop_0", "shop_8", "shop_", "_1", "shop_1_1", "shop_1\n", "Shop_1", "shop_11"):
        assert not slots.is_slot(other)
    assert slots.app_of("shop") == "shop"


def test_only_an_app_with_an_ingress_whose_manifest_asks_for_a_canary_wants_slots() -> None:
    canary = app(rollout=Rollout("canary"), ingress=(Ingress("a.example", "/", 80),))
    assert slots.wants(canary)
    assert not slots.wants(replace(canary, ingress=()))
    assert not slots.wants(replace(canary, rollout=Rollout("blue_green")))


def test_nginx_is_told_of_slots_that_are_all_there_and_answered() -> None:
    assert slots.are_there(known(), "shop")
    assert not slots.are_there(NamesState(0.0, {"shop": state()}), "shop")
    assert not slots.are_unheard(known(), "shop")
    assert slots.are_unheard(known(shop_3=state(answered=())), "shop")


@pytest.mark.parametrize("answered", [None, ()])
def test_a_names_service_that_is_down_or_blind_takes_nothing_away(answered: tuple[str, ...] | None) -> None:
    every = {name: state(answered=answered) for name in ("shop", *slots.names_of("shop"))}
    assert slots.are_there(NamesState(None, every), "shop")
    assert not slots.are_unheard(NamesState(None, every), "shop")


def test_who_answers_is_everybody_whom_the_name_or_a_slot_has() -> None:
    assert slots.answering(known(shop_2=state(("10.0.0.2",))), "shop") == {"10.0.0.1", "10.0.0.2"}
    assert slots.answering(NamesState(0.0), "shop") == frozenset()


def test_what_was_written_in_the_future_is_written_again() -> None:
    assert slots.changed(None, HERE, 5.0)
    assert slots.changed(state(()), HERE, 5.0)
    assert not slots.changed(state(), HERE, 1.0)
    assert slots.changed(replace(state(), written_at=9.0), HERE, 5.0)
