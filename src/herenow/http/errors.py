"""The one place where errors become answers: ``{error: {code, message, temporary}}`` with the fitting status.

=====================  ======  =====================================================================
code                   status
=====================  ======  =====================================================================
``bad_request``           400  a parameter or the body is wrong; the message names the field
``unauthorized``          401  no key, or a wrong one
``forbidden``             403  not from here; not of that tenant
``not_found``             404  there is no such path
``method_not_allowed``    405  not with this method
``timeout``               408  the request was not there in time (``patience.py``)
``too_large``             413  the body is too large; 431: the head
``store_failed``          500  the store cannot do it, and will not until somebody mends it
``internal``              500  our fault; the log has the rest
``store_unavailable``     503  the store cannot do it now
``registry_unavailable``  503  the registry of a cluster cannot be reached now
``shutting_down``         503  the server is starting or stopping
=====================  ======  =====================================================================

No answer ever holds a stack trace.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from herenow.errors import (
    CursorInvalid,
    NotStarted,
    RegistryUnavailable,
    Replaced,
    StoreError,
    StoreUnavailable,
    TenantsNotKept,
)
from herenow.logs import get_logger

MAX_BODY: Final = 1_000_000
"""Bytes of a request's body, at most."""

_UNPARSED: Final = "There was an error parsing the body"
"""What FastAPI says of bytes that are no text."""

log = get_logger("herenow.http")

_TEMPORARY: Final = frozenset(("timeout", "internal", "store_unavailable", "registry_unavailable", "shutting_down"))
STATUSES: Final = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "too_large": 413,
    "store_failed": 500,
    "internal": 500,
    "store_unavailable": 503,
    "registry_unavailable": 503,
    "shutting_down": 503,
}
_CODES: Final = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed",
                 413: "too_large"}  # fmt: skip


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        code: one of the module's table.
        message: a sentence that names the thing.
        headers: of the answer.
    """

    def __init__(self, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.headers = headers

    def response(self) -> JSONResponse:
        """The error as it goes over the wire."""
        body = {"error": {"code": self.code, "message": self.message, "temporary": self.code in _TEMPORARY}}
        headers = {"WWW-Authenticate": "Bearer"} if self.code == "unauthorized" else self.headers
        return JSONResponse(body, STATUSES[self.code], headers)


def refusal(error: Exception) -> Refused:
    """Translate whatever a handler raised."""
    match error:
        case Refused():
            return error
        case RequestValidationError():
            return Refused("bad_request", "; ".join(list(dict.fromkeys(map(_sentence, error.errors())))[:3]))
        case HTTPException():
            code = _CODES.get(error.status_code, "internal" if error.status_code >= 500 else "bad_request")
            message = {404: "there is nothing at this path", 405: "not with this method"}.get(error.status_code)
            if error.detail == _UNPARSED:
                message = "the body is not JSON in UTF-8"
            return Refused(code, message or str(error.detail), error.headers)  # of a 405: what is allowed
        case Replaced():
            return Refused("shutting_down", str(error))
        case NotStarted():
            return Refused("shutting_down", "the server is starting or stopping")
        case TenantsNotKept():
            return Refused("forbidden", str(error))
        case CursorInvalid():
            return Refused("bad_request", f"cursor: {error}")
        case RegistryUnavailable():
            return Refused("registry_unavailable", str(error))
        case StoreUnavailable():
            return Refused("store_unavailable", str(error))
        case StoreError():
            return Refused("store_failed", str(error))
    return Refused("internal", "the server failed to answer; its log says more")


def respond(request: Request, error: Exception) -> Response:
    """Answer a request whose handler raised."""
    refused = refusal(error)
    if refused.code == "internal":
        log.error("request failed", method=request.method, path=request.url.path, exc_info=error)
    return refused.response()


def has_whole_id(scope: Scope, inside: Scope, template: str) -> bool:
    """Say whether what a path has in the place of an id is one segment of it.

    A slash that belongs to an id is written as ``%2F``. With a plain one the path is another, and may be that of the
    application, as ``/v1/users/alice/avatar``.

    Args:
        scope: of the request.
        inside: what the route found in it.
        template: the path of the route.
    """
    user_id = inside.get("path_params", {}).get("id", "")
    if "/" not in user_id:
        return True
    behind = template.partition("{id")[2].count("/")
    segments: list[bytes] = (scope.get("raw_path") or b"").split(b"/")
    return len(segments) > behind and unquote_to_bytes(segments[-1 - behind]) == user_id.encode("utf-8", "replace")


class PassedOn(StarletteRoute):
    """A route of ours in an application that is not FastAPI's; one of that stands behind it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match only a path with a whole id."""
        match, inside = super().matches(scope)
        return (match, inside) if has_whole_id(scope, inside, self.path) else (Match.NONE, {})


