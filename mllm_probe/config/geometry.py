"""What a user may set of the commands that compare layers: `geometry`, `fidelity` and `align`."""

from dataclasses import dataclass, field

from mllm_probe.config.run import RunConfig

REFERENCES = UNQUANTIZED, BASE = "unquantized", "base"


@dataclass
class GeometrySettings:
    """Which `measures` compare the layers, see mllm_probe.geometry. Rows: one prompt for each of `max_rows` pictures.

    `across` lists pairs of positions whose layers are also compared with each other. Values are clipped to `clip`
    standard deviations (null = off) and, with `standardise`, every dimension is then given mean 0 and deviation 1 over
    the rows. mutual_knn counts `k` neighbours, svcca keeps at most `components` (null = all), and `permutations`
    shuffles of the rows give the null. `seed` draws rows and shuffles.
    """

    measures: list[str] = field(
        default_factory=lambda: ["cka", "svcca", "rsa", "mutual_knn", "transfer", "intrinsic_dimension", "entropy"]
    )
    across: list[list[str]] = field(default_factory=list)
    max_rows: int = 2000
    k: int = 10
    clip: float | None = 5.0
    standardise: bool = False
    components: int | None = 100
    permutations: int = 100
    seed: int = 0


@dataclass
class FidelitySettings:
    """What the model is compared with: `reference` unquantized is the same model without quantisation, in `dtype` (null
    = model.dtype); base is the same model, quantised alike, without its adapter. CKA uses one prompt a picture, at
    most `max_rows` drawn by `seed`, after `clip` and `standardise` as in GeometrySettings. `standardise` also has
    cosine and relative error of states less the reference's mean, in its standard deviations, dimension by dimension.
    """

    reference: str = "unquantized"
    dtype: str | None = None
    max_rows: int = 2000
    clip: float | None = 5.0
    standardise: bool = False
    seed: int = 0


IMAGES_AT = ("mean_image", "last_image", "last")  # where a picture alone can be read
TEXTS_AT = ("mark:caption", "mean_text", "last")  # and a caption: its last token, the mean of all, the prompt's end


@dataclass
class AlignSettings:
    """At most `pictures` of each split (null = all), drawn by `seed`, with all their captions.

    A picture is read at each of `images_at`, a caption at each of `texts_at`. States are centred by the means of the
    training pictures and captions, and the `remove_components` largest principal components of these are removed.
    `documents` of 2 to `most` pictures are drawn from a split for the retrieval of sequences; `delta` is the width of
    their alignment kernel (null = the median slice distance of the layer). `permutations` of the pictures' states are
    the null (0 = none; null = 499, or 60 a layer where Holm over the layers needs more).
    """

    pictures: int | None = 100
    images_at: list[str] = field(default_factory=lambda: ["mean_image", "last_image"])
    texts_at: list[str] = field(default_factory=lambda: ["mark:caption", "mean_text"])
    remove_components: int = 0
    documents: int = 150
    most: int = 4
    delta: float | None = None
    permutations: int | None = None
    seed: int = 0


@dataclass
class GeometryConfig(RunConfig):
    """`geometry`: the settings of the run whose cache is read, and how its layers are compared."""

    geometry: GeometrySettings = field(default_factory=GeometrySettings)


@dataclass
class AlignConfig(RunConfig):
    """`align`: the settings of a run, whose task gives the captions and their negatives, and what is compared."""

    align: AlignSettings = field(default_factory=AlignSettings)


@dataclass
class FidelityConfig(RunConfig):
    """`fidelity`: the settings of a run of the quantised or adapted model, and what it is compared with."""

    fidelity: FidelitySettings = field(default_factory=FidelitySettings)
