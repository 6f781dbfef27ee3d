"""`intervene` as it is composed, and what it refuses before any file is read."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mllm_probe.cli.perform import CHECKS
from mllm_probe.config.compose import composed
from mllm_probe.errors import ConfigError
from mllm_probe.files.paths import config_dir
from mllm_probe.interventions.kinds import Sweepable
from mllm_probe.interventions.knockout import Knockout
from mllm_probe.interventions.patching import Patching
from mllm_probe.interventions.request import check_intervene, check_model, intervention_of
from mllm_probe.interventions.steering import Steering
from mllm_probe.records.sites import Anatomy

OPTIONS = sorted(path.stem for path in (config_dir() / "intervention").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_builds_what_the_code_has_for_a_default(option: str) -> None:
    config = composed("intervene", [f"intervention={option}"])
    check_intervene(config)
    found = intervention_of(config)
    assert found.name == option

    def settings(one: Any) -> dict[str, Any]:
        return {name: tuple(x) if isinstance(x, list | tuple) else x for name, x in vars(one).items()}

    assert settings(found) == settings(type(found)())


def test_knockout_on_captions_is_what_is_asked_without_a_word() -> None:
    config = composed("intervene", [])
    assert isinstance(intervention_of(config), Knockout) and config.local is None and config.layers.towers == ["lm"]
    assert str(config.task["_target_"]).endswith("Entailment") and CHECKS["intervene"] == "interventions.request"


@pytest.mark.parametrize(
    "edges",
    ["[image->last,mark:caption->last]", "[image->last, mark:caption->last ]", "['image->last','mark:caption->last']"],
)
def test_edges_are_read_with_quotes_and_without(edges: str) -> None:
    found = intervention_of(composed("intervene", [f"intervention.edges={edges}"]))
    assert isinstance(found, Knockout) and list(found.edges) == ["image->last", "mark:caption->last"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["intervention.edges=[image->wrods]"], "intervention.edges names the span 'wrods', which is unknown"),
        (["intervention.window=many"], "intervention.window='many' must be a whole number"),
        (["intervention.random_draws=1001"], "intervention.random_draws=1001 must be 0 to 1,000"),
        (["intervention=steering", "intervention.strengths=[1,inf]"], "intervention.strengths=inf must be a finite"),
        (
            ["intervention=erasure", "+intervention.draws=3"],
            "'draws' is no setting of mllm_probe.interventions.erasure",
        ),
        (["intervene.pictures=0"], "intervene.pictures=0 must be 1 or more"),
        (["intervene.least=1"], "intervene.least=1 must be 2 or more"),
        (["intervene.seed=-1"], "intervene.seed=-1 must be 0 or more"),
        (["task=study"], "intervene reads one task"),
        (["extract.answers=null"], "extract.answers=null names no answer"),
        (["model.attn=flash_attention_2"], "model.attn=flash_attention_2 cannot be told of single edges"),
        (["layers.towers=[vision]"], "layers.towers=['vision'] leaves out lm"),
        (["probe_run=no/such"], "probe_run=no/such holds no scores.csv"),
        (["probe_run=''"], "probe_run='' must not be empty"),
        (["report.metric=auroc"], "report.metric does nothing here"),
    ],
)
def test_what_nobody_can_mean_is_refused_in_a_sentence(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_intervene(composed("intervene", words))
    assert str(error.value).startswith(said)


def test_a_folder_of_a_run_may_be_named_and_other_attention_is_no_matter_without_edges(tmp_path: Path) -> None:
    folder = tmp_path / "a run, of today"
    folder.mkdir()
    (folder / "scores.csv").touch()
    check_intervene(
        composed("intervene", [f"probe_run={folder}", "intervention=erasure", "model.attn=flash_attention_2"])
    )


class OfOnesOwn(Sweepable):
    """Says what it is given."""

    name: ClassVar[str] = "own"
    spans: ClassVar[tuple[str, ...]] = ("image",)  # type: ignore[misc]

    def measured(self, own: Any) -> Any:
        return own, {}


class Lacking:
    name = "lacking"


def test_a_kind_of_ones_own_needs_its_class_alone() -> None:
    config = composed("intervene", ["model.attn=flash_attention_2"])
    config = replace(config, plugins=["tests"], intervention={"_target_": f"{__name__}.OfOnesOwn"})
    check_intervene(config)
    kind = intervention_of(config)
    assert kind.position is None and kind.measured("given") == ("given", {})  # type: ignore[arg-type, comparison-overlap]
    check_model(kind, Anatomy({"lm": 8}, {"lm": 8}, True, 99))
    with pytest.raises(ConfigError, match="span 'image' of intervention=own does not exist"):
        check_model(kind, Anatomy({"lm": 8}, {"lm": 8}, True, 99, crossed=True))
    with pytest.raises(ConfigError, match="Lacking is no Sweepable: it lacks check, cuts, measured, position, spans"):
        intervention_of(replace(config, intervention={"_target_": f"{__name__}.Lacking"}))


def test_what_the_model_lacks_is_refused() -> None:
    plain = Anatomy({"lm": 8}, {"lm": 8}, True, 99)
    crossed = Anatomy({"lm": 8}, {"lm": 8}, True, 99, crossed=True)
    check_model(Knockout(), plain)
    check_model(Steering(), crossed)
    for kind, anatomy, parts, said in (
        (Knockout(window=9), plain, ["block"], "intervention.window=9 is out of range"),
        (Knockout(), crossed, ["block"], "the span 'image' of intervention=knockout does not exist"),
        (Patching(), crossed, ["block"], "the span 'image' of intervention=patching does not exist"),
        (Patching(), plain, ["block", "attn"], "layers.parts names attn, and no block of the language model"),
    ):
        with pytest.raises(ConfigError) as error:
            check_model(kind, anatomy, parts)
        assert str(error.value).startswith(said)