class Route(APIRoute):
    """A route of ours: its errors are answered in our form even in somebody else's application.

    Attributes:
        allowed: the methods of all routes at its path, once they are known.
        answers_head: whether it answers HEAD too, as it does GET: what asks whether a server lives often does so.
        guard: refuses who may not ask.
    """

    allowed: frozenset[str] = frozenset()
    answers_head: bool = False
    guard: Callable[[Request], Awaitable[object]] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match as GET what it answers as that; a page that is served at every other path would have it else."""
        match, inside = super().matches({**scope, "method": "GET"} if self._is_head(scope) else scope)
        return (match, inside) if has_whole_id(scope, inside, self.path) else (Match.NONE, {})

    def _is_head(self, scope: Scope) -> bool:
        return self.answers_head and scope.get("method") == "HEAD"

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say what is allowed at this path: Starlette would tell the methods of this route only."""
        if self._is_head(scope):
            scope = {**scope, "method": "GET"}  # the server sends no body: it knows what was asked
        elif self.allowed and scope["method"] not in (self.methods or ()):
            allow = {"Allow": ", ".join(sorted(self.allowed))}
            await refusal(HTTPException(405, headers=allow)).response()(scope, receive, send)
            return
        await super().handle(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's own handler."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                _see_that_it_is_text(request.scope)
                if self.guard is not None:
                    await self.guard(request)  # before FastAPI reads, and parses, what a stranger sends
                return await handle(Request(request.scope, _limited(request.receive)))
            except Exception as error:  # the boundary: whatever it is, the client gets a sentence
                return respond(request, error)

        return guarded


def _see_that_it_is_text(scope: Scope) -> None:
    """Refuse what is no UTF-8. A web server puts something else in its place, so that many ids would be one."""
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    for name, given in (("path", path), ("query", scope["query_string"])):
        if b"%" in given or not given.isascii():
            try:
                unquote_to_bytes(given).decode()
            except UnicodeDecodeError:
                raise Refused("bad_request", f"the {name} is not UTF-8") from None


def _limited(receive: Receive) -> Receive:
    """Stop reading a body that is too large: FastAPI reads it whole, before it asks who is there."""
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413, f"a body of more than {MAX_BODY} bytes")
        return message

    return limited


def _sentence(error: Any) -> str:
    """One validation error as a clause that names the field, without a peer's own megabyte in it."""
    place = [str(part) for part in error["loc"] if part not in ("query", "path", "body", "header")]
    if error["type"] == "json_invalid":
        return "the body is not JSON"
    message = str(error["msg"])
    message = {
        "Extra inputs are not permitted": "there is no such field",
        "Field required": "is missing",
        "Input should be a valid dictionary or object to extract fields from": "must be a JSON object, sent as "
        "application/json",
    }.get(message, message[:1].lower() + message[1:])
    if error["type"] == "string_pattern_mismatch":
        of_tenant = place[-1:] == ["tenant"]
        message = "must be letters, digits, . _ and -" if of_tenant else "must not contain control characters"
    return f"{'.'.join(place)[:80]}: {message}"[:300] if place else f"the body {message}"[:300]
