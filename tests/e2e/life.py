"""python-socketio's clients, as they tell of themselves: ``python -m e2e.life async|sync URL TRANSPORTS USER``.

Prints a line for each thing that happens to it, and does what a line of its standard input says. Their first try to
come back is after half a second at least, as they are shipped: one that meets a server in the middle of its end may
raise what the client does not expect (5.18 with aiohttp 3), and ends its tries.
"""

import asyncio
import sys
from typing import Any

import socketio


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def told(client: Any) -> None:
    """Tell of all that happens."""
    client.on("presence:ready", lambda _: say("ready"))
    client.on("presence:error", lambda error: say(error["code"]))
    client.on(
        "connect_error", lambda error: say(refusal(error)) if isinstance(error, dict) and "data" in error else None
    )
    client.on("disconnect", lambda *_: say("disconnected"))


def refusal(error: dict[str, Any]) -> str:
    return f"refused: {error['data']['code']}, temporary: {str(error['data']['temporary']).lower()}"


async def live(url: str, transports: list[str], user: str) -> None:
    client = socketio.AsyncClient(reconnection_delay_max=1)
    told(client)
    await client.connect(url, auth={"userId": user}, transports=transports, retry=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match line.strip():
            case "leave":
                await client.emit("presence:leave", {})
            case "disconnect":
                await client.disconnect()
            case "exit":
                return


def live_in_threads(url: str, transports: list[str], user: str) -> None:
    client = socketio.Client(reconnection_delay_max=1)
    told(client)
    client.connect(url, auth={"userId": user}, transports=transports, retry=True)
    while line := sys.stdin.readline():
        match line.strip():
            case "leave":
                client.emit("presence:leave", {})
            case "disconnect":
                client.disconnect()
            case "exit":
                return


if __name__ == "__main__":
    kind, url, transports, user = sys.argv[1:]
    if kind == "async":
        asyncio.run(live(url, transports.split(","), user))
    else:
        live_in_threads(url, transports.split(","), user)
