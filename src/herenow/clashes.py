"""Paths that an application and presence would both answer: told before anything of the application's is hidden."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from starlette.routing import BaseRoute, Match, Mount, WebSocketRoute
from starlette.types import Scope

from herenow.errors import SettingsInvalid


class Asked(NamedTuple):
    """What a client might ask."""

    type: str  # of the ASGI scope
    method: str
    path: str

    @property
    def scope(self) -> Scope:
        """As an ASGI scope, as far as routes look at it."""
        kind = {"type": self.type, "method": self.method} if self.type == "http" else {"type": self.type}
        return {**kind, "path": self.path, "raw_path": self.path.encode(), "root_path": "", "headers": []}


NOT_MEANT = Asked("http", "GET", "/herenow-has-no-such-path")
"""What answers this answers every path, as static files at ``/`` do, and is not meant for any of ours."""


def see_no_clash(theirs: Iterable[BaseRoute], ours: Sequence[BaseRoute], *, prefix: str = "") -> None:
    """See that neither would be asked what is meant for the other.

    Args:
        theirs: the application's routes.
        ours: those of presence, which stand before them.
        prefix: of our paths. Where there is one, a route of theirs that begins with a parameter is not meant for them.

    Raises:
        SettingsInvalid: one would be; the sentence names both.
    """
    for route, questions in _asked(theirs, ""):
        if _is_open(route, prefix):
            continue
        for our_route in ours:
            path = str(getattr(our_route, "path", ""))
            is_hidden = any(_answers(our_route, question) for question in questions)
            if is_hidden or any(_is_for(route, question) for question in _ours_of(path)):
                raise SettingsInvalid(
                    f"presence.mount: {path} is a path of the application already ({_named(route)}): give presence a "
                    f"prefix of its own, as in presence.mount(app, prefix={_another(prefix)!r})"
                )


def _asked(routes: Iterable[BaseRoute], before: str) -> Iterator[tuple[BaseRoute, list[Asked]]]:
    """Go through routes, with questions that are meant for each."""
    for route in routes:
        path = before + _sample(str(getattr(route, "path", "")))
        if isinstance(route, WebSocketRoute):
            yield route, [Asked("websocket", "", path)]
        elif isinstance(route, Mount):
            inner = [question for _, questions in _asked(route.routes or (), path) for question in questions]
            yield route, inner or [Asked("http", "GET", f"{path}/x")]
        else:
            yield route, [Asked("http", method, path) for method in getattr(route, "methods", None) or ("GET",)]


def _ours_of(path: str) -> tuple[Asked, ...]:
    sample = _sample(path)
    return Asked("http", "GET", sample), Asked("websocket", "", sample), Asked("websocket", "", f"{sample}/")


def _sample(path: str) -> str:
    return re.sub("{[^}]*}", "x", path)


def _is_open(route: BaseRoute, prefix: str) -> bool:
    """Whether a route takes whatever comes, and ours stand before it as exceptions."""
    return _is_for(route, NOT_MEANT) or (bool(prefix) and str(getattr(route, "path", "")).startswith("/{"))


def _is_for(route: BaseRoute, question: Asked) -> bool:
    """Whether a route of theirs is meant for a question, by whatever method."""
    match, inside = route.matches(question.scope)
    if match is not Match.NONE and isinstance(route, Mount) and route.routes:
        return any(each.matches({**question.scope, **inside})[0] is not Match.NONE for each in route.routes)
    return match is not Match.NONE


def _answers(route: BaseRoute, question: Asked) -> bool:
    """Whether a route of ours would answer a question."""
    return route.matches(question.scope)[0] is Match.FULL


def _another(prefix: str) -> str:
    return "/presence" if prefix != "/presence" else "/here"


def _named(route: BaseRoute) -> str:
    path = getattr(route, "path", None)
    if path is None:
        return "a router that it includes"
    name = getattr(getattr(route, "endpoint", None), "__qualname__", None)
    return f"{path}, {name}" if name else str(path)
