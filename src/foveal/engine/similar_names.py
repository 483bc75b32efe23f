"""Class names that may be one class in two spellings: RBC and rbc, platelet and plateet."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import combinations

RARE = 0.05
"""A name one letter away from another is taken for a slip if it has less than this share of the other's objects."""
SHORTEST = 3
"""Letters of a name in which one may be a slip."""


def similar_names(objects: Mapping[str, int]) -> list[str]:
    """A sentence for each two names that may be one class, given each name's number of objects; rarer names first.

    Told are names that differ in case, spaces, - or _ only; in one letter that has moved (RCB and RBC); and in one
    letter added, left out or replaced, where one name is RARE and has objects. Digits are no slips: wheel 1, wheel 2.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(objects, key=lambda name: (-objects[name], name)):
        spellings[re.sub(r"[\s_-]", "", name.casefold())].append(name)
    pairs = [(other, names[0]) for names in spellings.values() for other in names[1:]]
    for plain, other in _one_letter_apart(spellings):
        many, few = sorted((spellings[plain][0], spellings[other][0]), key=lambda name: -objects[name])
        moved = sorted(plain) == sorted(other)
        if moved or 0 < objects[few] < RARE * objects[many]:
            pairs.append((few, many))
    return [f"{few!r} ({objects[few]}) and {many!r} ({objects[many]}) may be one class" for few, many in pairs]


def _one_letter_apart(words: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Words that one letter added, left out, replaced or moved makes equal, but for those that differ in digits only.

    Such words are equal with a letter less each, or one with a letter less is the other: no two need be compared.
    """
    shortened: dict[str, set[str]] = defaultdict(set)
    for word in words:
        if len(word) >= SHORTEST:
            for key in {word, *(word[:place] + word[place + 1 :] for place in range(len(word)))}:
                shortened[key].add(word)
    pairs = {pair for alike in shortened.values() for pair in combinations(sorted(alike), 2)}
    for one, other in sorted(pairs):
        if re.sub(r"\d", "", one) != re.sub(r"\d", "", other):
            yield one, other
