"""Where a model is read: its towers, their sites, and what is stored of a site at a position. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, order=True)
class Site:
    """A place in the model. Layer 0 is what block 1 receives; layer k is what block k returns, before any norm.

    `part` "norm" is the last state after the final norm, which is a site of its own. A connector has one layer.
    """

    tower: str
    layer: int = 0
    part: str = "block"

    def __str__(self) -> str:
        name = self.tower if self.tower == "connector" else f"{self.tower}.{self.layer:02d}"
        return name if self.part == "block" else f"{name}.{self.part}"

    @classmethod
    def parse(cls, name: str) -> "Site":
        tower, *rest = name.split(".")
        return cls(tower, int(rest[0]) if rest else 0, rest[1] if len(rest) > 1 else "block")


TOWERS = ("vision", "qformer", "connector", "lm")  # in the order the data passes them
INSIDE = ("attn", "mlp")  # parts inside a block: what each adds to the residual stream


@dataclass(frozen=True)
class Anatomy:
    """{tower: number of blocks} and {tower: width D}; a connector has a width alone. `causal` = no token sees a later
    one; `inside` {tower: parts that each of its blocks has}; `informed` picture towers read the text, too; `crossed`:
    the language model attends to pictures and holds no token of theirs."""

    blocks: Mapping[str, int]
    widths: Mapping[str, int]
    causal: bool
    max_tokens: int
    inside: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    informed: tuple[str, ...] = ()
    crossed: bool = False

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(tower for tower in TOWERS if tower in self.widths)

    def sites(self) -> tuple[Site, ...]:
        """In the order the data passes them."""
        found: list[Site] = []
        for tower in self.towers:
            found.append(Site(tower))
            for layer in range(1, self.blocks.get(tower, 0) + 1):
                found += [Site(tower, layer, part) for part in (*self.inside.get(tower, ()), "block")]
        return (*found, Site("lm", self.blocks["lm"], "norm"))

    def has(self, site: Site, position: str) -> bool:
        """Picture towers have picture positions only, and a language model that holds no picture has none of them.
        Picked tokens are read in the vision tower by what they are made of, and from the language model's input on."""
        if site.tower == "lm":
            return not (self.crossed and of_picture(position))
        return of_picture(position) and (site.tower == "vision" or not position.startswith(PICKED))

    def depth(self, site: Site) -> float:
        """0 at the tower's embeddings, 1 at its last block; a connector sits at 1 of its own single step."""
        return site.layer / self.blocks[site.tower] if site.tower in self.blocks else 1.0

    def space(self, key: "Key") -> str:
        """The row space of a key: states of a picture that saw none of the text behind it are stored once per `prefix`,
        all others once per `sample`."""
        if key.site.tower != "lm":
            return "sample" if key.site.tower in self.informed else "prefix"
        return "prefix" if self.causal and not self.informed and of_picture(key.position) else "sample"


PICTURE_POSITIONS = ("last_image", "mean_image", "tokens:image")  # those that vision towers and connectors have, too
PICKED = "tokens:image~"  # and how many tokens a picture, which ones as a digest: chosen by a task, see Sample.picked


def of_picture(position: str) -> bool:
    """Whether a position reads tokens of the picture alone."""
    return position in PICTURE_POSITIONS or position.startswith(PICKED)


def before_question(position: str) -> bool:
    """Whether a position lies before the words that tell the statements about a picture apart."""
    return of_picture(position) or position.startswith("before:")


ANSWER = "answer"  # the position `answer:Yes/No`: a row of the words' logits by the logit lens, at the last token


@dataclass(frozen=True)
class Key:
    """One stored quantity: the states of one site read at one position. Prints `lm.07@last`."""

    site: Site
    position: str

    def __str__(self) -> str:
        return f"{self.site}@{self.position}"

    @classmethod
    def parse(cls, name: str) -> "Key":
        site, position = name.split("@", 1)
        return cls(Site.parse(site), position)


def listed(sites: Iterable[str], order: Sequence[str]) -> str:
    """`lm.01, lm.04 to lm.06`: some of the sites in `order`, neighbours joined."""
    places = sorted(order.index(site) for site in sites)
    starts = [i for i, place in enumerate(places) if i == 0 or place != places[i - 1] + 1]
    runs = [places[a:b] for a, b in zip(starts, [*starts[1:], len(places)], strict=True)]
    ends = {1: "{0}", 2: "{0}, {1}"}
    return ", ".join(ends.get(len(run), "{0} to {1}").format(order[run[0]], order[run[-1]]) for run in runs)
