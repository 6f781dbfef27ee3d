"""Checkpoints -> Extractable; the only room that imports transformers and bitsandbytes."""
