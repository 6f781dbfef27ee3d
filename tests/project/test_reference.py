"""Pages and pictures that a program writes are what it writes now, and what it reads is all there is."""

from dataclasses import fields

import pytest
import write_map
from draw_concepts import drawings
from reference_sources import CONF, nodes, refusals
from write_reference import PAGE, known, page

from mllm_probe.cli.entry import COMMANDS
from mllm_probe.config.schemas import SCHEMAS, schema_of
from mllm_probe.files.reference import REFERENCE
from tests.support.markdown_pages import PAGES, anchors


@pytest.fixture(scope="module")
def text() -> str:
    return page()


def test_the_reference_is_up_to_date(text: str) -> None:
    assert PAGE.read_text(encoding="utf-8") == text, "the code or conf/ says something else now; run `make docs`"


def test_what_help_and_the_tab_key_know_is_up_to_date() -> None:
    assert REFERENCE.read_text(encoding="utf-8") == known(), (
        "the code or conf/ says something else now; run `make docs`"
    )


def test_the_map_is_up_to_date() -> None:
    assert write_map.PAGE.read_text(encoding="utf-8") == write_map.page(), (
        "a file says something else now; run `make docs`"
    )


def test_the_pictures_are_up_to_date() -> None:
    for path, drawn in drawings().items():
        assert path.read_text(encoding="utf-8") == drawn, "run `make docs`"


def test_every_command_setting_and_option_is_there(text: str) -> None:
    assert {f"mllm-probe-{command.replace(' ', '-')}" for command in COMMANDS} <= anchors(PAGE)
    for command in SCHEMAS:
        for field in fields(schema_of(command)):
            assert any(f"`{field.name}{end}" in text for end in ("`", ".", "=`")), field.name
    for path in CONF.glob("*/**/*.yaml"):
        assert f"(../conf/{path.relative_to(CONF)})" in text


def test_every_setting_of_an_option_is_a_row(text: str) -> None:
    for path in CONF.glob("*/*.yaml"):
        for place, node in nodes(path):
            for key in node.keys() - {"_target_"}:
                assert f"| `{place}.{key}` |" in text, f"{path}: {key}"


def test_what_is_allowed_is_what_the_refusals_say(text: str) -> None:
    """Of each way in which the code says it: a choice, a loop over names, an import inside a function, a bound."""
    found = {setting: what for module in refusals().values() for setting, what in module.items()}
    assert found["model.quantization"] == "`none`, `int8`, `nf4`"
    assert found["task.absent"] == "`random`, `popular`, `adversarial`"
    assert found["score.normalisation"] == "`own`, `compat`"
    assert found["sweep.draws"] == "1 to 1,000,000" and found["sweep.ci_level"] == "between 0 and 1"
    assert "| `model.quantization` | str | `nf4` | `none`, `int8`, `nf4` |" in text


def test_the_page_is_among_those_whose_links_are_checked() -> None:
    assert PAGE in PAGES
