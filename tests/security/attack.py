"""The attacks, from a process of their own, against a server's port.

python -m security.attack PORT NAME=SIZE [NAME=SIZE…]

Says "going" when all are in full swing, goes on until its standard input ends, and prints what each got, by name, as a
JSON object.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from e2e.crowd import AT_ONCE, raise_file_limit
from raw import client_frame
from security.honest import auth_of
from security.peer import Peer, text, upgrade

USERS = 20
"""Of so many users come the floods of those who are let in."""

Attack = Callable[[int, int, "Swing"], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


class Swing:
    """How an attack goes.

    Attributes:
        counts: what it got.
        full: set when it is in full swing.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.full = asyncio.Event()


def attack(run: Attack) -> Attack:
    """Register an attack under its name."""
    ATTACKS[run.__name__.replace("_", " ")] = run
    return run


async def let_in(port: int, number: int, swing: Swing) -> Peer:
    """Connect one of the attackers' users."""
    peer = await Peer.open(port, swing.counts)
    await peer.write(upgrade())
    await peer.answered.wait()
    await peer.write(text("40" + json.dumps(auth_of(f"attacker-{number % USERS}"))))
    return peer


async def flooding(port: int, size: int, swing: Swing, packet: bytes) -> None:
    """Let ``size`` connections send the same packet as fast as they are read."""
    block = packet * max(1, 65_536 // len(packet))
    while True:
        peers = [await let_in(port, number, swing) for number in range(size)]
        swing.full.set()
        await asyncio.gather(*(peer.flood(block) for peer in peers))
        await asyncio.sleep(0.1)


@attack
async def nothing(port: int, size: int, swing: Swing) -> None:
    """For comparison: how the honest fare alone, on this machine and at this moment."""
    swing.full.set()
    await asyncio.Event().wait()


@attack
async def events(port: int, size: int, swing: Swing) -> None:
    """Events without end."""
    await flooding(port, size, swing, text('421["presence:active",{}]'))


@attack
async def unknown_events(port: int, size: int, swing: Swing) -> None:
    """Events that there are not."""
    await flooding(port, size, swing, text('421["presence:anything",{"a":[1,2,3]}]'))


@attack
async def watches(port: int, size: int, swing: Swing) -> None:
    """A thousand users each time."""
    users = [f"honest-{number}" for number in range(1000)]
    await flooding(port, size, swing, text("421" + json.dumps(["presence:watch", {"users": users}])))


@attack
async def watches_of_all(port: int, size: int, swing: Swing) -> None:
    """The largest answer for the smallest question."""
    await flooding(port, size, swing, text('421["presence:watch",{"all":true}]'))


@attack
async def claims(port: int, size: int, swing: Swing) -> None:
    """A change for everybody with each event."""
    both = text('421["presence:claim",{"availability":"busy"}]') + text('422["presence:claim",{"availability":null}]')
    await flooding(port, size, swing, both)


@attack
async def packets_of_1_MB(port: int, size: int, swing: Swing) -> None:
    """As large as they may be, and costly to parse."""
    await flooding(port, size, swing, text('421["presence:get",{"users":[' + ",".join(["1"] * 499_900) + "]}]"))


@attack
async def packets_of_1_MB_from_strangers(port: int, size: int, swing: Swing) -> None:
    """The same from who has not said who it is, in the one packet that is read of them."""
    packet = text('40{"token":"","x":[' + ",".join(["1"] * 499_900) + "]}")

    async def one() -> None:
        while True:
            peer = await Peer.open(port, swing.counts)
            await peer.write(upgrade())
            await peer.answered.wait()
            swing.full.set()
            await peer.flood(packet)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def tiny_packets(port: int, size: int, swing: Swing) -> None:
    """Noops and empty fragments."""
    await flooding(port, size, swing, client_frame(b"6"))


@attack
async def deep_JSON(port: int, size: int, swing: Swing) -> None:
    """A hundred thousand levels, again and again: who is closed comes back."""
    for opening, closing in itertools.cycle(((b"[", b"]"), (b'{"a":', b"}"))):
        packet = client_frame(b'42["presence:get",' + opening * 100_000 + b"1" + closing * 100_000 + b"]")
        peers = [await let_in(port, number, swing) for number in range(size)]
        swing.full.set()
        await asyncio.gather(*(peer.flood(packet) for peer in peers))


def forged_tokens() -> list[str]:
    """Tokens that each cost the server a whole verification: signed well, by nobody that it knows."""
    body = {"sub": "honest-1"}
    return [
        jwt.encode(body, "another secret of thirty-two bytes"),
        jwt.encode(body, rsa.generate_private_key(public_exponent=65_537, key_size=2048), algorithm="RS256"),
        jwt.encode(body, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        jwt.encode(body, ed25519.Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    ]


@attack
async def forged_tokens_in_one_connection(port: int, size: int, swing: Swing) -> None:
    """Who is not let in asks again at once, without end."""
    block = b"".join(text("40" + json.dumps({"token": token})) for token in forged_tokens()) * 20

    async def one() -> None:
        while True:
            peer = await Peer.open(port, swing.counts)
            await peer.write(upgrade())
            await peer.answered.wait()
            swing.full.set()
            await peer.flood(block)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def forged_tokens_in_new_connections(port: int, size: int, swing: Swing) -> None:
    """Each time a connection of its own."""
    hellos = itertools.cycle([text("40" + json.dumps({"token": token})) for token in forged_tokens()])

    async def one() -> None:
        while True:
            peer = await Peer.open(port, swing.counts)
            await peer.write(upgrade() + next(hellos))
            await peer.answered.wait()
            swing.full.set()
            await asyncio.sleep(0)
            peer.abort()

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def connections_of_one_address(port: int, size: int, swing: Swing) -> None:
    """As many as there can be, kept open; who is refused comes again."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one() -> Peer:
        async with free:
            peer = await Peer.open(port, swing.counts)
            await peer.write(upgrade())
            await peer.answered.wait()
        return peer

    async def again(peer: Peer) -> None:
        while True:
            await peer.ended.wait()
            peer = await one()

    peers = await asyncio.gather(*(one() for _ in range(size)))
    swing.full.set()
    await asyncio.gather(*map(again, peers))


async def _slowly(port: int, size: int, swing: Swing, first: bytes, then: bytes) -> None:
    """Open so many connections, and then write to each a byte at a time; who is closed comes back."""
    free = asyncio.Semaphore(AT_ONCE)
    opened = 0

    async def one() -> None:
        nonlocal opened
        while True:
            with contextlib.suppress(OSError):
                async with free:
                    peer = await Peer.open(port, swing.counts)
                    await peer.write(first)
                opened += 1
                if opened >= size:
                    swing.full.set()
                for at in itertools.cycle(range(len(then))):
                    await asyncio.sleep(2)
                    if not await peer.write(then[at : at + 1]):
                        break
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def slowloris_heads(port: int, size: int, swing: Swing) -> None:
    """Requests whose heads never end."""
    await _slowly(port, size, swing, b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n", b"X-a: b\r\n")


@attack
async def slowloris_bodies(port: int, size: int, swing: Swing) -> None:
    """Requests whose bodies never end."""
    head = b"POST /v1/users:batchGet HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    await _slowly(port, size, swing, head, b" ")


@attack
async def slowloris_polling(port: int, size: int, swing: Swing) -> None:
    """Sessions over polling whose every POST never ends; ``size`` of them, from as many addresses as it takes."""
    free, opened = asyncio.Semaphore(AT_ONCE), 0

    async def one(number: int) -> None:
        nonlocal opened
        address = f"198.51.{number // 500}.7"
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, IndexError):
                async with free:
                    sid = await _open_polling(port, address)
                    peer = await Peer.open(port, swing.counts)
                    await peer.write(
                        f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n"
                        f"X-Forwarded-For: {address}\r\nContent-Length: 90000\r\n\r\n".encode()
                    )
                opened += 1
                if opened >= size:
                    swing.full.set()
                while await peer.write(b"4"):  # noqa: ASYNC110  # to wait is the attack
                    await asyncio.sleep(2)
            await asyncio.sleep(0.1)

    await asyncio.gather(*map(one, range(size)))


async def _open_polling(port: int, address: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n"
            + f"X-Forwarded-For: {address}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        return (await reader.readuntil(b"}")).decode().split('"sid":"')[1].split('"')[0]
    finally:
        writer.transport.abort()


@attack
async def slowloris_websockets(port: int, size: int, swing: Swing) -> None:
    """WebSockets whose first packet never ends."""
    await _slowly(port, size, swing, upgrade() + client_frame(b"40" + b" " * 90_000)[:10], b" ")


async def main(port: int, sizes: dict[str, int]) -> None:
    """Attack until told to end."""
    raise_file_limit()
    os.nice(10)  # the attackers' machines are not the server's
    swings = {name: Swing() for name in sizes}
    attacking = [asyncio.ensure_future(ATTACKS[name](port, size, swings[name])) for name, size in sizes.items()]
    going = asyncio.ensure_future(_wait_for_all(swings.values()))
    await asyncio.wait([going, *attacking], return_when=asyncio.FIRST_COMPLETED)
    if going.done():
        sys.stdout.write("going\n")
        sys.stdout.flush()
        ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await asyncio.wait([ended, *attacking], return_when=asyncio.FIRST_COMPLETED)
    for each in attacking:
        if each.done():
            each.result()
            raise AssertionError("an attack ended by itself")
    got = {name: {what: n for what, n in swing.counts.items() if n} for name, swing in swings.items()}
    sys.stdout.write(json.dumps(got) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without a word to anybody


async def _wait_for_all(swings: Iterable[Swing]) -> None:
    for swing in swings:
        await swing.full.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), {name: int(size) for name, size in (each.split("=") for each in sys.argv[2:])}))
