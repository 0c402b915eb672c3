"""Deployment: policies served to robots over the network."""

from verbot.deploy.server import PolicyServer, ServingOptions

__all__ = ["PolicyServer", "ServingOptions"]
