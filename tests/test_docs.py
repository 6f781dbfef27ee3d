"""The documentation holds: links lead somewhere, commands compose or run as they stand, programs and targets exist.

Every block of commands is fenced as bash and says how it is checked: `run` is executed here, in a folder that is empty
when its page begins; `compose` holds mllm-probe alone, whose settings are composed; `shell` holds other programs, too.
"""

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from pages import COMMAND, PAGES, ROOT, TAGS, Block, anchors, blocks, holds_commands, links, name
from reference_sources import parser_of

from mllm_probe.cli import COMMANDS, PLAIN
from mllm_probe.config import register_schemas, typed
from mllm_probe.paths import config_dir

BLOCKS = [block for page in PAGES for block in blocks(page)]
TAGGED = [block for block in BLOCKS if block.tag in TAGS]
RUN = [page for page in PAGES if any(block.tag == "run" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)} links to {link}"
        assert target.is_relative_to(ROOT), f"{name(page)} links to {link}, outside of the repository"
        assert not anchor or anchor in anchors(target), f"{name(page)} links to {link}; there are {anchors(target)}"


def test_every_page_of_docs_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    assert {page.name for page in PAGES if page.parent == index.parent} - {"README.md"} <= set(links(index))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_of_commands_are_tagged(page: Path) -> None:
    for block in blocks(page):
        if block.info.startswith("bash") or holds_commands(block):
            assert block.info.startswith("bash") and block.tag in TAGS, (
                f"{block}: commands stand in a fence that says how they are checked, ```bash {'|'.join(TAGS)}"
            )
        if block.tag == "compose":
            assert all(words[0] == "mllm-probe" for words in block.commands), f"{block} holds other programs: shell"


@pytest.mark.parametrize("block", [block for block in TAGGED if block.tag != "run"], ids=str)
def test_commands_are_as_they_should_be(block: Block) -> None:
    for words in block.commands:
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        program, *arguments = words
        if program == "mllm-probe":
            check_command(arguments, str(block))
        elif program == "make":
            targets = [word for word in arguments if "=" not in word]
            assert all(f"\n{word}:" in (ROOT / "Makefile").read_text() for word in targets), f"{block}: {words}"
        elif program.startswith("python") and arguments[0].endswith(".py"):
            text = (ROOT / arguments[0]).read_text()
            flags = [word for word in arguments if word.startswith("--")]
            assert all(f'"{flag}"' in text for flag in flags), f"{block}: {words}"


def check_command(arguments: list[str], where: str) -> None:
    """The command exists and takes these arguments; the settings of a Hydra job are composed and typed."""
    n = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    command, rest = " ".join(arguments[:n]), arguments[n:]
    if command.startswith("-"):
        return
    assert command in COMMANDS, f"{where}: {command}"
    if command in PLAIN:
        check_plain(parser_of(command), rest, where)
        return
    place = {"--config-dir", "--cfg", "-sc"}
    flags = {word for i, word in enumerate(rest) if word.startswith("-") or (i and rest[i - 1] in place)}
    if "--config-dir" in flags or "-sc" in flags:  # options of the reader's own: docs/extend.md is tried as a whole
        return
    register_schemas()
    overrides = OverridesParser.create().parse_overrides([word for word in rest if word not in flags])
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for job in jobs:
            typed(compose(command.replace(" ", "_"), overrides=list(job)), command.replace(" ", "_"))


def check_plain(parser: ArgumentParser, arguments: list[str], where: str) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as stop:
        assert not stop.code, f"{where}: {arguments}"


@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_runs_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "mllm-probe"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m mllm_probe "$@"\n')
    script.chmod(0o755)
    inherited = {word: value for word, value in os.environ.items() if word != "COLUMNS"}
    environment = inherited | {"PATH": f"{script.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for block in blocks(page):
        if block.tag == "run":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
