"""Instructions that differ in spelling only."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from verbot.data.quality.checks import lint_checks
from verbot.data.quality.config import LintConfig
from verbot.data.quality.episode import DatasetOverview, EpisodeData
from verbot.data.quality.report import FramePlace, LintFinding, plural

MIN_LETTERS = 4  # of a word that may be misspelled; "in" and "on" are both right
RARE = 0.5  # a misspelled sentence is at most this fraction as frequent as the other one


@lint_checks.register("sentences")
class SentencePairs:
    """Pairs of sentences that differ in one letter, in case, in spaces or in punctuation: one task with two labels."""

    def measure(self, episode: EpisodeData, config: LintConfig) -> dict[str, int]:
        found: dict[str, int] = {}
        for segment in episode.segments:
            for sentence in segment.wordings:
                found.setdefault(sentence, segment.start)
        return found

    def judge(self, measured: Sequence[tuple[int, Any]], dataset: DatasetOverview, config: LintConfig) -> Iterator[LintFinding]:
        counts: Counter[str] = Counter()
        where: dict[str, FramePlace] = {}
        for number, found in measured:
            for sentence, frame in found.items():
                if sentence.strip():
                    counts[sentence] += 1
                    where.setdefault(sentence, FramePlace(number, frame, 1.0))
        for group in _same_words(counts).values():
            words = " and ".join(f"{sentence!r} ({counts[sentence]})" for sentence in group)
            text = f"these instructions differ in case, spaces or punctuation only: {words}"
            yield LintFinding("warning", "sentences", text).at([where[s] for s in group[1:]], config.places)
        for rare, common in _misspelled(counts):
            seldom, often = plural(counts[rare], "episode"), counts[common]
            text = f"{rare!r} ({seldom}) differs in one letter from {common!r} ({often}): is it misspelled?"
            yield LintFinding("warning", "sentences", text).at([where[rare]], 1, counts[rare])


def _same_words(counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Sentences by their letters and digits, where several have the same; the most frequent first."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for sentence in sorted(counts, key=lambda each: (-counts[each], each)):
        groups[re.sub(r"[\W_]+", "", sentence.casefold())].append(sentence)
    return {key: group for key, group in groups.items() if len(group) > 1 and key}


def _misspelled(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """(rare, common) sentences with one differing word, of which the rare one's occurs in no other sentence."""
    words = {sentence: re.findall(r"\w+", sentence.casefold()) for sentence in counts}
    uses = Counter(word for found in words.values() for word in set(found))
    groups: defaultdict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for sentence, found in words.items():
        for i, word in enumerate(found):
            if len(word) >= MIN_LETTERS and not word.isdigit():
                groups[(*found[:i], "", *found[i + 1 :])].append((sentence, word))
    for group in groups.values():
        for rare, odd in group:
            others = [s for s, word in group if word != odd and one_letter(odd, word) and counts[rare] <= RARE * counts[s]]
            if others and uses[odd] == 1:
                yield rare, max(others, key=lambda each: counts[each])


def one_letter(a: str, b: str) -> bool:
    """Whether two words differ by one letter replaced, added or left out, or by two neighbors exchanged.

    Example:
        >>> one_letter("cube", "cubes"), one_letter("cube", "cueb"), one_letter("red", "blue")
        (True, True, False)
    """
    if abs(len(a) - len(b)) > 1 or a == b:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) == len(b):
        exchanged = a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        return a[start + 1 :] == b[start + 1 :] or exchanged
    short, long = sorted((a, b), key=len)
    return short[start:] == long[start + 1 :]
