"""A policy on another computer: wire format and client. Numpy only, so a robot computer needs no torch."""

from verbot.remote.client import RemotePolicy
from verbot.remote.codec import decode, encode

__all__ = ["RemotePolicy", "decode", "encode"]
