"""``herenow restart``: renews a running server in its place, without a flicker."""

import os
import signal
import time

from herenow.cli.options import CouldNotLook, Database, run_quietly
from herenow.cli.output import FOUND, GOOD, complain, patience, say
from herenow.cli.renewal import TRIED_FOR_S
from herenow.cli.target import LiveServer, Passing, find_server
from herenow.settings import Settings
from herenow.store.nodes import is_gone

BACK_WITHIN_S = 20.0
"""How long the new code may take to serve, once it has begun."""

LOOK_EVERY_S = 0.1


@run_quietly
def restart(database: Database = None) -> int:
    """Renew the server: new code and settings, and nobody is seen to go.

    The new code is tried first. Where it would not start, the old one goes on, and the command ends with 1.
    """
    settings = Settings.load(database=database)
    before = _find(settings)
    if before is None:
        raise CouldNotLook("no server is running: start it with `herenow serve`")
    if not before.state.is_renewed_by_signal:
        raise CouldNotLook(f"{before.name} is part of an application: restart that, as its own server does it")
    os.kill(before.state.node.pid, signal.SIGHUP)
    with patience("trying the new code"):
        after = _wait(settings, before)
    if after is None and is_gone(before.state.node):
        raise CouldNotLook(f"{before.name} has ended meanwhile: its log says why")
    if after is None:
        raise CouldNotLook(f"{before.name} has not come back yet: its log says what it does")
    if after.state.token == before.state.token:
        complain(f"not renewed, the old code goes on: {after.state.waits_for or 'its log says why'}")
        return FOUND
    say(f"renewed: {after.name}")
    return GOOD


def _wait(settings: Settings, before: LiveServer) -> LiveServer | None:
    """Wait until the server is another, or says why it is not; ``None``: neither, or it has ended."""
    ends_s = time.monotonic() + TRIED_FOR_S + BACK_WITHIN_S
    while time.monotonic() < ends_s and not is_gone(before.state.node):
        time.sleep(LOOK_EVERY_S)
        found = _find(settings)
        if found is not None and (found.state.token != before.state.token or found.state.waits_for):
            return found
    return None


def _find(settings: Settings) -> LiveServer | None:
    try:
        return find_server(settings)
    except Passing:
        return None
