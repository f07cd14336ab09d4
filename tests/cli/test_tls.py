"""``herenow serve`` with a certificate of its own, and what every answer says to a browser."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from certificates import make_certificate
from cli_support import answer, herenow, serving_process
from herenow.http.headers import DOCS, DOCS_POLICY, SECURITY_HEADERS
from support import http_get, receive, websocket_url

PASSWORD = b"a password"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for presence.example, which the commands reach at 127.0.0.1; its key is encrypted."""
    return make_certificate(tmp_path_factory.mktemp("tls"), host="presence.example", password=PASSWORD)


async def test_it_serves_https_and_wss_and_the_commands_come_in(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert_file, key_file = certificate
    tls: dict[str, Any] = {"HERENOW_TLS_CERTFILE": str(cert_file), "HERENOW_TLS_KEYFILE": str(key_file)}
    with serving_process(tmp_path, HERENOW_TLS_KEYFILE_PASSWORD=PASSWORD.decode(), **tls) as server:
        assert server.address.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=str(cert_file))
        url = websocket_url(server.address)
        async with connect(url, ssl=trusting, server_hostname="presence.example", compression=None) as ws:
            await ws.recv()
            await ws.send('40{"userId":"alice"}')
            assert '"presence:ready"' in str([await receive(ws) for _ in range(2)])
            found = await asyncio.to_thread(herenow, "status", "--json", cwd=tmp_path)
            assert answer(found)["stats"]["users"] == 1
        async with httpx.AsyncClient(verify=False) as browser:
            page = await browser.get(f"{server.address}/healthz")
        assert page.headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize(
    ("cert", "key", "password", "names"),
    [
        ("missing.pem", "key.pem", PASSWORD, "missing.pem: no such file"),
        ("cert.pem", "missing.pem", PASSWORD, "missing.pem: no such file"),
        ("cert.pem", "cert.pem", PASSWORD, "not a certificate and its private key"),
        ("cert.pem", "key.pem", None, "set tls_keyfile_password"),
        ("cert.pem", "key.pem", b"wrong", "does not open with tls_keyfile_password"),
        ("cert.pem", "key.pem", b"x" * 2000, "tls_keyfile_password"),
        (None, "key.pem", PASSWORD, "need tls_certfile"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_told_in_a_sentence(
    tmp_path: Path, certificate: tuple[Path, Path], cert: str | None, key: str, password: bytes | None, names: str
) -> None:
    directory = certificate[0].parent
    tls: dict[str, Any] = {"HERENOW_TLS_KEYFILE": str(directory / key)}
    tls |= {} if cert is None else {"HERENOW_TLS_CERTFILE": str(directory / cert)}
    tls |= {} if password is None else {"HERENOW_TLS_KEYFILE_PASSWORD": password.decode()}
    ended = herenow("serve", "--dev", "--port", "0", cwd=tmp_path, **tls)
    assert ended.returncode == 2
    assert names in ended.stderr
    assert "Traceback" not in ended.stderr and "fault of herenow" not in ended.stderr
    assert not (tmp_path / "herenow.db").exists()


def test_every_page_and_answer_keeps_the_browser_in_bounds(tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<p>hello")
    with serving_process(tmp_path, "--page", str(page)) as server:
        for path in ("/", "/healthz", "/docs", "/v1/stats", "/nowhere", "/openapi.json"):
            headers = http_get(server.address + path).headers
            wanted = dict(SECURITY_HEADERS) | (dict([DOCS_POLICY]) if path == DOCS else {})
            for name, value in wanted.items():
                assert headers.get_list(name.decode()) == [value.decode()], path
            assert "strict-transport-security" not in headers
        polling = http_get(f"{server.address}/socket.io/?EIO=4&transport=polling").headers
        assert "cross-origin-resource-policy" not in polling
