"""What a run needs of this machine, and what is there: packages, cards, disk, memory, the hub. Imports no torch."""
