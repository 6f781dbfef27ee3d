"""Records that travel from a picture to a score."""

from pathlib import Path

from mllm_probe.records.samples import Picture, Sample, digest, digest_of


def test_quick_digests_are_those_of_all_parts() -> None:
    picture, marks = Picture("a", Path("a.png"), "d1"), {"text": (2, 5), "before": (0, 1)}
    for pictures in ([picture], [picture, picture], []):
        sample = Sample.of(pictures, 'a "quoted" é\n\u2063 text', marks)
        assert sample.uid == digest(sample.digests, sample.text, sorted(marks.items()))
        assert sample.images == tuple(one.path for one in pictures)
        assert sample.showing((), ()).uid == digest((), sample.text, sorted(marks.items()))
    assert digest_of('u"id', ("custom", "é", None)) == digest('u"id', "custom", "é", None)
