"""The files of a finished command, one file each: their rows, written and read back."""
