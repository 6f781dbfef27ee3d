"""From the words of a config to keys: which sites and which positions there. Knows the anatomy, no model class."""

from collections.abc import Sequence

from mllm_probe.config.run import LayerSettings
from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.sites import INSIDE, PICTURE_POSITIONS, TOWERS, Anatomy, Key, Site

PARTS = ("block", *INSIDE)


def check_layers(settings: LayerSettings) -> None:
    """What no model can be read by. Raises ConfigError."""
    for tower in settings.towers or ():
        if tower not in TOWERS:
            raise ConfigError(f"layers.towers names the unknown tower '{tower}'; {choices(tower, TOWERS)}")
    for part in settings.parts:
        if part not in PARTS:
            raise ConfigError(f"layers.parts names '{part}', which is unknown; {choices(part, PARTS)}")
    if not settings.parts:
        raise ConfigError(f"layers.parts is empty, so nothing would be read; name one of: {', '.join(PARTS)}")
    if settings.stride < 1:
        raise ConfigError(f"layers.stride={settings.stride} must be 1 or more")


def select_sites(settings: LayerSettings, anatomy: Anatomy) -> tuple[Site, ...]:
    """The sites asked for, in the order the data passes them. Raises ConfigError."""
    towers = anatomy.towers if settings.towers is None else settings.towers
    check_layers(settings)
    for tower in towers:
        if tower not in anatomy.towers:
            raise ConfigError(
                f"layers.towers names {tower}, which this model lacks; it has {', '.join(anatomy.towers)}"
            )
    _check_parts(settings, towers, anatomy)
    wanted = {tower: set(_layers(settings, tower, anatomy)) for tower in towers}
    parts = {*settings.parts, *(("norm",) if settings.norm else ())}
    return tuple(site for site in anatomy.sites() if site.layer in wanted.get(site.tower, ()) and site.part in parts)


def _check_parts(settings: LayerSettings, towers: Sequence[str], anatomy: Anatomy) -> None:
    for part in settings.parts:
        if part in INSIDE and not any(part in anatomy.inside.get(tower, ()) for tower in towers):
            raise ConfigError(f"layers.parts names {part}, and no block of {', '.join(towers)} has a separate one")


def _layers(settings: LayerSettings, tower: str, anatomy: Anatomy) -> range:
    if tower not in anatomy.blocks:
        return range(1)
    blocks = anatomy.blocks[tower]
    first, last = 0, blocks
    if settings.middle:
        first, last = round(blocks / 3), round(2 * blocks / 3)
    if settings.range is not None:
        if len(settings.range) != 2 or not 0 <= settings.range[0] <= settings.range[1] <= blocks:
            raise ConfigError(
                f"layers.range={settings.range} is out of range: the {tower} tower has the layers 0 to {blocks} "
                "(0 = embeddings), give [first,last]; layers.towers=[lm] leaves the other towers out"
            )
        first, last = settings.range
    return range(first, last + 1, settings.stride)


def select_keys(sites: Sequence[Site], positions: Sequence[str], anatomy: Anatomy) -> tuple[Key, ...]:
    """Every site with every position that exists there."""
    wanted = dict.fromkeys(positions)
    return tuple(Key(site, position) for site in sites for position in wanted if anatomy.has(site, position))


def check_keys(keys: Sequence[Key], sites: Sequence[Site], positions: Sequence[str]) -> tuple[str, ...]:
    """Towers that none of the positions reads, to be told to the user. Raises ConfigError where nothing is left."""
    for name, given in (("layers.towers", sites), ("extract.positions", positions)):
        if not given:
            raise ConfigError(f"{name} is empty, so nothing would be read; name at least one")
    if not keys:
        raise ConfigError(
            f"extract.positions={list(positions)} exist in none of the requested towers; picture towers have "
            f"{' and '.join(PICTURE_POSITIONS)}"
        )
    return tuple(sorted({site.tower for site in sites} - {key.site.tower for key in keys}))
