"""Commands of two or three sentences, of which one says what to leave alone or is found only through a pronoun."""

from verbot.envs.tabletop.suites import Suite, register

SENTENCES = register(Suite("tabletop-sentences", ("pick", "push", "put"), several_sentences=True))
