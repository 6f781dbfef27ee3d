"""What a user may set of `lens`, which reads the words that single picture tokens stand for."""

from dataclasses import dataclass, field

from mllm_probe.config.run import RunConfig

LENSES = "logit", "embedding", "latent"


@dataclass
class WordSettings:
    """The nearest words of at most `pictures` test pictures are kept in words.csv. Lens latent holds one state for each
    token and layer, of captions in an order that `seed` draws, and is refused where that is more than `max_index_gb` in
    memory."""

    pictures: int = 3
    max_index_gb: float = 4.0
    seed: int = 0


@dataclass
class LensConfig(RunConfig):
    """`lens`: the settings of a run of a task that picks tokens, and the lenses: `lens` logit (what the model would say
    next), embedding (the words that it reads) and latent (the words as it sees them in captions)."""

    lens: list[str] = field(default_factory=lambda: ["logit", "embedding"])
    words: WordSettings = field(default_factory=WordSettings)
