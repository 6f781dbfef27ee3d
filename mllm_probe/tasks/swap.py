"""Replace an object named in a caption by one that is not in the picture. Knows no prompt and no model.

The objects put in are a permutation, within the fold, of the objects taken out. So the word of an object is as often
in a true statement as in a false one, and so is the caption around it; only their combination can tell without the
picture ("a dog catches a sandwich"), and how much it tells is what the text-only control shows.
"""

import re
from collections.abc import Sequence
from random import Random

from mllm_probe.records.samples import Picture
from mllm_probe.tasks.matching import Claim, exchange


def swap(claims: Sequence[Claim], categories: Sequence[str], rng: Random) -> list[Claim | None]:
    """For each true claim i the same caption with one present object swapped for an absent one.

    None where the caption names no present object, or where no exchange of objects is found for it. Absent is an
    object that is neither annotated nor named in a caption of the picture.
    """
    names = _pattern(categories)
    drawn = {i: rng.choice(found) for i, claim in enumerate(claims) if (found := _present(claim, names))}
    said = {claims[i][0].id: _named(" ; ".join(claims[i][0].captions), names) for i in drawn}

    def absent(picture: Picture, category: str) -> bool:
        return category not in (picture.categories or ()) and category.lower() not in said[picture.id]

    taken = exchange([(claims[i][0], drawn[i]) for i in drawn], absent, rng)
    put = {i: claim[1] for i, claim in zip(drawn, taken, strict=True) if claim}
    return [
        (picture, replaced(text, drawn[i], put[i], names)) if i in put else None
        for i, (picture, text) in enumerate(claims)
    ]


def replaced(text: str, old: str, new: str, names: re.Pattern[str]) -> str:
    """`text` with every mention of `old` made one of `new`: an a or an directly before it fits, a capital stays."""

    def fix(match: re.Match[str]) -> str:
        article, name = match["article"], match["name"]
        if name.lower() != old.lower():
            return match[0]
        before = article[0] + ("n " if new[0].lower() in "aeiou" else " ") if article else ""
        return before + (new[0].upper() if name[0].isupper() else new[0]) + new[1:]

    return names.sub(fix, text)


def _pattern(categories: Sequence[str]) -> re.Pattern[str]:
    """Whole names in the singular, the longest first: "hot dog" is no dog. The article before one comes along."""
    options = "|".join(re.escape(name) for name in sorted(categories, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<![\w-])(?P<article>an?\s+)?(?P<name>{options})(?![\w-])", re.IGNORECASE)


def _named(text: str, names: re.Pattern[str]) -> set[str]:
    return {match["name"].lower() for match in names.finditer(text)}


def _present(claim: Claim, names: re.Pattern[str]) -> list[str]:
    """The objects of the picture that the caption names."""
    named = _named(claim[1], names)
    return sorted(category for category in claim[0].categories or () if category.lower() in named)
