"""Wire format and client for a policy on another computer. Numpy only, so that a robot's computer needs no torch."""

from verbot.remote.client import RemotePolicy
from verbot.remote.codec import decode, encode

__all__ = ["RemotePolicy", "decode", "encode"]
