"""A small folder of COCO beside its annotations."""

import json
from pathlib import Path


def coco_folder(root: Path, caption: str = "A grey square.") -> Path:
    from PIL import Image

    (root / "images").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png"} for i in range(12)]
    for image in images:
        Image.new("RGB", (20, 20), (20 * image["id"],) * 3).save(root / "images" / image["file_name"])
    captions = [{"id": i, "image_id": i, "caption": f"{caption} Number {i}."} for i in range(12)]
    (root / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return root
