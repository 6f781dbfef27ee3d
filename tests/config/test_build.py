"""Every option composes into what its builder accepts; everything misspelt is refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mllm_probe.config.build import MOVED, build, first_named
from mllm_probe.config.model import ModelSettings, PromptSettings
from mllm_probe.config.run import LayerSettings, plain, run_digest
from mllm_probe.errors import ConfigError
from mllm_probe.extraction.estimate import check_keys, select_keys, select_sites
from mllm_probe.models.loading.checkpoint import check_settings
from mllm_probe.models.prompts.prompt import check_position
from mllm_probe.records.protocols import Dataset, Feature, Probe, Task
from mllm_probe.records.samples import Decision, Examples
from mllm_probe.records.sites import Anatomy, Key, Site
from mllm_probe.train.follow_up import followers
from mllm_probe.train.material import Target
from mllm_probe.train.preparation import check_tune
from tests.support.configs import CONF, composed

OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if not path.parent.name.startswith(("hydra", "encoder", "labels", "intervention"))
)
TUNED = [one for one in OPTIONS if one[0] == "target" or one == ("experiment", "sugar_arms")]  # of tune, not of run
ANATOMY = Anatomy({"vision": 24, "lm": 32}, {"vision": 1024, "connector": 4096, "lm": 4096}, True, 4096)


@pytest.mark.parametrize(("group", "option"), [one for one in OPTIONS if one not in TUNED], ids="=".join)
def test_every_option_composes_and_builds(group: str, option: str) -> None:
    config = composed(f"{group}={option}")
    check_settings(config.model, config.prompt)
    build(config.dataset, Dataset)
    build(config.task, Task)
    build(config.probe, Probe)
    for name, node in config.features.items():
        build(node, Feature, name=name).arms(24, 23)
    assert select_sites(config.layers, ANATOMY)
    for position in config.extract.positions:
        check_position(position)


@pytest.mark.parametrize(("group", "option"), TUNED, ids="=".join)
def test_every_option_of_a_training_composes_and_builds(group: str, option: str) -> None:
    config = composed(f"{group}={option}", command="tune")
    check_tune(config)
    assert followers(config).keys() == config.after.keys()
    name, _, _size = option.partition("_")
    assert build(config.target, Target, connector=config.connector, labels=config.labels).name == name


def test_every_encoder_composes_under_its_own_name() -> None:
    names = sorted(path.stem for path in CONF.glob("encoder/*.yaml"))
    encoders = composed(f"encoder=[{','.join(names)}]", command="vision_score").encoders
    assert sorted(encoders) == names and len(names) > 5
    assert all((one.hub_id or one.bundled) is not None for name, one in encoders.items() if name != "custom")
    assert composed("encoder=clip_l14", command="vision_score").mllms == {}, "mini's model goes with mini"


@pytest.mark.parametrize("command", ["run", "extract", "sweep"])
def test_the_halves_take_the_settings_of_the_whole(command: str) -> None:
    assert plain(composed(command=command)) == plain(composed())


def test_the_run_digest_counts_science_and_not_places() -> None:
    def one(*overrides: str, cache: str = "c", decisions: tuple[str, ...] = ("d",)) -> str:
        asked = tuple(Decision(uid, "s", "caption", 1, "p") for uid in decisions)
        return run_digest(composed(*overrides), cache, Examples((), asked, {"p": 0}))

    same = [
        "paths.outputs=/elsewhere",
        "report.pictures=none",
        "device=cpu",
        "dataset.root=/there",
        "extract.micro_batch=7",
        "sweep.max_memory_gb=1",
        "model.path=/here",
    ]
    assert len({one("dataset=coco"), *(one("dataset=coco", place) for place in same)}) == 1
    assert len({one(), one("sweep.seeds=[7]"), one("task=objects"), one(cache="x"), one(decisions=("e",))}) == 5
    assert len({one(), one("features=sci"), one("features=sci", "features.sci.seed=1")}) == 3


def test_plus_typo_is_refused_at_every_depth() -> None:
    for override in ("+typo=1", "+model.typo=1", "+sweep.typo=1"):
        with pytest.raises(ConfigError, match="typo' is no setting"):
            composed(override)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"_target_": "os.system", "command": "true"}, "_target_=os.system is refused: list its package in plugins"),
        ({"_target_": "mllm_probe.probes.logistic.Logistik"}, "cannot be imported"),
        ({"_target_": "mllm_probe.probes.logistic.Logistic", "lamdas": [1]}, "did you mean 'lambdas'"),
        ({"_target_": "mllm_probe.data.coco.Coco"}, "Coco is no Probe: it lacks fit"),
        ({"_target_": "mllm_probe.data.scenes.Scenes", "pictures": "3"}, "pictures='3' must be a whole number"),
        ({"_target_": "mllm_probe.probes.solving.iterates.GAP"}, "is no class"),
        ({}, "probe is {}; it needs a _target_"),
        ("logistic", "probe is 'logistic'; it needs a _target_"),
        (None, "probe is null; it needs a _target_"),
    ],
)
def test_build_refuses(node: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(node, Probe)


def test_plugins_open_their_package_and_no_other() -> None:
    node = {"_target_": "collections.Counter"}
    with pytest.raises(ConfigError, match="is no Probe"):
        build(node, Probe, plugins=("collections",))


def sites(**settings: Any) -> list[str]:
    return [str(site) for site in select_sites(LayerSettings(**settings), ANATOMY)]


def test_layer_selection() -> None:
    everything = sites()
    assert everything[:2] == ["vision.00", "vision.01"] and everything[-1] == "lm.32.norm"
    assert len(everything) == 25 + 1 + 33 + 1
    assert sites(towers=["lm"], range=[8, 12], stride=2) == ["lm.08", "lm.10", "lm.12"]
    assert sites(towers=["lm"], middle=True) == [f"lm.{i:02d}" for i in range(11, 22)]
    assert sites(towers=["lm"], range=[32, 32]) == ["lm.32", "lm.32.norm"]
    assert sites(towers=["connector"]) == ["connector"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"range": [8, 33], "towers": ["lm"]},
            r"layers.range=\[8, 33\] is out of range: the lm tower has the layers 0 to 32",
        ),
        ({"range": [5]}, "give \\[first,last\\]"),
        ({"range": [9, 3]}, "out of range"),
        ({"towers": ["eyes"]}, "unknown tower 'eyes'; choose one of: connector, lm, qformer, vision"),
        ({"stride": 0}, "layers.stride=0 must be 1 or more"),
    ],
)
def test_bad_layers(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sites(**settings)


def test_picture_towers_have_picture_positions_only() -> None:
    found = (Site("vision", 3), Site("connector"), Site("lm", 2))
    keys = select_keys(found, ["last", "mean_image"], ANATOMY)
    assert [str(key) for key in keys] == [
        "vision.03@mean_image",
        "connector@mean_image",
        "lm.02@last",
        "lm.02@mean_image",
    ]
    assert check_keys(select_keys(found, ["last"], ANATOMY), found, ["last"]) == ("connector", "vision")
    with pytest.raises(ConfigError, match=r"extract.positions=\['last'\] exist in none of the requested towers"):
        check_keys((), found[:1], ["last"])


@pytest.mark.parametrize(
    "name", ["lm.07@last", "lm.32.norm@mark:object", "connector@mean_image", "vision.00@last_image"]
)
def test_key_names_round_trip(name: str) -> None:
    assert str(Key.parse(name)) == name


def test_bad_positions_and_model_settings() -> None:
    with pytest.raises(ConfigError, match="position 'lats' is unknown; did you mean 'last'"):
        check_position("lats")
    with pytest.raises(ConfigError, match="position 'mark:' is unknown"):
        check_position("mark:")
    with pytest.raises(ConfigError, match="model.quantization=fp4 is unknown; .*choose one of: int8, nf4, none"):
        check_settings(ModelSettings(quantization="fp4"), PromptSettings())
    with pytest.raises(ConfigError, match="model.quantize=eyes is unknown"):
        check_settings(ModelSettings(quantize=["eyes"]), PromptSettings())


def test_conf_files_say_what_they_are() -> None:
    for path in CONF.rglob("*.yaml"):
        if path.parent != CONF:
            text = path.read_text().removeprefix("# @package _global_\n")
            assert text.startswith("# "), f"{path} opens with a comment"


def test_composed_configs_are_readable_yaml(tmp_path: Path) -> None:
    assert "task:" in OmegaConf.to_yaml(OmegaConf.structured(composed()))


def test_a_class_that_moved_is_built_by_its_old_name_and_changes_no_digest() -> None:
    for old, new in MOVED.items():
        expected = Target if "tuning" in old else Feature
        assert type(build({"_target_": old}, expected)) is type(build({"_target_": new}, expected))
        assert first_named({"a": [{"_target_": new, "b": 1}]}) == {"a": [{"_target_": old, "b": 1}]}
    ours = composed("features=[sci,dci]")
    assert {node["_target_"] for node in plain(ours)["features"].values()} <= set(MOVED)
