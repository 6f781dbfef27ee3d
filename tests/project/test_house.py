"""The house rules a program can see: imports go down only, no cycles, short functions, short files."""

import ast
from itertools import combinations
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "mllm_probe"
FILES = sorted(PACKAGE.rglob("*.py"))
COMMANDS = sorted((PACKAGE / "commands").glob("*.py"))
TESTS = PACKAGE.parent / "tests"
BESIDES = {"support", "scripts", "project"}  # rooms of the tests alone
FLOORS = [
    {"records", "files", "errors"},
    {"config"},
    {"stats", "data", "cache"},
    {"results"},
    {"probes", "tasks"},
    {"features"},
    {"models"},
    {"extraction", "train"},
    {"experiment"},
    {"fitting"},
    {"scoring", "interventions"},
    {"geometry", "spatial"},
    {"vision", "sugar"},
    {"comparison", "machine"},
    {"report"},
    {"loggers"},
    {"commands"},
    {"cli"},
    {"api"},
    {"__main__"},
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {
    "transformers": {"models"},
    "bitsandbytes": {"models"},
    "diffusers": {"models"},
    "hydra": {"cli", "config"},
    "rich": {"report"},
    "peft": {"train"},
    "tensorboard": {"loggers"},
    "wandb": {"loggers"},
    "mlflow": {"loggers"},
}
LONGEST_COMMAND = 120  # lines, so that it is read from top to bottom
MOST_FILES = 16  # of a folder, `__init__` among them
SUFFIXES = {"", "e", "y", "s", "es", "d", "ed", "r", "er", "ers", "ing", "ment", "ments", "ion", "ions", "ity", "al"}


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    here = room_of(path)
    if here == "__init__":
        return
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "mllm_probe" and len(parts) > 1:
            there = parts[1]
            assert there == here or FLOOR[there] < FLOOR[here] or FLOOR[here] == 0 == FLOOR[there], module
        assert here in ONLY_IN.get(parts[0], {here}), f"{parts[0]} belongs in {ONLY_IN.get(parts[0])}"


def test_no_import_cycles() -> None:
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): imports(path)
        for path in FILES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, f"cycle: {' -> '.join((*trail, module))}"
        if module in graph and module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_a_folder_holds_few_files_and_the_package_itself_hardly_any() -> None:
    inside = {path.name for path in PACKAGE.glob("*.py*") if path.is_file()}
    assert inside == {"__init__.py", "__init__.pyi", "__main__.py", "api.py", "errors.py"}
    for folder in {path.parent for path in FILES} - {PACKAGE, PACKAGE / "commands"}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder


@pytest.mark.parametrize("path", COMMANDS, ids=lambda p: p.stem)
def test_a_command_is_short_and_leaves_no_work_to_another(path: Path) -> None:
    assert path.read_text().count("\n") <= LONGEST_COMMAND
    assert not [module for module in imports(path) if module.startswith("mllm_probe.commands")]


def test_no_two_names_of_files_differ_by_a_suffix_alone() -> None:
    names = sorted({path.stem for path in FILES})
    for name, other in combinations(names, 2):
        same = next((i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), len(name))
        assert same < 3 or not {name[same:], other[same:]} <= SUFFIXES, f"{name}, {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stop_at_300_lines_and_functions_at_40(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)), "a file opens with what it is"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            assert body[-1].end_lineno - body[0].lineno < 40, node.name


def test_tests_mirror_the_rooms() -> None:
    """tests/<room>/test_<file>.py or test_<file>_<what of it>.py; `test_<room>` is of the room as a whole."""
    for path in TESTS.rglob("test_*.py"):
        room = path.parent.relative_to(TESTS)
        if room.parts[:1] and room.parts[0] in BESIDES:
            continue
        stems = {file.stem for file in (PACKAGE / room).glob("*.py")} | {room.name}
        name = path.stem.removeprefix("test_")
        assert any(name == stem or name.startswith(f"{stem}_") for stem in stems), path
