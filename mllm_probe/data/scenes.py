"""Drawn scenes, written in COCO's layout, so one reader serves them and photographs.

A caption's annotation carries its fact beside the words, and a picture's record its shapes, so "false of this
picture" is checked and not assumed. Knows no task and no model.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np

from mllm_probe.data.coco import Layout, Selection, read_coco
from mllm_probe.data.drawing import (
    COLOURS,
    KINDS,
    MAX_SHAPES,
    PICTURE_SIZE,
    USUAL_SHAPES,
    Scene,
    Shape,
    draw,
    mask_of,
    random_scene,
)
from mllm_probe.data.facts import Fact, true_fact
from mllm_probe.data.pictures import filled_once
from mllm_probe.errors import DataError
from mllm_probe.files.digests import Digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.readback import save_table
from mllm_probe.records.samples import Collection, Picture, digest

CAPTIONS_PER_PICTURE = 5
QUESTIONS = "questions.csv"  # an example of a table of one's own, see docs/own-data.md
VERSION = 1  # raise it when a drawing or a caption of the same seed changes


@dataclass(frozen=True)
class Scenes:
    """`pictures` scenes of 1 to `max_shapes` shapes, drawn from `seed` and kept on disk."""

    pictures: int = 600
    max_shapes: int = USUAL_SHAPES
    seed: int = 0
    name: ClassVar[str] = "scenes"

    def __post_init__(self) -> None:
        if self.pictures < 1 or not 1 <= self.max_shapes <= MAX_SHAPES:
            raise DataError(
                f"dataset.pictures={self.pictures}, dataset.max_shapes={self.max_shapes}: "
                f"at least one picture and 1 to {MAX_SHAPES} shapes are needed"
            )

    def load(self, outputs: Path, selection: Selection, digests: Digests) -> Collection:
        """Draw the pictures unless they are there, then read them like any COCO folder."""
        folder = OutputPaths(outputs).dataset(self.name, digest(VERSION, asdict(self)))
        if not folder.exists():
            write_scenes(folder, self)
        if not (folder / QUESTIONS).is_file():
            write_questions(folder)
        collection = read_coco(Layout.find(folder, ""), self.name, selection, digests)
        truth = Truth.read(folder)
        return replace(collection, contradicts=truth.contradicts, masks=truth.masks)


def write_scenes(folder: Path, spec: Scenes) -> None:
    """Draw everything; a folder that exists is complete."""
    with filled_once(folder) as part:
        (part / "images").mkdir()
        images: list[dict[str, Any]] = []
        captions: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        for number in range(1, spec.pictures + 1):
            rng = Random(f"scenes/{spec.seed}/{number}")
            scene = random_scene(rng, spec.max_shapes)
            draw(scene).save(part / "images" / f"{number:012d}.png")
            images.append(_image_record(number, scene))
            captions += _caption_records(number, scene, rng, first_id=len(captions) + 1)
            instances += _instance_records(number, scene, first_id=len(instances) + 1)
        info = {"description": "drawn scenes", "version": VERSION, **asdict(spec)}
        top = {"info": info, "licenses": [], "images": images}
        (part / "captions.json").write_text(json.dumps({**top, "annotations": captions}))
        (part / "instances.json").write_text(
            json.dumps({**top, "annotations": instances, "categories": category_records()})
        )


def write_questions(folder: Path) -> None:
    """Of each picture whether its first object is there, and whether the first one of the next picture that has
    another is: so nearly every name is asked about as often where it is as where it is not."""
    found = json.loads((folder / "instances.json").read_text())
    names = {one["id"]: one["name"] for one in found["categories"]}
    shown: dict[int, list[str]] = {image["id"]: [] for image in found["images"]}
    for one in found["annotations"]:
        shown[one["image_id"]].append(names[one["category_id"]])
    first, rows = [own[0] for own in shown.values()], []
    for i, (image, own) in enumerate(zip(found["images"], shown.values(), strict=True)):
        other = next((name for name in first[i + 1 :] + first[:i] if name not in own), None)
        asked = {own[0]: "yes"} | ({other: "no"} if other else {})
        rows += [(image["file_name"], f"Is there a {name}?", answer) for name, answer in asked.items()]
    save_table(folder / QUESTIONS, ("picture", "text", "label"), rows)


def category_records() -> list[dict[str, Any]]:
    """One category per colour and kind ("red circle"), its kind as the supercategory."""
    names = [(f"{colour} {kind}", kind) for kind in KINDS for colour in COLOURS]
    return [{"id": i, "name": name, "supercategory": kind} for i, (name, kind) in enumerate(names, 1)]


def _image_record(number: int, scene: Scene) -> dict[str, Any]:
    size = {"width": PICTURE_SIZE, "height": PICTURE_SIZE}
    return {"id": number, "file_name": f"{number:012d}.png", **size, "scene": asdict(scene)}


def _caption_records(number: int, scene: Scene, rng: Random, first_id: int) -> list[dict[str, Any]]:
    """Five facts with different words; even a lone shape has seven ways to be named."""
    facts: dict[str, Fact] = {}
    while len(facts) < CAPTIONS_PER_PICTURE:
        fact = true_fact(scene, rng)
        facts.setdefault(fact.text(), fact)
    return [
        {"id": first_id + i, "image_id": number, "caption": text, "fact": fact.to_json()}
        for i, (text, fact) in enumerate(facts.items())
    ]


def _instance_records(number: int, scene: Scene, first_id: int) -> list[dict[str, Any]]:
    ids = {record["name"]: record["id"] for record in category_records()}
    records = []
    for i, shape in enumerate(scene.shapes):
        left, top, right, bottom = shape.box
        records.append(
            {
                "id": first_id + i,
                "image_id": number,
                "category_id": ids[f"{shape.colour} {shape.kind}"],
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                "iscrowd": 0,
            }
        )
    return records


@dataclass(frozen=True)
class Truth:
    """What is so: the scene of every picture and the fact behind every caption's words."""

    scenes: Mapping[str, Scene]
    facts: Mapping[str, Fact]

    @classmethod
    def read(cls, folder: Path) -> "Truth":
        records = json.loads((folder / "captions.json").read_text())
        scenes = {str(image["id"]): _scene(image["scene"]) for image in records["images"]}
        facts = {record["caption"]: Fact.from_json(record["fact"]) for record in records["annotations"]}
        return cls(scenes, facts)

    def contradicts(self, picture: Picture, caption: str) -> bool:
        return self.facts[caption].is_false_of(self.scenes[picture.id])

    def masks(self, picture: Picture) -> dict[str, np.ndarray]:
        """{category: the pixels [H, W] bool of its shapes}, where the annotations have the squares around them."""
        found: dict[str, np.ndarray] = {}
        for shape in self.scenes[picture.id].shapes:
            name, mask = f"{shape.colour} {shape.kind}", mask_of(shape)
            found[name] = found[name] | mask if name in found else mask
        return found


def _scene(record: Mapping[str, Any]) -> Scene:
    return Scene(tuple(Shape(**shape) for shape in record["shapes"]), tuple(record["background"]))
