"""Values that the type of a setting allows and nobody can mean are refused in one sentence, whatever the setting."""

import dataclasses
from collections.abc import Iterator

import pytest
from conftest import Run

from mllm_probe.compose import composed
from mllm_probe.config import SCHEMAS
from mllm_probe.errors import ConfigError

REFUSED = {
    "model.name=''": "model.name='' must not be empty",
    "model.name=' '": "model.name=' ' must not be empty",
    "model.path=''": "model.path='' must not be empty",
    "paths.outputs=''": "paths.outputs='' must not be empty",
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
    names = list(floats(SCHEMAS[command]))
    assert len(names) > 5 - (command == "tune")
    for name in names:
        with pytest.raises(ConfigError, match=f"{name}=-?(inf|nan) must be a finite number"):
            composed(command, [f"{name}={'nan' if len(name) % 2 else '-inf'}"])


def test_answers_are_a_word_a_label(probe: Run) -> None:
    for given in ("[1.5]", "[Yes,Yes]", "[Yes,YES]", "[a,b,c]", "[Yes,' ']", "3", "{yes: Yes}"):
        code, _, err = probe("inspect", f"extract.answers={given}", "n=1")
        assert code == 1 and "mllm-probe: extract.answers=" in err, err
