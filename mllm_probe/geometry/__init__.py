"""How layers lie to each other and what shape each has. Knows arrays only: no key, no cache, no label, no probe."""
