"""What a damaged checkpoint is told as."""

from pathlib import Path

SMALL = ("task=entailment", "data.n=20", "dataset.pictures=20", "splits.blocks=2")


def check(found: tuple[int, str, str], folder: Path, *parts: str) -> None:
    code, _, err = found
    said = [line for line in err.splitlines() if line.startswith("mllm-probe: ")]
    assert code == 1 and len(said) == 1 and "Traceback" not in err, err
    assert all(part in said[0] for part in parts), err
    assert not [*folder.glob("outputs/cache/**/*.safetensors"), *folder.glob("outputs/**/scores.csv")]
