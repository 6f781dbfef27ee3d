"""Joining things that belong together into components. Knows no pictures and no files."""

from collections.abc import Iterable


def joined(items: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{item: the smallest member of its component}; two items are in one component where a chain of pairs leads."""
    parent = {item: item for item in items}

    def root(item: str) -> str:
        while parent[item] != item:
            parent[item] = parent[parent[item]]  # halves the way for whoever comes next
            item = parent[item]
        return item

    for pair in pairs:
        for item in pair:
            parent.setdefault(item, item)
        small, large = sorted((root(pair[0]), root(pair[1])))
        parent[large] = small
    return {item: root(item) for item in parent}
