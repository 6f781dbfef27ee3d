"""Values that the type of a setting allows and nobody can mean are refused in one sentence, whatever the setting."""

import dataclasses
from collections.abc import Iterator

import pytest

from mllm_probe.config.compose import composed
from mllm_probe.config.schemas import SCHEMAS, schema_of
from mllm_probe.errors import ConfigError
from tests.support.runs import Run

REFUSED = {
    "model.name=''": "model.name='' must not be empty",
    "model.name=' '": "model.name=' ' must not be empty",
    "model.path=''": "model.path='' must not be empty",
    "paths.outputs=''": "paths.outputs='' must not be empty",
    "dataset.pictures=99999999999": "dataset.pictures=99999999999 must be 1 to 100,000",
    "random_draws=99999999999": "random_draws=99999999999 must be 1 to 1,000",
    "extract.workers=99999999999": "extract.workers=99999999999 must be 0 to 256",
    "extract.num_shards=99999999999": "extract.num_shards=99999999999 must be 1 to 100,000",
    f"sweep.seeds={[*range(1001)]}": f"sweep.seeds={[*range(1001)]} holds 1,001 numbers, and up to 1,000 are taken",
    "sweep.seeds=[1,[2]]": "each of sweep.seeds=[1,[2]] must be a plain value, without inner brackets",
    "layers.towers=[[lm]]": "each of layers.towers=[[lm]] must be a plain value, without inner brackets",
    "model.quantize=[{a: 1}]": "each of model.quantize=[{'a': 1}] must be a plain value",
    "~sweep": "'sweep' cannot be removed with ~; leave that word out",
    "~task": "'task' cannot be removed with ~",
    "extract.positions=[]": "extract.positions=[] must hold at least one; leave it out for its default",
    "extract.positions=[last,last]": "extract.positions=['last', 'last'] holds the same twice",
    "layers.towers=[]": "layers.towers=[] must hold at least one",
    "model.quantize=['']": "model.quantize=[''] holds an empty text",
    "extract.num_shards=99999999999999999999": "extract.num_shards=99999999999999999999 is too large a number",
    "dataset.seed=99999999999999999999": "dataset.seed=99999999999999999999 is too large a number",
    "extract.max_disk_gb=inf": "extract.max_disk_gb=inf must be a finite number",
    "extract.wait_s=nan": "extract.wait_s=nan must be a finite number",
    "probe.lambdas=[1,inf]": "probe.lambdas=inf must be a finite number",
    "plugins=[0,0]": "plugins=['0', '0'] holds the same twice",
    "plugins=[0]": "plugins names '0', which is no package that can be imported here",
    "plugins=[no.such]": "plugins names 'no.such', which is no package",
}


@pytest.mark.parametrize("word", REFUSED)
def test_an_odd_value_is_refused(word: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed("run", [word])
    assert str(error.value).startswith(REFUSED[word])


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("run", ["probe=mlp", "probe.widths=[32,99999999]"], "probe.widths=99999999 must be 1 to 8,192"),
        ("run", ["probe=ccs", "probe.restarts=99999999999"], "probe.restarts=99999999999 must be 1 to 10,000"),
        ("run", ["features=dci", "features.dci.random_sets=9999999"], "features.dci.random_sets=9999999 must be 0 to"),
        ("run", ["test.dataset=scenes", "test.dataset.pictures=9999999"], "test.dataset.pictures=9999999 must be 1 to"),
        ("geometry", ["geometry.permutations=9999999"], "geometry.permutations=9999999 must be 0 to 1,000,000"),
        ("align", ["align.documents=9999999"], "align.documents=9999999 must be 2 to 100,000"),
        ("tune", ["target=sugar", "target.documents=9999999"], "target.documents=9999999 must be 1 to 100,000"),
        ("tune", ["target=sugar", "target.width=9999999"], "target.width=9999999 must be 1 to 8,192"),
        ("tune", ["train.epochs=1e6"], "train.epochs=1000000.0 must be above 0, up to 10,000"),
        ("vision_score", ["encoders.mini.size=9999999"], "encoders.mini.size=9999999 must be 1 to 8,192"),
        ("vision_fit", ["fit.draws=99999999999"], "fit.draws=99999999999 must be 1 to 1,000,000"),
        ("vision_policy", ["policy.trials=99999999999"], "policy.trials=99999999999 must be 1 to 1,000,000"),
    ],
)
def test_what_would_never_end_is_refused(command: str, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        composed(command, words)
    assert str(error.value).startswith(said)


@pytest.mark.parametrize("command", SCHEMAS)
def test_what_is_set_today_is_not_odd(command: str) -> None:
    assert dataclasses.is_dataclass(composed(command, []))


def floats(kind: type, before: str = "") -> Iterator[str]:
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from floats(field.type, f"{before}{field.name}.")
        elif field.type in (float, float | None):
            yield f"{before}{field.name}"


@pytest.mark.parametrize("command", ["run", "geometry", "fidelity", "tune"])
def test_no_number_is_without_bounds(command: str) -> None:
    names = list(floats(schema_of(command)))
    assert len(names) > 5 - (command == "tune")
    for name in names:
        with pytest.raises(ConfigError, match=f"{name}=-?(inf|nan) must be a finite number"):
            composed(command, [f"{name}={'nan' if len(name) % 2 else '-inf'}"])


def test_answers_are_a_word_a_label(probe: Run) -> None:
    for given in ("[1.5]", "[Yes,Yes]", "[Yes,YES]", "[a,b,c]", "[Yes,' ']", "3", "{yes: Yes}"):
        code, _, err = probe("inspect", f"extract.answers={given}", "n=1")
        assert code == 1 and "mllm-probe: extract.answers=" in err, err
