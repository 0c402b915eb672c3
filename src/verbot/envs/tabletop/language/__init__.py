"""Instructions of the tabletop."""
