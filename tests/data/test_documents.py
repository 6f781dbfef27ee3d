"""Documents hang together, hold no picture twice, and are a function of their seed."""

from pathlib import Path

import pytest

from mllm_probe.data.documents import draw_documents
from mllm_probe.errors import DataError
from mllm_probe.records.samples import Picture

CATEGORIES = ("cat", "dog", "cup")


def pictures(n: int, annotated: bool = True) -> list[Picture]:
    return [
        Picture(
            str(i),
            Path(f"{i}.png"),
            f"d{i}",
            (f"one {i}", f"two {i}"),
            frozenset({CATEGORIES[i % 3]}) if annotated else None,
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("annotated", [True, False])
def test_a_picture_is_followed_by_a_caption_of_its_own(annotated: bool) -> None:
    documents = draw_documents(pictures(12, annotated), 40, 3, seed=1)
    assert {len(document.slices) for document in documents} == {2, 4, 6}
    for document in documents:
        for shown, said in zip(document.slices[::2], document.slices[1::2], strict=True):
            assert shown.text is None and shown.picture == said.picture and said.text in said.picture.captions
        assert len({picture.digest for picture in document.pictures}) == len(document.pictures)
        if annotated:
            assert frozenset.intersection(*(picture.categories or frozenset() for picture in document.pictures))


def test_the_seed_is_all_that_chance_reads() -> None:
    found = [[document.uid for document in draw_documents(pictures(12), 9, 3, seed)] for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]


def test_slices_are_known_by_content() -> None:
    (document,) = draw_documents(pictures(1), 1, 3, seed=0)
    shown, said = document.slices
    assert shown.uid != said.uid and said.picture is shown.picture


@pytest.mark.parametrize(("n", "count", "most"), [(0, 1, 1), (3, 0, 1), (3, 1, 0)])
def test_nothing_to_draw_from_is_one_sentence(n: int, count: int, most: int) -> None:
    with pytest.raises(DataError, match="cannot be drawn"):
        draw_documents(pictures(n), count, most, seed=0)
