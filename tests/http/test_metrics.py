"""`/metrics` after things have happened: the numbers are those of what happened."""

from pathlib import Path

import jwt
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from clients import Client, Refused
from herenow.presence import Presence
from support import http_client, serving, until

SECRET = "a secret of at least thirty-two bytes"
KEY = "a key that is long enough"


def token(user: str) -> str:
    return jwt.encode({"sub": user}, SECRET)


async def test_what_happened_can_be_read_off(tmp_path: Path) -> None:
    app = FastAPI()
    presence = Presence(f"sqlite:///{tmp_path}/app.db", jwt_secret=SECRET, api_keys=[KEY], offline_within_s=0.6)
    presence.mount(app, admin=True, health=True, openapi=True)
    async with serving(app) as url, http_client(base_url=url) as http:

        async def read() -> dict[tuple[str, ...], float]:
            answer = await http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/plain; version=")
            return {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
            }

        assert (await http.get("/metrics")).status_code == 401
        before = await read()
        assert before["herenow_promise_seconds_count", "closed"] == 0

        bob = await Client.connect(url, token=token("bob"))
        await bob.watch("alice")
        with pytest.raises(Refused):
            await Client.connect(url, token="rubbish")
        alice = await Client.connect(url, token=token("alice"))
        await bob.until(lambda: bob.shows("alice") == "online")
        await alice.close()
        alice = await Client.connect(url, token=token("alice"))  # within the grace: nobody saw it
        await alice.call("presence:get", {"users": 5})
        await alice.close()
        await bob.until(lambda: bob.shows("alice") == "offline")
        await until(lambda: not presence.writer.state().pending)

        after = await read()
        assert after["herenow_connections",] == 1
        assert after["herenow_users", "online"] == 1
        assert after["herenow_changes_total", "connect"] == 2
        assert after["herenow_changes_total", "closed"] == 1
        assert after["herenow_connects_total",] == 3
        assert after["herenow_connects_refused_total", "unauthorized"] == 1
        assert after["herenow_disconnects_total", "transport closed"] == 2
        assert after["herenow_event_errors_total", "bad_request"] == 1
        assert after["herenow_deliveries_total",] == after["herenow_frames_total",] == 2
        assert after["herenow_lingers_saved_total",] == 1
        assert after["herenow_store_healthy",] == 1
        assert after["herenow_store_rows_total", "written"] >= 2
        assert after["herenow_promise_seconds_count", "connect"] == 1
        assert after["herenow_promise_seconds_count", "closed"] == 1
        assert 0.3 < after["herenow_promise_seconds_sum", "closed"] < 0.6 + 0.5
        assert after["herenow_promise_bound_seconds", "closed"] == 0.6
        assert after["process_cpu_seconds_total",] > 0
        await bob.close()
