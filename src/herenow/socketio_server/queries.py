"""The query string of a request. Pure."""

from typing import Final
from urllib.parse import parse_qsl

from .errors import QueryTooLong, RequestRefused

MAX_QUERY: Final = 8_192
"""Characters of a query string, at most: a session keeps it for as long as it lives."""

MAX_QUERY_FIELDS: Final = 100
"""Fields of a query string, at most; the protocol's own are four."""

PLAIN_HANDSHAKE: Final = "EIO=4&transport=websocket"
"""The query of nearly every WebSocket that opens a session: not worth a general parser each time."""


def parse_query(query: str) -> dict[str, str]:
    """Parse a query string; of a repeated name, the last value counts.

    Raises:
        RequestRefused: it has more than ``MAX_QUERY`` characters or ``MAX_QUERY_FIELDS`` fields.
    """
    if query == PLAIN_HANDSHAKE:
        return {"EIO": "4", "transport": "websocket"}
    if len(query) > MAX_QUERY:
        raise QueryTooLong
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS))
    except ValueError as error:
        raise RequestRefused("a query of too many fields") from error
