"""The policy: network, transforms, statistics and robot spec in one directory."""
