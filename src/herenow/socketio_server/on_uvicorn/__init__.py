"""The fast way, past uvicorn's own WebSocket."""
