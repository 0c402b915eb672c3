"""Deployment: policies served to robots over the network."""

from verbot.deploy.server import PolicyServer

__all__ = ["PolicyServer"]
