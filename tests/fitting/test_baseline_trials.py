"""Trials that fit no layer: what their rows hold."""

from sklearn.feature_extraction.text import CountVectorizer

from mllm_probe.fitting.baseline_trials import bag_of_words


def test_bag_of_words_marks_presence() -> None:
    assert bag_of_words(["a red ring", "a ring, a ring"]).tolist() == [[1, 1, 1], [1, 0, 1]]


def test_bag_of_words_is_scikit_learns() -> None:
    texts = ["", "?!", "Is there a DOG? A dog!", "It's 3.5 m, isn't it", "고양이 두 마리", "naïve Ü_x", "İstanbul ß"]
    oracle = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b").fit_transform(texts).toarray()
    assert bag_of_words(texts).tolist() == oracle.tolist() and not oracle[:2].any()


def test_texts_without_words_have_no_columns() -> None:
    assert bag_of_words(["?", ""]).shape == (2, 0)
