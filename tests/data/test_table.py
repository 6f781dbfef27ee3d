"""Tables of questions: every format reads alike, and every fault is a sentence with its row."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import joined
from mllm_probe.data.table import Table
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.records.samples import Collection
from tests.support.runs import REAL

POPE = REAL / "pope_subset"
ROWS = [
    {"picture": "0.png", "text": "What is this?", "label": "cat", "film": "a"},
    {"picture": "1.png", "text": "What, then?", "label": "dog", "film": "b"},
    {"picture": "0.png", "text": "And here?", "label": "no", "film": "b"},
    {"picture": "2.png", "text": "Who?", "label": "me", "film": ""},
]


def pictures(root: Path, n: int = 4) -> Path:
    (root / "pics").mkdir(parents=True)
    for number in range(n):
        Image.new("L", (6, 5), 30 * number).save(root / "pics" / f"{number}.png")
    return root


def write(root: Path, rows: list[Any], ending: str = ".jsonl") -> Table:
    file = pictures(root) / f"asked{ending}"
    if ending == ".csv":
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif ending == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file.write_text(f"[{','.join(lines)}]" if ending == "list.json" else "\n".join(lines))
    return Table(str(root), file.name, "pics")


def load(table: Table, **selection: Any) -> Collection:
    root = Path(table.root or "")
    return table.load(root / "out", Selection(**selection), Digests(root / "digests.json"))


@pytest.mark.parametrize(
    ("ending", "first"), [(".jsonl", 1), (".json", 1), ("list.json", 1), (".csv", 2), (".parquet", 1)]
)
def test_every_format_holds_the_same_rows(tmp_path: Path, ending: str, first: int) -> None:
    collection = load(write(tmp_path / "t", ROWS, ending))
    found = [(row.picture.id, row.text, row.label, row.number) for row in collection.rows]
    assert found == [(r["picture"], r["text"], r["label"], first + i) for i, r in enumerate(ROWS)]
    assert [picture.id for picture in collection.pictures] == ["0.png", "1.png", "2.png"]
    assert (collection.name, collection.categories, collection.skipped) == ("table", (), ())
    assert all(picture.group == picture.digest and picture.categories is None for picture in collection.pictures)
    assert not collection.contradicts(collection.pictures[0], "What is this?")


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_may_be_a_part_of_one_object(tmp_path: Path, indent: int | None) -> None:
    table = write(tmp_path / "t", ROWS, ".json")
    file = tmp_path / "t" / "asked.json"
    file.write_text(json.dumps({"version": "1.0", "names": ["a"], "data": ROWS}, indent=indent))
    assert [(row.text, row.number) for row in load(table).rows] == [(r["text"], i) for i, r in enumerate(ROWS, 1)]
    file.write_text(json.dumps({"train": ROWS, "test": ROWS}, indent=indent))
    with pytest.raises(
        DataError, match=r"asked.json holds several lists of rows \(train, test\); save the right one in its own file"
    ):
        load(table)
    file.write_text(json.dumps({**ROWS[0], "label": ["a", "b"]}))
    assert [row.label for row in load(table).rows] == [("a", "b")], "a single row is no list of rows"


def test_labels_keep_their_kind_and_cells_of_csv_are_words(tmp_path: Path) -> None:
    labels = ["cat ", 3, 2.5, True, ["b", "a", "b"], []]
    rows = [{"picture": "0.png", "text": f"{i}?", "label": label} for i, label in enumerate(labels)]
    found = [row.label for row in load(write(tmp_path / "t", rows)).rows]
    assert found == ["cat", 3.0, 2.5, "true", ("b", "a"), ()] and type(found[1]) is float
    cells = [{"picture": "0.png", "text": "?", "label": label} for label in ("3", "a;b")]
    assert [row.label for row in load(write(tmp_path / "c", cells, ".csv")).rows] == ["3", "a;b"]


def test_rows_of_a_csv_count_lines_of_the_file(tmp_path: Path) -> None:
    table = write(tmp_path / "t", [{**ROWS[0], "text": "one\ntwo"}, ROWS[1]], ".csv")
    file = tmp_path / "t" / "asked.csv"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\r\n" + b"3.png,Why?,so,b\r\n")
    assert [(row.number, row.text) for row in load(table).rows] == [(2, "one\ntwo"), (4, "What, then?"), (6, "Why?")]


@pytest.mark.parametrize("ending", ["list.json", ".jsonl"])
@pytest.mark.parametrize("column", ["picture", "text", "label", "other"])
def test_half_a_character_is_a_bad_row(tmp_path: Path, ending: str, column: str) -> None:
    """In a label it met the file of predictions, after all the work."""
    rows = [{"picture": f"{i}.png", "text": "?", "label": "a", "other": "x"} for i in range(2)]
    table = write(tmp_path, [rows[0], {**rows[1], column: "\ud800"}, {**rows[1], "text": "\U0001f600"}], ending)
    with pytest.raises(DataError, match=r"row 2 holds half a character \(a lone surrogate\); fix it, or leave such"):
        load(table)
    assert [row.text for row in load(table, on_bad_row="skip").rows] == ["?", "\U0001f600"]


@pytest.mark.parametrize("cell", ["1" + 400 * "0", "1e400", "NaN"])
def test_numbers_without_bounds_in_other_columns_are_nothing(tmp_path: Path, cell: str) -> None:
    table = write(tmp_path, [f'{{"picture": "0.png", "text": "?", "label": "a", "n": {cell}, "m": 2}}'])
    (row,) = load(table).rows
    assert row.columns.get("m") == 2.0 and "n" not in row.columns


def test_other_columns_and_whole_paths(tmp_path: Path) -> None:
    root = pictures(tmp_path / "t")
    file = tmp_path / "elsewhere.jsonl"
    file.write_text('{"image": "pics/1.png", "q": "Why?", "a": 1}')
    table = Table(str(root), str(file), picture_column="image", text_column="q", label_column="a", name="mine")
    (row,) = load(table).rows
    assert (row.picture.path, row.text, row.label) == (root / "pics" / "1.png", "Why?", 1.0)
    assert load(table).name == "mine"


def test_the_same_bytes_are_one_picture(tmp_path: Path) -> None:
    table = write(tmp_path / "t", ROWS)
    pics = tmp_path / "t" / "pics"
    (pics / "2.png").write_bytes((pics / "0.png").read_bytes())
    collection = load(table)
    assert [picture.id for picture in collection.pictures] == ["0.png", "1.png"]
    assert [row.picture.id for row in collection.rows] == ["0.png", "1.png", "0.png", "0.png"]


def test_pictures_connected_by_group_values_are_one_group(tmp_path: Path) -> None:
    """0 and 1 share film b (0 by its second row); 2 and 3 have none, which does not join them."""
    rows = [*ROWS, {**ROWS[3], "picture": "3.png", "film": None}]
    plain = write(tmp_path / "t", rows)
    found = {p.id: p for p in load(Table(plain.root, plain.file, "pics", group_column="film")).pictures}
    assert found["0.png"].group == found["1.png"].group == min(found["0.png"].digest, found["1.png"].digest)
    assert all(found[name].group == found[name].digest for name in ("2.png", "3.png"))


def test_joined_follows_chains_to_the_smallest_member() -> None:
    pairs = [("e", "d"), ("b", "c"), ("d", "c"), ("g", "f"), ("e", "b")]
    expected = dict.fromkeys("bcde", "b") | {"a": "a", "f": "f", "g": "f"}
    assert joined("gfedcba", pairs) == joined("abcdefg", pairs[::-1]) == expected


def test_whole_pictures_are_drawn_by_seed(tmp_path: Path) -> None:
    table = write(tmp_path / "t", ROWS)
    drawn = [tuple(row.picture.id for row in load(table, n=2, seed=seed).rows) for seed in (0, 0, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1
    assert all(len(set(ids)) == 2 and ids.count("0.png") in (0, 2) for ids in drawn)
    assert len(load(table, n=99).pictures) == 3
    (tmp_path / "t" / "asked.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS[::-1]))
    again = [sorted(row.picture.id for row in load(table, n=2, seed=seed).rows) for seed in (0, 1, 2, 3, 4)]
    assert again == [sorted(ids) for ids in drawn[1:]]


BAD = {
    "asked.jsonl, row 2 is not JSON": '{"picture": ',
    "asked.jsonl, row 2 is no JSON object, found 7": "7",
    "row 2: the column 'label' is missing, found picture, text": {"picture": "0.png", "text": "?"},
    "row 2: 'text' is empty, but must be the text": {"picture": "0.png", "text": " ", "label": "x"},
    "row 2: 'label' is empty, but must be a word": {"picture": "0.png", "text": "?", "label": None},
    "row 2: 'label' is 'nan', but must be a word, a finite number": {
        "picture": "0.png",
        "text": "?",
        "label": float("nan"),
    },
    "row 2: 'label' is \"\\['a', 1\\]\", but must be": {"picture": "0.png", "text": "?", "label": ["a", 1]},
    "row 2: 'picture' is '5', but must be the file name": {"picture": 5, "text": "?", "label": "x"},
    "row 2: picture .*9.png is missing; put the file there": {"picture": "9.png", "text": "?", "label": "x"},
    "row 2: 'aaaa+' is no file name that can be opened": {"picture": "a" * 5000, "text": "?", "label": "x"},
    "row 2: 'a.x00b' is no file name that can be opened": {"picture": "a\0b", "text": "?", "label": "x"},
    "row 2: 'label' is '10+', but must be a word, a finite number": {"picture": "0.png", "text": "?", "label": 10**400},
    "asked.jsonl, row 2 is not JSON .Exceeds the limit": '{"label": ' + "9" * 5000 + "}",
    "row 2: picture name '../x.png' leads outside": {"picture": "../x.png", "text": "?", "label": "x"},
    "row 2: picture .*broken.png cannot be decoded": {"picture": "broken.png", "text": "?", "label": "x"},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_row_is_named_or_left_out(tmp_path: Path, message: str) -> None:
    table = write(tmp_path / "t", [ROWS[0], BAD[message], ROWS[1]])
    (tmp_path / "t" / "pics" / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=f"{message}.*, or leave such rows out with data.on_bad_row=skip") as caught:
        load(table)
    assert "\n" not in str(caught.value)
    collection = load(table, on_bad_row="skip")
    assert [row.number for row in collection.rows] == [1, 3]
    assert len(collection.skipped) == 1 and "asked.jsonl, row 2" in collection.skipped[0]


def test_a_missing_picture_is_told_once_for_all_its_rows(tmp_path: Path) -> None:
    table = write(tmp_path / "t", ROWS)
    (tmp_path / "t" / "pics" / "0.png").unlink()
    collection = load(table, on_bad_row="skip")
    assert [row.picture.id for row in collection.rows] == ["1.png", "2.png"]
    (said,) = collection.skipped
    assert "asked.jsonl, row 1 and 1 more: picture" in said


def test_a_csv_row_of_another_length_is_named(tmp_path: Path) -> None:
    table = write(tmp_path / "t", ROWS[:1], ".csv")
    file = tmp_path / "t" / "asked.csv"
    file.write_text(file.read_text() + "1.png,What, then?,dog,b\n")
    with pytest.raises(DataError, match="asked.csv, row 3 has 5 cells where the header has 4; quote cells"):
        load(table)
    file.write_text("picture,text,text,label\n0.png,What?,Why?,cat\n")
    with pytest.raises(DataError, match="asked.csv, row 1 names the column 'text' twice"):
        load(table)
    file.write_text('picture,text,label\n0.png,"What\n')
    with pytest.raises(DataError, match="asked.csv, row 2 is not CSV"):
        load(table)


def test_wrong_settings_and_files_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "t")
    write_text = lambda name, text: (root / name).write_bytes(text.encode("latin-1"))  # noqa: E731
    write_text("a.jsonl", '\n{"image": "0.png", "text": "?", "label": "x"}')
    write_text("list.json", "[{]")
    write_text("empty.csv", "picture,text,label\n")
    write_text("x.txt", "")
    write_text("latin.jsonl", '{"text": "é"}')
    write_text("x.parquet", "no")
    for table, message in [
        (Table(name="mine"), "dataset=mine needs dataset.root=FOLDER and dataset.file=FILE"),
        (Table(str(root)), "needs dataset.root=FOLDER and dataset.file=FILE"),
        (Table(str(root), "no.csv"), "no.csv is missing; put the file there, or name another"),
        (Table(str(root), "x.txt"), r"extension '.txt'; choose one of: .csv, .json, .jsonl, .parquet"),
        (
            Table(str(root), "a.jsonl"),
            r"a.jsonl, row 2 and all others: no column .picture. \(dataset.picture_column\); .*: image, text, label",
        ),
        (Table(str(root), "list.json"), "list.json is not JSON"),
        (Table(str(root), "empty.csv"), "empty.csv holds no row"),
        (Table(str(root), "latin.jsonl"), "latin.jsonl is no UTF-8 text"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            load(table, on_bad_row="skip")
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"x.parquet needs pyarrow; pip install 'mllm-probe\[parquet\]'"):
        load(Table(str(root), "x.parquet"))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(DataError, match="x.parquet is not parquet"):
        load(Table(str(tmp_path), "x.parquet"))


def test_nothing_usable_left(tmp_path: Path) -> None:
    table = write(tmp_path / "t", [{**ROWS[0], "picture": "9.png"}])
    with pytest.raises(DataError, match=r"no usable row is left in .*asked.jsonl \(1 skipped, the first: "):
        load(table, on_bad_row="skip")


@pytest.mark.realdata
@pytest.mark.skipif(not POPE.is_dir(), reason=f"{POPE} is absent; set MLLM_PROBE_REAL_DATA to the folder with it")
@pytest.mark.parametrize("file", ["random", "popular", "adversarial"])
def test_published_pope_questions_are_read_whole(tmp_path: Path, file: str) -> None:
    table = Table(str(POPE), f"coco_pope_{file}.json", "val2014", picture_column="image", name="pope")
    collection = table.load(tmp_path, Selection(), Digests(tmp_path / "digests.json"))
    assert len(collection.rows) == 336 and len(collection.pictures) == 56 and not collection.skipped
    assert sum(row.label == "yes" for row in collection.rows) == 168
