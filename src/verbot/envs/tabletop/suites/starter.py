"""Pick up, push and put; three to five things."""

from verbot.envs.tabletop.suites import Suite, register

STARTER = register(Suite("tabletop-starter", ("pick", "push", "put")))
