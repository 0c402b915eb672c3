"""Names of hosts: which are this machine's own, and how to find them in an address or a header."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether this name or address is the machine's own, which no other machine reaches.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(place: str) -> str:
    """The name in a ``Host`` header or in a URL, without port and brackets; ``""`` if there is none.

    Example:
        >>> host_name("localhost"), host_name("[::1]:8000"), host_name("ws://127.0.0.1:8000/x"), host_name("http://[")
        ('localhost', '::1', '127.0.0.1', '')
    """
    try:
        return urlsplit(place if "://" in place else f"//{place}").hostname or ""
    except ValueError:
        return ""
