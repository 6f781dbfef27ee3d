"""Frozen vectors -> fitted probes. No probe ever sees a model, a picture or a test label."""
