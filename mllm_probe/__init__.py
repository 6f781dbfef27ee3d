"""Which layers of a multimodal language model hold global meaning, and which local."""

__version__ = "0.1.0"
