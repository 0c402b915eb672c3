"""Pick up, push and put; three to five objects."""

from verbot.envs.tabletop.suites import Suite, register

STARTER = register(Suite("tabletop-starter", ("pick", "push", "put")))
