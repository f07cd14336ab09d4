"""Presence in an application of the tests, without its HTTP API: that takes longer to build than most tests take."""

from starlette.applications import Starlette

from herenow.gateway.handlers import Gateway
from herenow.http.api import Faces
from herenow.mounting import mount
from herenow.presence import Presence


def mount_wire(presence: Presence, app: Starlette) -> Gateway:
    """Serve the Socket.IO side alone."""
    return mount(presence, app, faces=Faces(http=False))
