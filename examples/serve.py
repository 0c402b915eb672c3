"""A policy on one computer, the robot on another: serve it, and use it as if it were here.

Run it: python examples/serve.py starter

A policy's folder can stand in place of starter, the policy that ships with verbot.
"""

from __future__ import annotations

import sys

import numpy as np

import verbot
from verbot.deploy import PolicyServer
from verbot.remote import RemotePolicy


def main(policy: verbot.Policy) -> float:
    """Serve `policy` on this machine and ask it over the network. Returns the largest difference to asking it directly."""
    rng = np.random.default_rng(0)
    images = {c.name: rng.integers(0, 255, (c.height, c.width, 3), np.uint8) for c in policy.spec.cameras}
    state = np.concatenate([(np.array(c.low) + np.array(c.high)) / 2 for c in policy.spec.state]).astype(np.float32)
    observation = verbot.Observation(images, state, "pick up the red cube")
    with PolicyServer(policy) as server, RemotePolicy(server.url) as remote:
        there, here = remote.predict([observation])[0], policy.predict([observation])[0]
        print(f"{server.url} plans {len(there.values)} steps for {remote.spec.name}")
    return float(np.abs(there.values - here.values).max())


if __name__ == "__main__":
    main(verbot.load_policy(sys.argv[1]))
