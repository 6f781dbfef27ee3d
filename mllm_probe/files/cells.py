"""Text in the cells of a CSV: an apostrophe protects text that a spreadsheet would read as a formula."""

FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def cell(value: object) -> object:
    """A value as it is written: no number, and what is missing is empty."""
    if value is None or value != value:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value


def bare(value: str) -> str:
    """A text as it was before it was written."""
    return value[1:] if value.startswith("'") and value[1:].startswith(FORMULAS) else value
