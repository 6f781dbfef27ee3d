"""How much memory this process has: now and at most, on this machine and, where CUDA is in use, on its cards."""

import os
import resource
import sys
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; what the peak is counted in
PAGES = Path("/proc/self/statm")


def resident() -> tuple[int, int]:
    """Resident bytes, now and at most; where the system does not tell the first, it is the second."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT
    try:
        now = int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        now = peak
    return now, max(now, peak)


def on_cards() -> tuple[int, int] | None:
    """Bytes of tensors on all cards, now and at most; None where this process has not begun to use CUDA."""
    torch = sys.modules.get("torch")  # nobody should wait for its import to read of memory
    if torch is None or not torch.cuda.is_initialized():
        return None
    cards = range(torch.cuda.device_count())
    return sum(map(torch.cuda.memory_allocated, cards)), sum(map(torch.cuda.max_memory_allocated, cards))


def memory() -> str:
    """`0.6 GB (peak 0.7)`, and the same of CUDA."""
    cards = on_cards()
    return _told(*resident()) + (f", CUDA {_told(*cards)}" if cards else "")


def _told(now: int, peak: int) -> str:
    return f"{now / 1e9:.1f} GB (peak {peak / 1e9:.1f})"
