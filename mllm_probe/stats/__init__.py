"""Numbers about numbers: measures, intervals, tests, codes. Knows logits, labels and pictures; no probe, no model."""
