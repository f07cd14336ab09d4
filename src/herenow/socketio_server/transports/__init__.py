"""WebSocket and polling over any ASGI server."""
