"""Who is online, right now: a presence server and library.

::

    from herenow import Presence

    presence = Presence("sqlite:///app.db", jwt_secret=...)
    presence.mount(app)                                   # a FastAPI or Starlette application
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import HerenowError, NotStarted, Replaced, SettingsInvalid, StoreError, StoreInUse, TenantsNotKept
    from .gateway.auth.identity import Identity
    from .gateway.events import WireError
    from .model import Availability, Cause, Change, UserPresence
    from .presence import Presence

_WHERE = {
    "Availability": "model",
    "Cause": "model",
    "Change": "model",
    "HerenowError": "errors",
    "Identity": "gateway.auth.identity",
    "NotStarted": "errors",
    "Presence": "presence",
    "Replaced": "errors",
    "SettingsInvalid": "errors",
    "StoreError": "errors",
    "StoreInUse": "errors",
    "TenantsNotKept": "errors",
    "UserPresence": "model",
    "WireError": "gateway.events",
}

__all__ = [
    "Availability",
    "Cause",
    "Change",
    "HerenowError",
    "Identity",
    "NotStarted",
    "Presence",
    "Replaced",
    "SettingsInvalid",
    "StoreError",
    "StoreInUse",
    "TenantsNotKept",
    "UserPresence",
    "WireError",
]


def __getattr__(name: str) -> Any:
    # When asked for, not when imported: a command that only reads a file needs no server to be loaded.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
