"""Conditions that change the states of a site, named as effects.csv names them; and which sites can be changed."""

from collections.abc import Iterable, Sequence
from typing import Any

from mllm_probe.errors import ConfigError, choices
from mllm_probe.records.interventions import Condition
from mllm_probe.records.sites import INSIDE, Anatomy, Site
from mllm_probe.records.spans import LAST, STATEMENT

READ_AT = {LAST: "last", STATEMENT: "tokens:text"}  # the position whose rows are the states of a span's tokens


def check_read(span: str) -> None:
    """Raises ConfigError for a span at whose tokens no direction is fitted."""
    if span not in READ_AT:
        raise ConfigError(f"intervention.span={span} is unknown; {choices(span, READ_AT)}")


def changeable(sites: Iterable[Site]) -> tuple[Site, ...]:
    """Those of the language model before its final norm, behind which nothing reads but the answer itself."""
    return tuple(site for site in sites if site.tower == "lm" and site.part in ("block", *INSIDE))


def check_sites(sites: Sequence[Site], anatomy: Anatomy) -> None:
    """Raises ConfigError for a site that the model lacks, and where none is left to change."""
    known = set(anatomy.sites())
    if lacking := [str(site) for site in sites if site not in known]:
        raise ConfigError(
            f"the site {lacking[0]} does not exist in this model, whose language model has {anatomy.blocks['lm']} "
            f"blocks with the parts {', '.join(('block', *anatomy.inside.get('lm', ())))}"
        )
    if not changeable(sites):
        raise ConfigError(
            "layers names no site of the language model whose states could be changed; take layers=lm, or others with "
            "layers.towers=[lm]"
        )


def at_site(kind: str, what: str, site: Site, anatomy: Anatomy, **more: Any) -> Condition:
    """A change of one site, which is its own first and last block; `more` are further fields."""
    layer = site.layer
    return Condition(kind, what, str(site), layer, layer, layer, anatomy.depth(site), **more)
