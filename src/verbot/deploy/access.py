"""Who may use a policy server: no web page, on other interfaces than the loopback only who has the token, encrypted."""

from __future__ import annotations

import base64
import hmac
import http
import os
import ssl
from collections.abc import Sequence

from websockets.http11 import Request, Response

from verbot.errors import ConfigError
from verbot.remote.addresses import host_name, is_loopback
from verbot.remote.connections import refusal

Certificate = ssl.SSLContext | tuple[str | os.PathLike[str], str | os.PathLike[str]]
LEAST_TOKEN = 16  # characters
_MAKE_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe())" makes one'


class Access:
    """Checks the request of each client.

    Args:
        host: the interface that is served.
        token: what clients have to send as ``Authorization: Bearer TOKEN``; ``Api-Key TOKEN``, as openpi's clients send it, and
            the password of an address ``ws://verbot:TOKEN@HOST`` are taken too. None admits without.
        origins: web pages that may connect, e.g. ``"https://robot.example"``; a browser names them, other clients do not.

    Raises:
        ConfigError: the token is too short, or cannot be sent.
    """

    def __init__(self, host: str, token: str | None = None, origins: Sequence[str] = ()):
        if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
            raise ConfigError(f"a token has at least {LEAST_TOKEN} letters, digits and signs, and no spaces: {_MAKE_TOKEN}")
        if isinstance(origins, str):
            raise ConfigError(f"origins is {origins!r}; expected a sequence of origins: ({origins!r},)")
        self._is_local, self._token, self._origins = is_loopback(host), token, tuple(origins)

    def admit(self, request: Request, is_public: bool = False) -> Response | None:
        """None for a client that may connect, otherwise its response. With `is_public` the token is not asked for."""
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or (self._is_local and not is_loopback(host_name(hosts[0]))):
            # A foreign name that resolves to the loopback: a web page tries to pass as a page of this machine.
            return refusal(http.HTTPStatus.FORBIDDEN, "wrong host: use the address of the loopback, or serve another interface")
        if any(origin not in self._origins for origin in request.headers.get_all("Origin")):
            return refusal(http.HTTPStatus.FORBIDDEN, "web pages may not connect, but for those of the server's `origins`")
        if self._token is not None and not is_public and not self._knows(request.headers.get_all("Authorization")):
            response = refusal(http.HTTPStatus.UNAUTHORIZED, "a token is needed, as Authorization: Bearer TOKEN")
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        return None

    def _knows(self, sent: Sequence[str]) -> bool:
        scheme, _, text = (sent[0] if len(sent) == 1 else "").partition(" ")
        if scheme == "Basic":
            text = _password(text)
        elif scheme not in ("Bearer", "Api-Key"):
            return False
        return hmac.compare_digest(text.encode(errors="surrogateescape"), str(self._token).encode())


def _password(credentials: str) -> str:
    """The password in what a client sends for the user and the password of an address; ``""`` if there is none."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def check_exposed(host: str, token: str | None, tls: Certificate | None) -> None:
    """Raise `ConfigError` unless what is served on `host` is safe from others on its network."""
    lacking = [name for name, value in (("token", token), ("tls=(certificate, key)", tls)) if value is None]
    if lacking and not is_loopback(host):
        raise ConfigError(
            f"{host} is reached by other machines, and {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not given: "
            f"give {'it' if len(lacking) == 1 else 'them'} (a token: {_MAKE_TOKEN}), or serve 127.0.0.1 and use a tunnel, "
            f"or say insecure=True where everybody on the network may use the policy and read its images"
        )


def context_of(tls: Certificate | None) -> ssl.SSLContext | None:
    """The context of a certificate and its key, two PEM files. Raises `ConfigError` if they cannot be read."""
    if tls is None or isinstance(tls, ssl.SSLContext):
        return tls
    if not isinstance(tls, tuple | list) or len(tls) != 2 or not all(isinstance(each, str | os.PathLike) for each in tls):
        raise ConfigError(f"tls is {tls!r:.200}; expected two PEM files, (certificate, key), or an ssl.SSLContext")
    certificate, key = tls
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(os.fspath(certificate), os.fspath(key), _no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"the certificate {certificate} with the key {key} cannot be used: {error}; expected PEM files"
        ) from error
    return context


def _no_password() -> str:
    """Asked for an encrypted key; by default OpenSSL would wait for a person at the terminal."""
    raise ConfigError("the key of the certificate is encrypted; expected one without a password: openssl pkey -in KEY -out PLAIN")
