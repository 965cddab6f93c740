"""Slots: names of an app beside its own, among which nginx deals out requests. Whom they answer decides who gets some.

Seven unequal ones make every whole percent; ten equal ones would make only tens, with more names. No app can be called
like a slot: app names have no underscore. Outside of a canary all slots answer what the app's own name answers.
"""

from __future__ import annotations

import re
from functools import lru_cache

from reconciler.core.appfile import NAME
from reconciler.core.model import App
from reconciler.core.observed import NamesState, NameState

SIZES = (1, 2, 4, 8, 16, 32, 37)
"""Percent of the requests, by slot."""

_SLOT = re.compile(rf"{NAME.pattern}_[1-{len(SIZES)}]")


@lru_cache(maxsize=1000)
def names_of(app: str) -> tuple[str, ...]:
    """The names of an app's slots, in the order of ``SIZES``."""
    return tuple(f"{app}_{number}" for number in range(1, len(SIZES) + 1))


def is_slot(name: str) -> bool:
    """Whether a name is a slot's."""
    return bool(_SLOT.fullmatch(name))


def app_of(name: str) -> str:
    """Whose name it is, a slot's or an app's own."""
    return name.partition("_")[0]


def taken(weight: int) -> frozenset[int]:
    """Places in ``SIZES`` that make up so many percent, from 0 to 100."""
    places = set()
    for place in reversed(range(len(SIZES))):
        if SIZES[place] <= weight:
            places.add(place)
            weight -= SIZES[place]
    return frozenset(places)


def wants(app: App) -> bool:
    """Whether its manifest asks for slots."""
    return app.rollout.strategy == "canary" and bool(app.ingress)


def states(names: NamesState, app: str) -> dict[str, NameState]:
    """An app's slots that have a file."""
    return {slot: names.names[slot] for slot in names_of(app) if slot in names.names}


def are_there(names: NamesState, app: str) -> bool:
    """Whether nginx can be told of them, as soon as they are heard of: each has a file."""
    return len(states(names, app)) == len(SIZES)


def are_unheard(names: NamesState, app: str) -> bool:
    """Whether one is not answered yet although the app's own name is: nginx is told of nothing for a moment.

    As long as the names service answers nothing at all, nobody knows: what was there stays.
    """
    own = names.names.get(app)
    late = any(state.written and state.answered == () for state in states(names, app).values())
    return late and own is not None and bool(own.answered)


def answering(names: NamesState, app: str) -> frozenset[str]:
    """Addresses that the app's name or one of its slots has."""
    every = [*states(names, app).values(), names.names.get(app) or NameState((), 0.0, None)]
    return frozenset(address for state in every for address in state.written)


def changed(now: NameState | None, wanted: tuple[str, ...], clock: float) -> bool:
    """Whether it has to be written: it says something else, or its time lies ahead, so that it would never settle."""
    return now is None or now.written != wanted or now.written_at > clock + 1
