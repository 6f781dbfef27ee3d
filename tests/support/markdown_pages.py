"""What stands in the Markdown files: code blocks, links, anchors; and how a command is picked out of a block."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for folder in (".", "docs", "docs/design", "outputs", "mllm_probe/bundled/*", ".github")
    for path in ROOT.glob(f"{folder}/*.md")
)
TAGS = ("run", "compose", "shell")
PROGRAMS = ("mllm-probe", "python", "python3", "pip", "make", "git")
COMMAND = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{'|'.join(PROGRAMS)})(?: |$)")


@dataclass(frozen=True)
class Block:
    """A code block; `info` is what stands behind its fence, `above` the paragraph before it."""

    path: Path
    line: int
    info: str
    text: str
    above: str

    def __str__(self) -> str:
        return f"{name(self.path)}:{self.line}"

    @property
    def tag(self) -> str:
        return self.info.removeprefix("bash").strip()

    @property
    def commands(self) -> list[list[str]]:
        """Its commands as the shell would hand them over, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines for words in _commands(line)]


def _commands(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word != "&&":
            words.append(word)
        elif words:
            yield words
            words = []


def files(path: Path) -> dict[str, str]:
    """{name: content} of the files that a page holds: a block below a line that is the name and nothing else."""
    named = [(re.fullmatch(r"`([\w/.]+\.\w+)`", block.above), block.text) for block in blocks(path)]
    return {found[1]: text for found, text in named if found}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tokens(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))


def blocks(path: Path) -> Iterator[Block]:
    above = ""
    for token in tokens(path):
        if token.type == "inline":
            above = token.content
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            yield Block(path, token.map[0] + 1, token.info.strip(), token.content, above)
            above = ""


def holds_commands(block: Block) -> bool:
    return any(COMMAND.match(line) for line in block.text.splitlines())


def links(path: Path) -> Iterator[str]:
    for token in tokens(path):
        for child in token.children or ():
            yield from (str(child.attrs[key]) for key in ("href", "src") if key in child.attrs)


@cache
def anchors(path: Path) -> frozenset[str]:
    """The names that GitHub gives to the headings."""
    seen: Counter[str] = Counter()
    found = set()
    inside = False
    for token in tokens(path):
        if token.type == "inline" and inside:
            text = "".join(child.content for child in token.children or () if child.type in ("text", "code_inline"))
            slug = "".join(c for c in text.lower() if c.isalnum() or c in " -_").replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        inside = token.type == "heading_open"
    return frozenset(found)
