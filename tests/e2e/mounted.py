"""Presence in somebody's application, under plain uvicorn: the ASGI shell, behind the middleware of a framework."""

from fastapi import FastAPI

from herenow import Presence

app = FastAPI()
Presence().mount(app, health=True)
