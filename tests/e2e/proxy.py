"""The nginx of docs/operations.md before a real server: ``make check-proxy``, where nginx is installed.

The configuration is the page's own, word for word, but for the port, TLS and the server's address.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import jwt
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from clients import Client
from e2e.servers import PresenceServer
from support import ROOT, Poller, free_port, http_client, http_get, websocket_url

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "an admin token of some length"


def configuration(port: int, server: str) -> str:
    """The page's block, listening on a port of this machine."""
    page = (ROOT / "docs/operations.md").read_text()
    found = re.search(r"```nginx\n(.*?)```", page, re.DOTALL)
    assert found, "docs/operations.md shows no nginx"
    block = found[1].replace("listen 443 ssl;", f"listen 127.0.0.1:{port};").replace("http://127.0.0.1:8000", server)
    assert server in block and str(port) in block
    return f"daemon off; pid nginx.pid; error_log error.log; events {{}} http {{ access_log off; {block} }}"


def begin(program: str, port: int, server: str, directory: Path) -> "subprocess.Popen[bytes]":
    """Start nginx, and wait until it answers."""
    (directory / "nginx.conf").write_text(configuration(port, server))
    command = [program, "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]
    process = subprocess.Popen(command, cwd=directory)
    for _ in range(200):
        try:
            http_get(f"http://127.0.0.1:{port}/healthz", timeout=1)
            return process
        except httpx.HTTPError:
            time.sleep(0.02)
    raise AssertionError(f"nginx does not answer: {(directory / 'error.log').read_text()}")


async def check(url: str, server: PresenceServer) -> None:
    """Go through it as browsers and programs do."""
    token = jwt.encode({"sub": "alice"}, SECRET)
    alice = await Client.connect(url, token=token)
    say("a WebSocket passes")
    async with Poller(url) as poller:
        await poller.open()
        say("polling passes")
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with http_client(base_url=url, headers=headers, timeout=5) as program:
        explained = (await program.get("/v1/admin/users/alice/explain")).json()
        assert explained["connections"][0]["address"] == "127.0.0.1", explained["connections"]
        async with program.stream("GET", "/v1/changes") as stream:
            lines = stream.aiter_lines()
            bob = await Client.connect(url, token=jwt.encode({"sub": "bob"}, SECRET))
            async with asyncio.timeout(2):
                while "bob" not in await anext(lines):
                    pass
        say("changes are streamed, not held back")
    address = websocket_url(url)
    async with connect(address, additional_headers={"Origin": url}):
        say("a page of the same origin is let in")
    try:
        async with connect(address, additional_headers={"Origin": "https://evil.example"}):
            raise AssertionError("a foreign page came in")
    except InvalidStatus:
        say("a foreign page is not")
    await bob.leave()
    await alice.close()
    assert "Traceback" not in server.log()


def say(what: str) -> None:
    """Print what holds."""
    sys.stdout.write(f"  ok  {what}\n")


def main() -> int:
    """Check; 0: it holds."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.stderr.write("nginx is not installed: install it (Debian: apt-get install nginx-light) and try again\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), free_port()
        directory.chmod(0o755)  # nginx's workers are another user
        server = PresenceServer(directory / "app.db", flags=(), jwt_secret=SECRET, admin_tokens=f'["{ADMIN}"]')
        server.start()
        nginx = begin(program, port, server.url, directory)
        try:
            asyncio.run(check(f"http://127.0.0.1:{port}", server))
        finally:
            nginx.terminate()
            nginx.wait()
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
