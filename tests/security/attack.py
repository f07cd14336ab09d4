"""The attacks, each in a process of its own against a server's port.

python -m security.attack NAME PORT SIZE

Says "going" when it is in full swing, goes on until its standard input ends, and prints what it got as a JSON object.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from e2e.crowd import AT_ONCE, raise_file_limit
from raw import client_frame
from security.honest import auth_of
from security.peer import ADDRESS, Peer, text, upgrade

USERS = 20
"""Of so many users come the floods of those who are let in."""

Attack = Callable[[int, int, "Counter[str]"], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(run: Attack) -> Attack:
    """Register an attack under its name."""
    ATTACKS[run.__name__.replace("_", " ")] = run
    return run


async def let_in(port: int, number: int, counts: Counter[str]) -> Peer:
    """Connect one of the attackers' users."""
    peer = await Peer.open(port, counts)
    await peer.write(upgrade())
    await peer.answered.wait()
    await peer.write(text("40" + json.dumps(auth_of(f"attacker-{number % USERS}"))))
    return peer


async def flooding(port: int, size: int, counts: Counter[str], packet: bytes) -> None:
    """Let ``size`` connections send the same packet as fast as they are read."""
    block = packet * max(1, 65_536 // len(packet))
    while True:
        peers = [await let_in(port, number, counts) for number in range(size)]
        say_going()
        await asyncio.gather(*(peer.flood(block) for peer in peers))
        await asyncio.sleep(0.1)


def say_going() -> None:
    """Let the honest begin to measure."""
    global _is_going
    if not _is_going:
        _is_going = True
        sys.stdout.write("going\n")
        sys.stdout.flush()


_is_going = False


@attack
async def events(port: int, size: int, counts: Counter[str]) -> None:
    """Events without end."""
    await flooding(port, size, counts, text('421["presence:active",{}]'))


@attack
async def unknown_events(port: int, size: int, counts: Counter[str]) -> None:
    """Events that there are not."""
    await flooding(port, size, counts, text('421["presence:anything",{"a":[1,2,3]}]'))


@attack
async def watches(port: int, size: int, counts: Counter[str]) -> None:
    """A thousand users each time."""
    users = [f"honest-{number}" for number in range(1000)]
    await flooding(port, size, counts, text("421" + json.dumps(["presence:watch", {"users": users}])))


@attack
async def watches_of_all(port: int, size: int, counts: Counter[str]) -> None:
    """The largest answer for the smallest question."""
    await flooding(port, size, counts, text('421["presence:watch",{"all":true}]'))


@attack
async def claims(port: int, size: int, counts: Counter[str]) -> None:
    """A change for everybody with each event."""
    both = text('421["presence:claim",{"availability":"busy"}]') + text('422["presence:claim",{"availability":null}]')
    await flooding(port, size, counts, both)


@attack
async def packets_of_1_MB(port: int, size: int, counts: Counter[str]) -> None:
    """As large as they may be, and costly to parse."""
    await flooding(port, size, counts, text('421["presence:get",{"users":[' + ",".join(["1"] * 499_900) + "]}]"))


@attack
async def packets_of_1_MB_from_strangers(port: int, size: int, counts: Counter[str]) -> None:
    """The same from who has not said who it is, in the one packet that is read of them."""
    packet = text('40{"token":"","x":[' + ",".join(["1"] * 499_900) + "]}")

    async def one() -> None:
        while True:
            peer = await Peer.open(port, counts)
            await peer.write(upgrade())
            await peer.answered.wait()
            say_going()
            await peer.flood(packet)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def tiny_packets(port: int, size: int, counts: Counter[str]) -> None:
    """Noops and empty fragments."""
    await flooding(port, size, counts, client_frame(b"6"))


@attack
async def deep_JSON(port: int, size: int, counts: Counter[str]) -> None:
    """A hundred thousand levels, again and again: who is closed comes back."""
    for opening, closing in itertools.cycle(((b"[", b"]"), (b'{"a":', b"}"))):
        packet = client_frame(b'42["presence:get",' + opening * 100_000 + b"1" + closing * 100_000 + b"]")
        peers = [await let_in(port, number, counts) for number in range(size)]
        say_going()
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
async def forged_tokens_in_one_connection(port: int, size: int, counts: Counter[str]) -> None:
    """Who is not let in asks again at once, without end."""
    block = b"".join(text("40" + json.dumps({"token": token})) for token in forged_tokens()) * 20

    async def one() -> None:
        while True:
            peer = await Peer.open(port, counts)
            await peer.write(upgrade())
            await peer.answered.wait()
            say_going()
            await peer.flood(block)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def forged_tokens_in_new_connections(port: int, size: int, counts: Counter[str]) -> None:
    """Each time a connection of its own."""
    hellos = itertools.cycle([text("40" + json.dumps({"token": token})) for token in forged_tokens()])

    async def one() -> None:
        while True:
            peer = await Peer.open(port, counts)
            await peer.write(upgrade() + next(hellos))
            await peer.answered.wait()
            say_going()
            await asyncio.sleep(0)
            peer.abort()

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def connections_of_one_address(port: int, size: int, counts: Counter[str]) -> None:
    """As many as there can be, kept open; who is refused comes again."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with free:
            peer = await Peer.open(port, counts)
            await peer.write(upgrade())
            await peer.answered.wait()
        say_going()
        await peer.ended.wait()

    await asyncio.gather(*(one() for _ in range(size)))
    await asyncio.Event().wait()


async def _slowly(port: int, size: int, counts: Counter[str], first: bytes, then: bytes) -> None:
    """Open so many connections, and then write to each a byte at a time; who is closed comes back."""
    free = asyncio.Semaphore(AT_ONCE)
    opened = 0

    async def one() -> None:
        nonlocal opened
        while True:
            with contextlib.suppress(OSError):
                async with free:
                    peer = await Peer.open(port, counts)
                    await peer.write(first)
                opened += 1
                if opened >= size:
                    say_going()
                for at in itertools.cycle(range(len(then))):
                    await asyncio.sleep(2)
                    if not await peer.write(then[at : at + 1]):
                        break
            await asyncio.sleep(0.1)

    await asyncio.gather(*(one() for _ in range(size)))


@attack
async def slowloris_heads(port: int, size: int, counts: Counter[str]) -> None:
    """Requests whose heads never end."""
    await _slowly(port, size, counts, b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n", b"X-a: b\r\n")


@attack
async def slowloris_bodies(port: int, size: int, counts: Counter[str]) -> None:
    """Requests whose bodies never end."""
    head = b"POST /v1/users:batchGet HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    await _slowly(port, size, counts, head, b" ")


@attack
async def slowloris_polling(port: int, size: int, counts: Counter[str]) -> None:
    """Sessions over polling whose every POST never ends; ``size`` of them, from as many addresses as it takes."""

    async def one(number: int) -> None:
        nonlocal opened
        address = f"198.51.{number // 500}.7"
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, IndexError):
                async with free:
                    sid = await _open_polling(port, address)
                    peer = await Peer.open(port, counts)
                    await peer.write(
                        f"POST /socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\n"
                        f"X-Forwarded-For: {address}\r\nContent-Length: 90000\r\n\r\n".encode()
                    )
                opened += 1
                if opened >= size:
                    say_going()
                while await peer.write(b"4"):
                    await asyncio.sleep(2)
            await asyncio.sleep(0.1)

    free, opened = asyncio.Semaphore(AT_ONCE), 0
    await asyncio.gather(*map(one, range(size)))


async def _open_polling(port: int, address: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        return (await reader.readuntil(b"}")).decode().split('"sid":"')[1].split('"')[0]
    finally:
        writer.transport.abort()


@attack
async def slowloris_websockets(port: int, size: int, counts: Counter[str]) -> None:
    """WebSockets whose first packet never ends."""
    await _slowly(port, size, counts, upgrade() + client_frame(b"40" + b" " * 90_000)[:10], b" ")


async def main(name: str, port: int, size: int) -> None:
    """Attack until told to end."""
    raise_file_limit()
    os.nice(10)  # the attackers' machines are not the server's
    counts: Counter[str] = Counter()
    attacking = asyncio.ensure_future(ATTACKS[name](port, size, counts))
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([attacking, ended], return_when=asyncio.FIRST_COMPLETED)
    if attacking.done():
        attacking.result()
        raise AssertionError("an attack ended by itself")
    attacking.cancel()
    sys.stdout.write(json.dumps({"address": ADDRESS, **{name: n for name, n in counts.items() if n}}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without a word to anybody


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
