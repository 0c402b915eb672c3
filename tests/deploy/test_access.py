import asyncio
import shutil
import socket
import ssl
import subprocess
import time

import numpy as np
import pytest
from websockets.asyncio.client import connect as asyncio_connect
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.sync.client import connect

from verbot.deploy import PolicyServer
from verbot.errors import ConfigError
from verbot.remote import decode
from verbot.remote.connections import ConnectionLimits
from verbot.spec import ActionChunk, RobotSpec

TOKEN = "a-token-of-some-length"


class Still:
    spec = RobotSpec("still", 10.0, (), (), ())
    identity = "abc"

    def predict(self, observations):
        return [ActionChunk(np.zeros((1, 0), np.float32)) for _ in observations]


def greeting(server, **options):
    with connect(server.url, open_timeout=5, **options) as client:
        return decode(client.recv(timeout=5))


def status(server, **options):
    with pytest.raises(InvalidStatus) as raised:
        greeting(server, **options)
    return raised.value.response.status_code


@pytest.fixture
def certificate(tmp_path):
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", *kind, *names, "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    return paths


def test_web_pages_and_foreign_names_are_refused():
    with PolicyServer(Still(), origins=("https://robot.example",)) as server:
        port = server.url.rpartition(":")[2]
        assert greeting(server)["identity"] == "abc"
        assert greeting(server, origin="https://robot.example")["verbot"] == 1
        assert status(server, origin="https://elsewhere.example") == 403
        assert status(server, origin="null") == 403
        for host, allowed in (
            (f"localhost:{port}", True),
            ("[::1]", True),
            (f"elsewhere.example:{port}", False),
            ("10.0.0.1", False),
        ):
            answer = raw_status(server, f"Host: {host}\r\n")
            assert answer == (101 if allowed else 403), host
        assert raw_status(server, "") == 403 and raw_status(server, "Host: localhost\r\nHost: localhost\r\n") == 403


def raw_status(server, headers):
    with socket.create_connection(server._server.address, timeout=5) as raw:
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        raw.sendall(f"GET / HTTP/1.1\r\n{headers}{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        return int(raw.recv(4096).split()[1])


def test_a_token_is_asked_for():
    with PolicyServer(Still(), token=TOKEN) as server:
        assert status(server) == 401
        for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN[:-1]}é"):
            assert status(server, additional_headers={"Authorization": wrong}) == 401
        assert greeting(server, additional_headers={"Authorization": f"Bearer {TOKEN}"})["verbot"] == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "robot.example", ""])
def test_other_interfaces_need_a_token_and_encryption(host):
    with pytest.raises(ConfigError, match=r"token and tls=\(certificate, key\) are not given.*token_urlsafe.*insecure=True"):
        PolicyServer(Still(), host)
    with pytest.raises(ConfigError, match=r"and tls=\(certificate, key\) is not given"):
        PolicyServer(Still(), host, token=TOKEN)


def test_insecure_has_to_be_said():
    with PolicyServer(Still(), "0.0.0.0", insecure=True) as server:
        assert greeting(server)["verbot"] == 1
        assert status(server, origin="https://elsewhere.example") == 403


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "short"}, "at least 16 letters"),
        ({"token": "with spaces in the token"}, "no spaces"),
        ({"token": "mit-ümlauten-im-wort"}, "at least 16 letters"),
        ({"origins": "https://robot.example"}, "a sequence of origins"),
        ({"tls": ("no-cert.pem", "no-key.pem")}, r"no-cert\.pem with the key no-key\.pem cannot be used"),
        ({"port": 99999}, "there is no port 99999"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        PolicyServer(Still(), **options)


def test_with_a_certificate_the_connection_is_encrypted(certificate):
    async def greet(url, **options):
        # The synchronous client reads and writes one TLS connection from two threads, which now and then blocks it.
        async with asyncio_connect(
            url, additional_headers={"Authorization": f"Bearer {TOKEN}"}, open_timeout=5, **options
        ) as client:
            return decode(await client.recv())

    with PolicyServer(Still(), "0.0.0.0", token=TOKEN, tls=certificate) as server:
        assert server.url.startswith("wss://")
        context = ssl.create_default_context(cafile=certificate[0])
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert asyncio.run(greet(url, ssl=context))["verbot"] == 1
        with pytest.raises((InvalidMessage, ConnectionError)):
            asyncio.run(greet(url.replace("wss", "ws")))


def test_who_does_not_encrypt_is_dropped(certificate, monkeypatch):
    limits = ConnectionLimits(2**16, handshake_s=0.2, close_s=0.2)
    monkeypatch.setattr("verbot.deploy.server.ConnectionLimits", lambda *args, **options: limits)
    with PolicyServer(Still(), tls=certificate) as server:
        address = server._server.address
        raws = [socket.create_connection(address, timeout=5) for _ in range(4)]
        raws[0].sendall(b"\x16\x03\x01\x00\x05")
        raws[1].sendall(b"GET / HTTP/1.1\r\n\r\n")
        for raw in raws:
            try:
                while raw.recv(4096):
                    pass
            except ConnectionError:
                pass
            raw.close()

        async def greet():
            async with asyncio_connect(server.url, ssl=ssl.create_default_context(cafile=certificate[0])) as client:
                return decode(await client.recv())

        assert [asyncio.run(greet())["verbot"] for _ in range(3)] == [1, 1, 1]
        time.sleep(0.05)
        assert all(one.fileno() < 0 for one in server._server._sockets)
