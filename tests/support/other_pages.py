"""Folders as commands other than `run` leave them, small and made by hand, with a name from somebody who means ill."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from PIL import Image

from mllm_probe.config.report import ReportSettings
from mllm_probe.files.digests import file_digest
from mllm_probe.files.paths import RunPaths
from mllm_probe.records.score import Score
from mllm_probe.report.align import show_alignment
from mllm_probe.report.attention import show_attention
from mllm_probe.report.fidelity import show_fidelity
from mllm_probe.report.geometry import show_geometry
from mllm_probe.report.lens import show_lens
from mllm_probe.report.regions import show_regions
from mllm_probe.report.tune import show_training
from mllm_probe.results.align import QUESTIONS
from mllm_probe.results.examples import Seen
from mllm_probe.results.fidelity import Agreement, save_agreements
from mllm_probe.results.geometry import Relation, save_relations
from mllm_probe.results.lenses.attention import Attention, save_attention
from mllm_probe.results.lenses.lens import Lens, Word, save_lens, save_words
from mllm_probe.results.regions import Region, save_regions
from mllm_probe.results.score_file import ScoreFile
from mllm_probe.results.training import save_losses
from mllm_probe.spatial.grid_file import PictureGrid, RegionGrids, as_bytes, save_grids
from tests.support.pages import EVIL
from tests.support.runs import Silent

NAME = f"{EVIL} [bold]模 é"
SITES = ("lm.00", "lm.01", "lm.02")
BLOCKS = ("lm.01.attn", "lm.02.attn", "lm.03.attn")


def record(kind: type, /, **values: object) -> object:
    """A row whose other texts are empty and whose other numbers are 5."""
    made = {field.name: "" if field.type is str else 5 for field in fields(kind)}
    return kind(**made | {"model": NAME} | values)


def geometry(root: Path) -> Path:
    pairs = [(a, b) for a in SITES for b in SITES] + [(site, "") for site in SITES]
    shown = {"position": "last", "value": 0.5, "null_high": 0.1, "n": 9}
    rows = [record(Relation, site_a=a, site_b=b, measure="cka" if b else "entropy", **shown) for a, b in pairs]
    save_relations(RunPaths(root).geometry, rows)
    show_geometry(RunPaths(root), Silent(), ReportSettings())
    return root


def fidelity(root: Path) -> Path:
    same = {"tower": "lm", "part": "block", "position": "last", "task": NAME, "quantization": "nf4", "split": "test"}
    kinds = (
        ("relative_error", "", "", 0.1),
        ("accuracy", "reference", "reference", 0.75),
        ("accuracy", "model", "model", 0.5),
        ("difference", "model", "model", -0.25),
    )
    rows = [
        record(Agreement, **same, site=site, layer=i, depth=i / 2, measure=measure, fitted_on=a, read_on=b, value=value)
        for i, site in enumerate(SITES)
        for measure, a, b, value in kinds
    ]
    save_agreements(RunPaths(root).fidelity, rows)
    show_fidelity(RunPaths(root), Silent(), ReportSettings())
    return root


def align(root: Path) -> Path:
    rows = []
    for question in QUESTIONS:
        asked = {"task": question.task, "target": question.target, "metric": question.metric, "seed": "all"}
        how = "gak" if question.task == "sequence_retrieval" else "cosine"
        rows.append(record(Score, **asked, probe="chance", split="test", value=0.1))
        for features in ("centred", "mapped"):
            for split in ("val", "test"):
                same = {"features": features, "probe": how, "position": "last", "split": split, "tower": "lm"}
                rows += [
                    record(Score, **asked, **same, site=site, part="block", layer=i, depth=i / 2, value=0.2 * i)
                    for i, site in enumerate(SITES)
                ]
    ScoreFile(RunPaths(root).alignment).add(rows)
    show_alignment(RunPaths(root), Silent(), ReportSettings())
    return root


def tune(root: Path) -> Path:
    paths = RunPaths(root)
    save_losses(paths.losses, [{"step": i, "lr": 0.1, "loss": 2.0 - i} for i in range(3)])
    told = {
        "held_out": 1.0,
        "low": 0.5,
        "high": 1.5,
        "rows": 4,
        "unit": "captions",
        "probed": "model=custom model.path",
    }
    paths.summary.write_text(json.dumps({**told, "target": "connector"}))
    paths.checkpoint.mkdir()
    origin = {"base": "d", "model": NAME, "class": "C", "training": {"connector": "dci"}}
    (paths.checkpoint / "origin.json").write_text(json.dumps(origin))
    show_training(paths, Silent())
    return root


def regions(root: Path) -> Path:
    """One red picture of two tokens, the left one covered; the probe finds it at the last site alone."""
    paths = RunPaths(root)
    none = {"control": "", "view": "", "distance": "", "training": "all", "seed": "all", "tower": "lm", "part": "block"}
    rows = [
        record(Region, **none, site=site, layer=i, depth=i / 2, metric=metric, value=0.3 * i, low=0.1, high=0.9)
        for i, site in enumerate(SITES)
        for metric in ("average_precision", "miou", "a_in", "a_out", "locality")
    ]
    save_regions(paths.regions, rows)
    said = {NAME: tuple(as_bytes(np.asarray(each)) for each in ([0, 0], [0, 200], [255, 0]))}
    covered = {NAME: as_bytes(np.asarray([255, 0]))}
    save_grids(paths.grids(), RegionGrids(SITES, ".", (_pair(root, covered, said),)))
    show_regions(paths, Silent(), ReportSettings())
    return root


def _pair(root: Path, covered: dict[str, str], said: dict[str, tuple[str, ...]]) -> PictureGrid:
    """One red picture of two tokens."""
    Image.new("RGB", (64, 32), (200, 30, 30)).save(root / "shown.png")
    seen = Seen("shown.png", file_digest(root / "shown.png"), NAME)
    return PictureGrid(seen, ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)), (0, 0), covered, said)


def lens(root: Path) -> Path:
    """The left token lies on an object, whose name is its nearest word at the last site alone."""
    paths = RunPaths(root)
    same = {"control": "", "tokens": "objects", "tower": "lm", "part": "block", "low": 0.1, "high": 0.9}
    rows = [
        record(Lens, **same, lens=lens, site=site, layer=i, depth=i / 2, metric=metric, top=top, value=0.3 * i)
        for i, site in enumerate(SITES)
        for lens in ("logit", "embedding")
        for metric in ("local", "elsewhere")
        for top in (1, 5)
    ]
    save_lens(paths.lens(), rows)
    one = _pair(root, {NAME: as_bytes(np.asarray([255, 0]))}, {})
    words = [
        Word(one.picture.digest, 3 + token, 0, 0, token, site, lens, rank, f"{lens} {token} {i} {rank}", 0.5, said)
        for i, site in enumerate(SITES)
        for lens in ("logit", "embedding")
        for token in (0, 1)
        for rank in (1, 2)
        for said in ["local" if (i, token) == (2, 0) else "elsewhere" if (i, token) == (1, 1) else "unrelated"]
    ]
    save_words(paths.lens(of="words"), [*words[:-1], replace(words[-1], word=NAME)])
    save_grids(paths.grids(), RegionGrids(SITES, ".", (one,)))
    show_lens(paths, Silent(), ReportSettings())
    return root


def attention(root: Path) -> Path:
    """Two statements; the first one's object is on the left, where it looks at the last block, and the second one's is
    not in the picture. By the second way all look to the right."""
    paths, whole = RunPaths(root), {"control": "", "head": None, "tower": "lm", "part": "attn"}
    rows = [
        record(Attention, **whole, site=site, layer=i, depth=i / 2, position=span, metric=metric, kind=kind, value=0.3)
        for i, site in enumerate(BLOCKS)
        for span in ("statement", "last")
        for metric, kind in (("picture_mass", "own"), ("object_mass", "own"), ("object_mass", "relative"))
    ]
    save_attention(paths.lens(of="attention"), rows)
    maps = ([0, 255], [100, 255], [255, 51], [0, 255], [0, 255], [0, 255])
    said = tuple(as_bytes(np.asarray(each)) for each in maps)
    covered = {NAME: as_bytes(np.asarray([255, 0])), "absent?": as_bytes(np.asarray([0, 0]))}
    one = _pair(root, covered, {NAME: said, "absent?": said})
    save_grids(paths.grids(), RegionGrids(BLOCKS, ".", (one,), ("one way", "another"), yes=0))
    show_attention(paths, Silent(), ReportSettings())
    return root


KINDS = {
    "geometry": geometry,
    "fidelity": fidelity,
    "align": align,
    "tune": tune,
    "regions": regions,
    "lens": lens,
    "attention": attention,
}


def made(kind: str, root: Path) -> Path:
    """The folder of a command, with its page."""
    root.mkdir(parents=True)
    return KINDS[kind](root)
