"""Every state by every input, as one table.

Each cell holds what others see at once, and what they see when the grace is over. ``.`` is nothing; else the sign tells
how the user looks then (``+`` online, ``~`` away, ``!`` busy, ``-`` offline) and the word is the cause.

``half lost`` is one idle connection, after the one in use was lost without a good-bye.
"""

import re
from collections.abc import Iterator

import pytest

from herenow.model import Availability, Claim, Claimed, Closing, StoredUser
from herenow.registry.commands import (
    Active,
    Adopt,
    Advance,
    Command,
    Connect,
    Disconnect,
    Effects,
    Evict,
    Idle,
    NodeLost,
    Now,
    Repair,
    SetClaim,
)
from herenow.registry.ledger import Ledger
from herenow.registry.rules import Policy
from registry.manual_clock import START_MS, START_US

ABSENT = """
                 absent      claims busy  lingers        lingers away     adopted
connect c9       +connect .  !connect .   . .            . .              . .
connect c1       +connect .  !connect .   . .            . .              . .
left c1          . .         . .          . -error       . -timeout       . -restart
closed c1        . .         . .          . -error       . -timeout       . -restart
closed c8        . .         . .          . -error       . -timeout       . -restart
active c1        . .         . .          . -error       . -timeout       . -restart
idle c1          . .         . .          . -error       . -timeout       . -restart
claim away       . .         . .          ~claim -error  . -timeout       ~claim -restart
claim busy       . .         . .          !claim -error  !claim -timeout  !claim -restart
claim invisible  . .         . .          -left .        -left .          -left .
give up claim    . .         . .          . -error       . -timeout       . -restart
node lost        . .         . .          . -error       . -timeout       . -restart
evict            . .         . .          -cleanup .     -cleanup .       -cleanup .
evict, spare     . .         . .          -cleanup .     -cleanup .       -cleanup .
adopt            . -restart  . .          . -error       . -timeout       . -restart
repair           -repair .   -repair .    . -error       . -timeout       . -restart
advance          . .         . .          . -error       . -timeout       . -restart
"""

CONNECTED = """
                 online        away          busy          invisible   two, one idle  half lost
connect c9       . .           +active .     . .           . .         . .            . .
connect c1       . .           . .           . .           . .         . .            . ~idle
left c1          -left .       -left .       -left .       . .         ~idle .        -left .
closed c1        . -closed     . -closed     . -closed     . .         . ~idle        . -closed
closed c8        . .           . .           . .           . .         . .            . ~idle
active c1        . .           +active .     . .           . .         . .            . .
idle c1          ~idle .       . .           . .           . .         ~idle .        . ~idle
claim away       ~claim .      . .           ~claim .      ~connect .  ~claim .       ~claim .
claim busy       !claim .      !claim .      . .           !connect .  !claim .       !claim .
claim invisible  -left .       -left .       -left .       . .         -left .        -left .
give up claim    . .           . .           +claim .      +connect .  . .            . ~idle
node lost        . -node_lost  . -node_lost  . -node_lost  . .         . -node_lost   . -node_lost
evict            -cleanup .    -cleanup .    -cleanup .    . .         -cleanup .     -cleanup .
evict, spare     . .           . .           . .           . .         . .            . ~idle
adopt            . .           . .           . .           . .         . .            . ~idle
repair           . .           . .           . .           . .         . .            . ~idle
advance          . .           . .           . .           . .         . .            . ~idle
"""

STORED_ONLINE = StoredUser("u", True, Availability.ONLINE, START_MS - 60_000, None, 1)


def connect(connection_id: str) -> Connect:
    return Connect("u", connection_id, "n")


def closed(connection_id: str, closing: Closing = Closing.CLOSED) -> Disconnect:
    return Disconnect("u", connection_id, closing)


def claim(availability: Claimed) -> SetClaim:
    return SetClaim("u", Claim(availability))


STATES: dict[str, tuple[Command, ...]] = {
    "absent": (),
    "claims busy": (claim(Claimed.BUSY),),
    "lingers": (connect("c1"), closed("c1", Closing.ERROR)),
    "lingers away": (connect("c1"), Idle("u", "c1"), closed("c1", Closing.TIMEOUT)),
    "adopted": (Adopt(STORED_ONLINE, START_MS, 2000),),
    "online": (connect("c1"),),
    "away": (connect("c1"), Idle("u", "c1")),
    "busy": (connect("c1"), claim(Claimed.BUSY)),
    "invisible": (connect("c1"), claim(Claimed.INVISIBLE)),
    "two, one idle": (connect("c1"), connect("c2"), Idle("u", "c2")),
    "half lost": (connect("c0"), connect("c1"), Idle("u", "c1"), closed("c0")),
}

INPUTS: dict[str, Command] = {
    "connect c9": connect("c9"),
    "connect c1": connect("c1"),
    "left c1": closed("c1", Closing.LEFT),
    "closed c1": closed("c1"),
    "closed c8": closed("c8"),
    "active c1": Active("u", "c1"),
    "idle c1": Idle("u", "c1"),
    "claim away": claim(Claimed.AWAY),
    "claim busy": claim(Claimed.BUSY),
    "claim invisible": claim(Claimed.INVISIBLE),
    "give up claim": SetClaim("u", None),
    "node lost": NodeLost("u", "n", START_MS),
    "evict": Evict("u", disconnect=True),
    "evict, spare": Evict("u", disconnect=False),
    "adopt": Adopt(STORED_ONLINE, START_MS, 2000),
    "repair": Repair(STORED_ONLINE),
    "advance": Advance("u"),
}

SIGNS = {Availability.ONLINE: "+", Availability.AWAY: "~", Availability.BUSY: "!", Availability.OFFLINE: "-"}


def cells(table: str) -> Iterator[tuple[str, str, str]]:
    header, *lines = table.strip("\n").splitlines()
    states = re.split(r"\s{2,}", header.strip())
    for line in lines:
        name, *expected = re.split(r"\s{2,}", line.strip())
        for state, cell in zip(states, expected, strict=True):
            yield state, name, cell


CELLS = [*cells(ABSENT), *cells(CONNECTED)]


def seen(effects: Effects) -> str:
    return ",".join(SIGNS[change.availability] + change.cause for change in effects.changes) or "."


def after(ms: int) -> Now:
    return Now(START_US + ms * 1000, ms)


def test_the_table_is_complete() -> None:
    assert {(state, name) for state, name, _ in CELLS} == {(state, name) for state in STATES for name in INPUTS}


@pytest.mark.parametrize(("state", "name", "expected"), CELLS)
def test_each_state_answers_each_input_as_the_table_says(state: str, name: str, expected: str) -> None:
    rules = Ledger(Policy(2000))
    for command in STATES[state]:
        rules.apply(command, after(1000))
    at_once = seen(rules.apply(INPUTS[name], after(2000)))
    repeated = seen(rules.apply(INPUTS[name], after(2000)))
    later = seen(rules.apply(Advance("u"), after(9000)))
    assert f"{at_once} {later}" == expected
    assert repeated == "." or name == "repair"  # a row that is still wrong is answered again
