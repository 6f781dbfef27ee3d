"""Vision representations: which layers, in which combination, and which encoder an MLLM makes the most of."""
