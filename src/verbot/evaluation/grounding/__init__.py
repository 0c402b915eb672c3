"""Where a policy looks."""
