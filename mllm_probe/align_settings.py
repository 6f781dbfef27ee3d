"""What a user may set of `align`. Plain dataclasses, as in `settings`."""

from dataclasses import dataclass, field

IMAGES_AT = ("mean_image", "last_image", "last")  # where a picture alone can be read
TEXTS_AT = ("mark:caption", "mean_text", "last")  # and a caption: its last token, the mean of all, the prompt's end


@dataclass
class AlignSettings:
    """Of each split at most `pictures` (null = all), drawn by `seed`, with all their captions.

    A picture is read at each of `images_at`, a caption at each of `texts_at`. States are centred by the means of the
    training pictures and captions, and the `remove_components` largest principal components of these are taken out.
    `documents` of 2 to `most` pictures are drawn from a split for the retrieval of sequences; `delta` is the width of
    their alignment kernel (null = the median slice distance of the layer). `permutations` of the pictures' states are
    the null (0 = none).
    """

    pictures: int | None = 100
    images_at: list[str] = field(default_factory=lambda: ["mean_image", "last_image"])
    texts_at: list[str] = field(default_factory=lambda: ["mark:caption", "mean_text"])
    remove_components: int = 0
    documents: int = 150
    most: int = 4
    delta: float | None = None
    permutations: int = 499
    seed: int = 0
