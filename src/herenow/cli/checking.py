"""``herenow serve --check``: whether a server would start, without a server that starts."""

import asyncio
import os

from herenow.cli.certificate import check_certificate
from herenow.cli.output import COULD_NOT_LOOK, GOOD, complain, say
from herenow.cli.renewal import OURS
from herenow.cli.server import listen, why_not_listening
from herenow.cli.target import opened
from herenow.gateway.auth import identity
from herenow.settings import Settings


def check_start(settings: Settings) -> int:
    """Look at all that can keep a server from starting, and change nothing.

    Raises:
        HerenowError: something would, as a sentence.
    """
    check_certificate(settings)
    identity.from_settings(settings, lambda *_: None)
    if os.environ.get(OURS) != f"{settings.host}:{settings.port}":  # else it is handed on, and not taken
        try:
            listen(settings.host, settings.port).close()
        except OSError as error:
            complain(why_not_listening(settings, error))
            return COULD_NOT_LOOK
    asyncio.run(_look(settings))
    say("it would start")
    return GOOD


async def _look(settings: Settings) -> None:
    async with opened(settings) as store:
        await store.max_version()
