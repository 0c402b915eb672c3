"""Names of other people's data that no dataset of verbot can have."""

from __future__ import annotations

from dataclasses import replace

from verbot.data.importers import FieldNote, Item, RawEpisode
from verbot.text import clean_names


def with_clean_cameras(raw: RawEpisode) -> RawEpisode:
    """An episode whose cameras have clean names, which become parts of paths; the notes say how each was called."""
    names = clean_names(raw.cameras)
    changed = {f"camera {old}": (old, f"camera {new}") for old, new in names.items() if old != new}
    if not changed:
        return raw

    def renamed(note: FieldNote) -> FieldNote:
        old, taken_as = changed.get(note.taken_as, ("", note.taken_as))
        return replace(note, taken_as=taken_as, reason="; ".join(filter(None, (note.reason, old and f"renamed from {old!r}"))))

    noted = {note.taken_as for note in raw.notes}
    further = [FieldNote(old, taken_as, "", "renamed") for was, (old, taken_as) in changed.items() if was not in noted]
    return replace(
        raw,
        cameras={names[name]: read for name, read in raw.cameras.items()},
        calibration={names.get(name, name): value for name, value in raw.calibration.items()},
        notes=(*map(renamed, raw.notes), *further),
    )


def with_plain_key(item: Item) -> Item:
    """An item whose key can be stored: bytes of a file's name that are no UTF-8, and halves of characters, are escaped."""
    return replace(item, key=item.key.encode(errors="backslashreplace").decode())
