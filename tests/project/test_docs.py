"""The documentation holds: links lead somewhere, commands compose or run as they stand, programs and targets exist.

Every block of commands is fenced as bash and says how it is checked: `run` is executed here, in a folder that is empty
when its page begins; `compose` holds mllm-probe alone, whose settings are composed; `shell` holds other programs, too.
"""

import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from reference_sources import parser_of

from mllm_probe.cli.entry import COMMANDS, PLAIN, as_settings
from mllm_probe.config.schemas import register_schema, typed
from mllm_probe.files.paths import config_dir
from mllm_probe.results.score_file import COLUMNS
from mllm_probe.scoring.verdicts.best_layers import Test
from tests.support.markdown_pages import PAGES, ROOT, TAGS, Block, anchors, blocks, files, holds_commands, links, name

Test.__test__ = False  # a row of tests.csv, no test
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


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    """But for the second column of docs/extend.md, which says where files of the reader's would go."""
    text = re.sub(r"^\| `mylab/.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for file, _, function in re.findall(r"`((?:tests|scripts|mllm_probe|conf)/[\w/.]+)(::(\w+))?`", text):
        assert (ROOT / file).exists(), f"{name(page)} names {file}"
        assert not function or f"def {function}(" in (ROOT / file).read_text(), f"{name(page)} names {file}::{function}"


def test_every_column_of_the_results_is_explained() -> None:
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    firsts = {word for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    assert firsts == {*COLUMNS, *(field.name for field in fields(Test))}


def test_every_page_of_docs_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    pages = {page.relative_to(index.parent).as_posix() for page in PAGES if index.parent in page.parents}
    assert pages - {"README.md"} <= set(links(index))


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
    rest = as_settings(command, rest)
    if command in PLAIN:
        check_plain(parser_of(command), rest, where)
        return
    place = {"--config-dir", "--cfg", "-sc"}
    flags = {word for i, word in enumerate(rest) if word.startswith("-") or (i and rest[i - 1] in place)}
    if "--config-dir" in flags or "-sc" in flags:  # options of the reader's own: docs/extend.md is tried as a whole
        return
    register_schema(command.replace(" ", "_"))
    settings = [word for word in rest if word not in flags]
    if command == "report":
        settings = [word if "=" in word else f"run={word}" for word in settings]
    overrides = OverridesParser.create().parse_overrides(settings)
    (jobs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for job in jobs:
            typed(compose(command.replace(" ", "_"), overrides=list(job)), command.replace(" ", "_"))


def check_plain(parser: ArgumentParser, arguments: list[str], where: str) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as stop:
        assert not stop.code, f"{where}: {arguments}"


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", RUN, ids=name)
def test_what_a_page_runs_runs(page: Path, tmp_path: Path) -> None:
    """Its files are written first, then its blocks run one after the other in one folder."""
    for file, text in files(page).items():
        write(tmp_path / file, text)
    environment = shell(tmp_path / "bin", ROOT)
    for block in blocks(page):
        if block.tag == "run":
            done = bash(block.text, tmp_path, environment)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_recipes_hold_in_this_repository_too(tmp_path: Path) -> None:
    """The files of docs/extend.md where its table puts them, in a copy of the package; then all of them in two runs."""
    page = ROOT / "docs" / "extend.md"
    places = dict(re.findall(r"^\| `(mylab/\S+)` \| `(\S+)` \|$", page.read_text(), re.MULTILINE))
    assert len(places) == 7
    for folder in ("mllm_probe", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    (tmp_path / "mllm_probe" / "bundled").symlink_to(ROOT / "mllm_probe" / "bundled")
    for file, text in files(page).items():
        for ours, there in places.items():
            if ours.endswith(".py"):
                text = text.replace(f"_target_: {dotted(ours)}.", f"_target_: {dotted(there)}.")
        write(tmp_path / places.get(file, file), text)
    write(tmp_path / "checkpoints" / "keep", "")
    (tmp_path / "checkpoints" / "mine").symlink_to(ROOT / "mllm_probe" / "bundled" / "mini")
    commands = (
        "mllm-probe run model=mine task=several probe=neighbours experiment=smoke layers=lm",
        "python draw.py; mllm-probe run dataset=captioned dataset.root=pictures task.captions_per_picture=1 "
        "experiment=smoke layers=lm",
    )
    environment = shell(tmp_path / "bin", tmp_path)
    for command in commands:
        done = bash(command, tmp_path, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def dotted(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def shell(folder: Path, package: Path) -> dict[str, str]:
    """An environment in which `mllm-probe` is that of the package, and `python` is this one and finds it."""
    for program, arguments in (("mllm-probe", "-m mllm_probe"), ("python", "")):
        found = f"PYTHONPATH={package}:$PYTHONPATH exec {sys.executable} {arguments}"
        write(folder / program, f'#!/bin/sh\n{found} "$@"\n')
        (folder / program).chmod(0o755)
    kept = {word: value for word, value in os.environ.items() if word not in ("COLUMNS", "PYTHONPATH")}
    return kept | {"PATH": f"{folder}:{os.environ['PATH']}"}


def bash(text: str, folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
