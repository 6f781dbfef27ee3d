"""The words of every key: the nearest ones of each picture token by each lens, judged by masks, as rows of lens.csv."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from mllm_probe.cache.coverage import Coverage
from mllm_probe.config.lens import LensConfig
from mllm_probe.experiment.experiment import Experiment, columns_of
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.sites import Key, Site
from mllm_probe.results.lenses.lens import EMBEDDING, LATENT, LOGIT, SHARES, Lens, Word
from mllm_probe.spatial.field import Field
from mllm_probe.spatial.lenses.judged import TOPS, Judged
from mllm_probe.spatial.lenses.names import Names
from mllm_probe.spatial.lenses.presence import Presence, tokenised
from mllm_probe.spatial.lenses.text_index import Index, Texts, read_by
from mllm_probe.spatial.shown import field_of
from mllm_probe.tasks.splits import TEST

if TYPE_CHECKING:
    import torch

AT_ONCE = 64_000_000  # values of tokens by words that are held at once
Scored = Callable[[Site, "torch.Tensor"], "torch.Tensor"]  # states [n, D] of a site -> scores of words [n, W]


@dataclass(frozen=True)
class Request:
    """What is read: the lenses, what lies on the tokens, what is named how, and the texts of an index, if any.
    `spellings` [V]: what each id of the vocabulary writes; `run` is the digest of all settings."""

    config: LensConfig
    field: Field
    names: Names
    spellings: Sequence[str]
    texts: Texts | None
    run: str
    shown: np.ndarray  # [T] bool: the tokens whose words are kept


@dataclass(frozen=True)
class Nearest:
    """The nearest words of T tokens: ids and scores [T, k], the nearest first; the probabilities of the categories'
    names [T, C], of the logit lens alone."""

    ids: np.ndarray
    scores: np.ndarray
    named: np.ndarray | None = None


@dataclass(frozen=True)
class Reading:
    """One model of an experiment, its own or one with random weights, read by every lens: how each scores words by
    states, and the ids of these words."""

    request: Request
    experiment: Experiment
    lenses: Mapping[str, tuple[Scored, np.ndarray]]

    @classmethod
    def opened(cls, request: Request, experiment: Experiment, reporter: Reporter) -> "Reading":
        """The model is loaded for its words. Raises ModelError."""
        from mllm_probe.models.hf import load_model
        from mllm_probe.models.loading.device import pick_device
        from mllm_probe.models.vocabulary import Vocabulary

        device = pick_device(experiment.device)
        reporter.note(f"loading {experiment.model.label} ({experiment.model.precision}) on {device}")
        vocabulary = Vocabulary(load_model(experiment.blueprint, device))
        every = np.arange(vocabulary.size)
        found: dict[str, tuple[Scored, np.ndarray]] = {
            LOGIT: (lambda site, h: vocabulary.logits(h, site.part == "norm").softmax(1), every),
            EMBEDDING: (lambda _, h: vocabulary.cosines(h), every),
        }
        if request.texts is not None:
            index = Index(request.texts.side(experiment), request.texts, device)
            found[LATENT] = lambda _, h: index.cosines(h), request.texts.ids
        return cls(request, experiment, {name: found[name] for name in request.config.lens})

    @property
    def keys(self) -> tuple[Key, ...]:
        return read_by(self.experiment)

    def rows(self) -> Iterator[tuple[list[Lens], list[Word]]]:
        """Those of each key, and in the last one's those of all together; and words of the model itself, for people."""
        largest: list[np.ndarray] = []
        for key in self.keys:
            rows: list[Lens] = []
            words: list[Word] = []
            for name in self.lenses:
                near, blank = self.nearest(name, key), self._blank(name, key)
                rows += self._judged.rows(near.ids, blank)
                words += [] if self.experiment.control else self._shown(name, key, near)
                if near.named is not None:
                    largest.append(self._presence.largest(near.named))
                    rows += filter(None, [self._presence.row(largest[-1], blank)])
            if largest and key == self.keys[-1]:
                rows += filter(None, [self._presence.row(np.maximum.reduce(largest), self._blank(LOGIT))])
            yield rows, words

    def nearest(self, name: str, key: Key) -> Nearest:
        """By one lens at one key."""
        import torch

        scored, ids = self.lenses[name]
        stored, _ = self.experiment.store.rows(key, self._samples, self._coverage)
        step, k = max(1, AT_ONCE // len(ids)), min(max(TOPS), len(ids))
        found, scores, named = [], [], []
        with torch.inference_mode():
            for start in range(0, len(stored.row), step):
                each = scored(key.site, stored[slice(start, start + step)])
                best = each.topk(k, dim=1)
                found.append(ids[best.indices.cpu().numpy()])
                scores.append(best.values.cpu().numpy())
                named += [self._presence.probabilities(each)] if name == LOGIT else []
        return Nearest(np.concatenate(found), np.concatenate(scores), np.concatenate(named) if named else None)

    @cached_property
    def _samples(self) -> list[str]:
        return [sample.uid for sample in self.experiment.examples.samples]

    @cached_property
    def _coverage(self) -> Coverage:
        return self.experiment.store.coverage()

    @cached_property
    def _judged(self) -> Judged:
        return Judged(self.request.field, self.request.names, self.experiment.sweep.ci_level)

    @cached_property
    def _presence(self) -> Presence:
        ways = tokenised(self.request.names.categories, self.experiment.blueprint.processor.tokenizer)
        return Presence(self.request.field, ways, self.experiment.sweep.ci_level)

    def _shown(self, name: str, key: Key, near: Nearest) -> Iterator[Word]:
        """The words of the tokens that are shown."""
        field, spelled, samples = self.request.field, self.request.spellings, self.experiment.examples.samples
        said = self.request.names.judged(near.ids, field.inside, field.present)
        number = np.concatenate([sample.picked.tokens for sample in samples])
        for t in np.flatnonzero(self.request.shown):
            row, column = map(int, field.places[t])
            picture = samples[field.pictures[t]].digests[0]
            same = picture, int(number[t]), int(field.views[t]), row, column, str(key.site), name
            for rank, (token, score) in enumerate(zip(near.ids[t].tolist(), near.scores[t].tolist(), strict=True), 1):
                word = spelled[token].strip() if token < len(spelled) else ""
                yield Word(*same, rank, word, score, SHARES[said[t, rank - 1]])

    def _blank(self, lens: str, key: Key | None = None) -> Lens:
        """What rows say of themselves, as those of scores.csv do."""
        experiment = self.experiment
        return Lens(
            run=self.request.run,
            cache=experiment.identity.digest,
            model=experiment.model.label,
            **columns_of(experiment, key),
            lens=lens,
            control=experiment.control,
        )


def named_field(experiment: Experiment) -> tuple[Field, Names, tuple[str, ...], str | None]:
    """What lies on the tokens, of categories that some word names; these words; what each id of the vocabulary writes;
    and what to say of other categories. Raises ProbeError where no word names any, DataError, ModelError."""
    from mllm_probe.models.vocabulary import spellings

    spelled = spellings(experiment.blueprint.processor.tokenizer)
    field = field_of(experiment)
    every = Names.of(field.categories, spelled)
    said, kept = every.check(), field.of(every.known)
    return kept, Names.of(kept.categories, spelled), spelled, said


def shown_tokens(experiment: Experiment, field: Field, most: int) -> np.ndarray:
    """The tokens [T] bool of so many test pictures, those that are read whole first."""
    group_of = {decision.sample: decision.group for decision in experiment.examples.decisions}
    groups = [group_of[sample.uid] for sample in experiment.examples.samples]
    tested = [number for number, group in enumerate(groups) if experiment.examples.folds[group] == TEST]
    whole = set(field.pictures[field.whole].tolist())
    return np.isin(field.pictures, sorted(tested, key=lambda number: number not in whole)[:most])
