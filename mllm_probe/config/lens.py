"""What a user may set of `lens`, which reads what single picture tokens stand for, or where statements look."""

from dataclasses import dataclass, field

from mllm_probe.config.run import RunConfig

ATTENTION = "attention"
LENSES = "logit", "embedding", "latent", ATTENTION


@dataclass
class WordSettings:
    """The nearest words of at most `pictures` test pictures are kept in words.csv. Lens latent holds one state for each
    token and layer, of captions in an order that `seed` draws, and is refused where that is more than `max_index_gb` in
    memory."""

    pictures: int = 3
    max_index_gb: float = 4.0
    seed: int = 0


@dataclass
class AttentionSettings:
    """Of lens=[attention]: statements about `pictures` test pictures (null: all), drawn by `seed`, and the same
    pictures with the text `neutral`. With `heads` every head is told of, too. A sink is a token that attracts more than
    `sink_mass` in more than `sink_prompts` of the prompts. Maps of more than `max_gb` in memory are refused."""

    pictures: int | None = 50
    seed: int = 0
    neutral: str = "Write a general description of the image."
    heads: bool = False
    sink_mass: float = 0.1
    sink_prompts: float = 0.5
    max_gb: float = 4.0


@dataclass
class LensConfig(RunConfig):
    """`lens`: the settings of a run of a task that picks tokens, and the lenses: `lens` logit (what the model would say
    next), embedding (the words that it reads) and latent (the words as it sees them in captions); or, alone and with a
    task of statements (task=objects), attention: what the tokens of a statement and the last one attend to."""

    lens: list[str] = field(default_factory=lambda: ["logit", "embedding"])
    words: WordSettings = field(default_factory=WordSettings)
    attention: AttentionSettings = field(default_factory=AttentionSettings)
