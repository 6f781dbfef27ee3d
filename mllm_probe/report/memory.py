"""How much memory this process has: now and at most, on this machine and, where CUDA is in use, on its cards."""

import os
import sys
from pathlib import Path

UNIT = 1 if sys.platform == "darwin" else 1024  # bytes; what the peak is counted in
PAGES = Path("/proc/self/statm")


def resident() -> tuple[int, int] | None:
    """Resident bytes, now and at most; without /proc the first is the second, and None where nothing is told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
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
    """`0.6 GB (peak 0.7), CUDA 5.1 GB (peak 6.0)`, as far as there is something to tell."""
    told = (("", resident()), ("CUDA ", on_cards()))
    return ", ".join(f"{what}{used[0] / 1e9:.1f} GB (peak {used[1] / 1e9:.1f})" for what, used in told if used)
