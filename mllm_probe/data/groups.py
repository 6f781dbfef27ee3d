"""Which things belong together when some pairs of them do. Knows no pictures."""

from collections.abc import Iterable


def joined(items: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{item: the smallest member of its component}, where pairs connect items, directly or through others."""
    root = {item: item for item in items}

    def find(item: str) -> str:
        while root[item] != item:
            root[item] = item = root[root[item]]  # halves the way for the next search
        return item

    for pair in pairs:
        first, second = sorted(map(find, pair))
        root[second] = first
    return {item: find(item) for item in root}
