"""Every error a user can meet.

    MllmProbeError            catch this one to catch them all
    ├── ConfigError           a setting is unknown, out of range or does not fit another one
    ├── DataError             an annotation file, a row or a picture cannot be used
    ├── ModelError            a checkpoint, its processor or the device cannot be used
    │   ├── SpanError         a position cannot be found in a prompt
    │   └── PassError         the code of a model or its processor fails on a sample
    ├── CacheError            a stored activation is missing, damaged or of another model
    ├── ProbeError            a probe or a statistic cannot be computed from these rows
    ├── TrainError            a training cannot go on
    └── PendingError          another process is at it; nothing is wrong

A message is one sentence: what was wrong, the value seen, and what is allowed or fixes it.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class MllmProbeError(Exception):
    """Something the user can fix; its text is shown without a traceback."""


class ConfigError(MllmProbeError):
    pass


class DataError(MllmProbeError):
    pass


class ModelError(MllmProbeError):
    pass


class SpanError(ModelError):
    pass


class PassError(ModelError):
    pass


class CacheError(MllmProbeError):
    pass


class ProbeError(MllmProbeError):
    pass


class TrainError(MllmProbeError):
    pass


class PendingError(MllmProbeError):
    """Another process is filling the cache; the same command, repeated later, goes on."""


def count(number: int, name: str) -> str:
    """`1 key`, `2 keys`."""
    return f"{number} {name if number == 1 else plural(name)}"


def plural(name: str) -> str:
    """`keys`, `groups (patient)`."""
    word, bracket, rest = name.partition(" (")
    return f"{word}s{bracket}{rest}"


def first_line(error: BaseException) -> str:
    """What a library says, in brief; the kind of its error where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip() or type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """torch's OutOfMemoryError is a RuntimeError; the CPU's allocator raises a plain one."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def is_whole(text: str) -> bool:
    """Whether a text can be written: JSON may hold half a character (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def behind(words: str, said: str) -> str:
    """What was said of a job, behind its words, unless it begins with them itself."""
    return said if said.startswith(words) else f"{words}: {said}"


def few(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def in_brief(text: str, most: int = 400) -> str:
    """A text in quotes; of a long one its beginning and its end."""
    left_out = len(text) - most
    return repr(text) if left_out <= 0 else f"{text[: most // 2]!r} ({left_out:,} letters) {text[-most // 2 :]!r}"


def choices(seen: str, allowed: Iterable[str]) -> str:
    """The tail of a message: a guess at what was meant, then everything that is allowed."""
    names = sorted(allowed)
    near = [name for name in get_close_matches(seen, names, n=1) if name != seen]
    guess = f"did you mean '{near[0]}'? " if near else ""
    return f"{guess}choose one of: {', '.join(names)}"
