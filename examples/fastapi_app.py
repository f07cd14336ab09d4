"""Presence in a FastAPI application of one's own.

    cd examples && uvicorn fastapi_app:app --ws herenow.socketio_server:FastWebSocket

Then, with the stock Socket.IO client: ``io("http://127.0.0.1:8000", { auth: { userId: "alice" } })``, and look at
http://127.0.0.1:8000/team and http://127.0.0.1:8000/docs. ``dev=True`` believes the user id that a client on this
machine names; in earnest, give ``jwt_secret`` instead, and clients connect with ``{ auth: { token } }``.
"""

import logging
from typing import Any

from fastapi import FastAPI

from herenow import Change, Presence

TEAM = ["alice", "bob", "carol"]

log = logging.getLogger("uvicorn.error")
app = FastAPI(title="An application that knows who is online")
presence = Presence("sqlite:///app.db", dev=True)
presence.mount(app)  # Socket.IO at /socket.io/, for as long as the application runs


@presence.on_change
def note(change: Change) -> None:
    """Hear of every change that others can see; an ``async def`` would do as well."""
    log.info("%s is %s (%s)", change.user_id, change.availability, change.cause)


@app.get("/team")
async def team() -> dict[str, str]:
    """Tell how each of the team is: one read of the registry, however many they are."""
    return {user_id: user.availability for user_id, user in (await presence.get(TEAM)).items()}


@app.get("/online")
async def online(limit: int = 100) -> dict[str, Any]:
    """Tell who is online, most recently active first, and how many there are."""
    users: list[str] = []
    async for user in presence.online():
        users.append(user.user_id)
        if len(users) >= limit:
            break
    stats = await presence.stats()
    return {"users": users, "online": stats.users, "connections": stats.connections}


@app.post("/users/{user_id}/disconnect")
async def disconnect(user_id: str) -> dict[str, int]:
    """Close all connections of a user, who is offline at once: after a sign-out, say."""
    return {"closed": await presence.disconnect(user_id)}
