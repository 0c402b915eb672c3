"""Read instructions for the navigation env: the inverse of the templates in `language`."""

from __future__ import annotations

import functools

from verbot.contracts import Understanding
from verbot.envs import parsing
from verbot.envs.navigation import language
from verbot.envs.navigation.world import COLORS
from verbot.envs.parsing import Lexicon, Templates

LEXICON = Lexicon(frozenset(COLORS), {noun: noun for noun in language.NOUNS}, frozenset(("circle",)))


def understand(text: str) -> Understanding:
    """What `text` means, with the arm None if nothing is said of it.

    Example:
        >>> understand("Please orbit the blue square with your arm up.").goals
        ({'verb': 'around', 'object': 'blue square', 'arm': 'raised'},)
    """
    commands, objects = _commands(), LEXICON.names(text)

    def goals(part: str) -> list[dict[str, str | None]]:
        readings = [reading for tokens in LEXICON.tokens(part) for reading in commands.read(tokens)]
        found = [{"arm": None, **reading.fields, "object": reading.slots["object"].text} for reading in readings]
        # Lines are followed; everything else is gone to or around.
        fitting = [goal for goal in found if (goal["verb"] == "follow") == str(goal["object"]).endswith("line")]
        return [goal for i, goal in enumerate(fitting) if goal not in fitting[:i]]

    meant = goals(text) if len(parsing.pieces(text)) == 1 else []
    if not meant:
        return parsing.not_understood(text, LEXICON, commands.vocabulary(), objects, lambda part: bool(goals(part)))
    if len(meant) > 1:
        return Understanding((), objects, f"it has more than one meaning: {' or '.join(map(language.canonical, meant))}")
    return Understanding(({key: meant[0][key] for key in ("verb", "object", "arm")},), (str(meant[0]["object"]),))


@functools.cache
def _commands() -> Templates:
    tails = [
        parsing.frame(f"{{}} {tail}", {"arm": arm})
        for table in (language.ARM_SEEN, language.ARM_UNSEEN)
        for arm, lines in table.items()
        for tail in lines
    ]
    commands = Templates([*map(parsing.frame, language.FRAMES), *tails])
    for verb, template in language.CANONICAL.items():
        for line in (template, *language.SEEN[verb], *language.UNSEEN[verb]):
            commands.add(line.replace("{object}", "<object>"), {"verb": verb})
    return commands
