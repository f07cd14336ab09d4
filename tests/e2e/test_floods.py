"""A million tiny packets and ten thousand half-open handshakes, in small; ``make soak`` does it at full size."""

import asyncio

import pytest

from e2e.floods import half_open_handshakes, tiny_packets
from support import SHELLS, Shell


@pytest.mark.parametrize("shell", SHELLS)
async def test_tiny_packets_harm_nobody_and_leave_nothing(shell: Shell) -> None:
    flood = await tiny_packets(shell, 40_000)
    assert flood.faults == []
    assert flood.most_sessions > 0


async def test_half_open_handshakes_harm_nobody_and_leave_nothing() -> None:
    floods = await asyncio.gather(*(half_open_handshakes(shell, 300) for shell in SHELLS))  # they mostly wait
    for flood in floods:
        assert flood.faults == []
        assert flood.most_sessions > 100
