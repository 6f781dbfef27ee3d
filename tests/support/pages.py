"""A run whose captions and licences come from somebody who means ill, and what an HTML parser finds in its page."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mllm_probe.cli import entry as cli
from tests.support.runs import tiny

EVIL = '<script>document.title="owned"</script> & <img src=x onerror=alert(1)>'
LICENCE = {"id": 7, "name": "Attribution <b>License</b>", "url": "http://creativecommons.org/licenses/by/2.0/"}
SETTINGS = (
    "task=entailment",
    "dataset=coco",
    "splits.blocks=2",
    "sweep.seeds=[0,1]",
    "sweep.draws=50",
    "sweep.permutations=50",
    "controls=[control_task,text_only,blank_picture,random_weights]",
    "layers.stride=2",
    "guards=note",
)


def evil_coco(root: Path) -> Path:
    """24 noisy pictures of 400 pixels, each with a caption of its own; one in two has a licence."""
    (root / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = [{"id": i, "file_name": f"{i}.png"} for i in range(24)]
    for image in images:
        noise = np.random.default_rng(image["id"]).integers(0, 255, (20, 20, 3), np.uint8)
        picture = Image.fromarray(noise).resize((400, 400), Image.Resampling.NEAREST)
        picture.save(root / "images" / image["file_name"])
        if image["id"] % 2:
            image |= {"license": 7, "flickr_url": f"http://farm.example/{image['id']}.jpg"}
    captions = [{"id": i, "image_id": i, "caption": f"{EVIL} {i}"} for i in range(24)]
    found = {"images": images, "annotations": captions, "licenses": [LICENCE, {"id": [3]}, "none"]}
    (root / "captions.json").write_text(json.dumps(found))
    return root


def shown_run(folder: Path, checkpoint: Path) -> Path:
    """The folder of such a run."""
    data = evil_coco(folder / "coco")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "")
        patch.setattr(sys, "argv", ["mllm-probe"])
        cli.main(["run", *tiny(checkpoint), *SETTINGS, f"dataset.root={data}", "hydra.run.dir=shown"])
    return folder / "shown"


def _no_number(name: str) -> None:
    raise ValueError(f"browsers read no {name} in JSON")


class Markup(HTMLParser):
    """Tags in their order, attributes, the text that is read, and scripts by their type."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.said = ""
        self.scripts: list[tuple[str, str]] = []
        self._open = ("", "")
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._open = (tag, dict(attrs).get("type") or "")

    def handle_endtag(self, tag: str) -> None:
        self._open = ("", "")

    def handle_data(self, data: str) -> None:
        if self._open[0] == "script":
            self.scripts.append((self._open[1], data))
        elif self._open[0] != "style":
            self.said += data

    @property
    def words(self) -> str:
        return " ".join(self.said.split())

    def sources(self, kind: str) -> list[str]:
        """Pictures in the page, `png`, `jpeg` or `svg+xml`."""
        return [v for tag, name, v in self.attributes if name == "src" and v.startswith(f"data:image/{kind};base64,")]

    @property
    def charts(self) -> dict[str, Any]:
        """{name: chart} of all that the page can draw."""
        found = [json.loads(text, parse_constant=_no_number) for kind, text in self.scripts if kind.endswith("json")]
        return {one["name"]: one for charts in found if isinstance(charts, list) for one in charts}
