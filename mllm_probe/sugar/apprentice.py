"""What a step of Sugar's tuning does: read documents, compare all slice ends of the step, send gradients back.

All pairs of a step count, however its documents are cut up. Where one pass does not hold them all, the vectors are made
without a graph first, and their gradients are carried into a second pass of each part (Gao et al. 2021, GradCache).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn

from mllm_probe.data.documents import Document
from mllm_probe.data.pictures import ahead
from mllm_probe.errors import DataError
from mllm_probe.models.caption_loss import last_states, negative_log_likelihood
from mllm_probe.models.interleaved import Rendered, rendered
from mllm_probe.models.loading.adapters import write_origin
from mllm_probe.models.loading.projections import projections
from mllm_probe.sugar.labels import Structure
from mllm_probe.sugar.settings import SugarSettings
from mllm_probe.sugar.structure_loss import permuted, retrieval_head, structure_errors
from mllm_probe.train.lora import attach_lora, drop_out, save_lora
from mllm_probe.train.material import HeldOut, Material
from mllm_probe.train.order import rows_of

HEAD = "retrieval.safetensors"
Ends = list[list[int]]


@dataclass(frozen=True)
class Step:
    """The documents of a step in parts, of each part the numbers of the slices whose ends are compared, and the labels
    [n, n] of all these; None where nothing is compared."""

    name: str
    parts: list[Rendered]
    ends: list[Ends]
    labels: Tensor | None

    @property
    def tokens(self) -> int:
        """That are predicted."""
        return sum(sum(part.counts) for part in self.parts)


@dataclass(frozen=True)
class HeldOutDocument(HeldOut):
    """With its part in L_d: the mean over the pairs of its slice ends with all others of its batch."""

    ld: float


class SugarApprentice:
    """L_g of a step is the mean over the tokens of all its sentences, L_d over all pairs of its slice ends."""

    def __init__(self, target: SugarSettings, material: Material) -> None:
        self._target, self._material, self._network = target, material, material.network
        self._blueprint = material.blueprint.fork()
        self._learnt: Sequence[Document] = material.learnt
        self._judged: Sequence[Document] = material.judged
        seed, hidden = material.settings.seed, self._blueprint.anatomy.widths["lm"]
        modules = projections(self._network, self._blueprint.structure, target.modules)
        lora = attach_lora(self._network, modules, target.rank, target.lora_alpha, target.dropout, seed)
        self._structure, self._head, self._parameters = None, None, dict(lora)
        if target.structured:
            check_documents((*self._learnt, *self._judged))
            own = {one.uid for document in self._learnt for one in document.slices}
            self._structure = Structure(material.vectors, target.labels, own)
            self._head = retrieval_head(hidden, target.width, target.linear, seed).to(material.device)
            self._parameters |= {f"retrieval.{name}": value for name, value in self._head.named_parameters()}
        self._steps: Iterator[tuple[int, Step]] | None = None

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self._parameters

    def backward(self, step: int) -> Mapping[str, float]:
        if self._steps is None:
            drop_out(self._network, True)
            self._steps = ahead(range(step, self._material.settings.steps or 0), self._read, 1)
        _, work = next(self._steps)
        target, whole, tokens, lg = self._target, len(work.parts) == 1, work.tokens, 0.0
        with torch.set_grad_enabled(whole):  # a single pass keeps its graph
            first = [self._pass(work, n) for n in range(len(work.parts))] if whole or self._structure else []
        ld, pulls = self._pulls([vectors for _, vectors in first], work.labels)
        for n in range(len(work.parts)):
            nats, vectors = first[n] if whole else self._pass(work, n)
            loss = target.lm_weight * nats.sum() / tokens
            if pulls is not None:
                loss = loss + (vectors * pulls[n]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            lg += float(nats.detach().sum()) / tokens
        compared = {} if self._structure is None else {"ld": ld}
        return {"loss": target.lm_weight * lg + target.alpha * ld, "lg": lg, **compared, "tokens": tokens}

    def _pass(self, work: Step, n: int) -> tuple[Tensor, Tensor]:
        """Part n through the model: nats of each document [B], and the vectors behind its slice ends [P, width]."""
        part = work.parts[n]
        torch.manual_seed(Random(f"dropout/{work.name}/{n}").getrandbits(63))  # a second pass drops what the first did
        states = last_states(self._network, part.inputs, self._material.device)
        nats = negative_log_likelihood(self._network, states, part.labels)
        if self._head is None:
            return nats, nats.new_zeros(0)
        return nats, self._head(part.ends(states, work.ends[n], self._target.image_readout))

    def _pulls(self, vectors: Sequence[Tensor], labels: Tensor | None) -> tuple[float, Sequence[Tensor] | None]:
        """L_d, and the gradient of alpha L_d by the vectors of each part."""
        if labels is None:
            return 0.0, None
        every = torch.cat(list(vectors)).detach().requires_grad_()
        ld = structure_errors(every, labels).mean()
        (gradient,) = torch.autograd.grad(self._target.alpha * ld, every)
        return float(ld.detach()), torch.split(gradient, [len(own) for own in vectors])

    def _read(self, step: int) -> Step:
        settings = self._material.settings
        chosen = rows_of(step, settings.batch, len(self._learnt), settings.seed)
        work = self._work([self._learnt[i] for i in chosen], f"{settings.seed}/{step}")
        if self._target.permuted and work.labels is not None:
            return replace(work, labels=permuted(work.labels, Random(f"permuted/{work.name}").getrandbits(63)))
        return work

    def _work(self, documents: Sequence[Document], name: str) -> Step:
        rng, most, size = Random(f"ends/{name}"), self._target.ends, self._material.settings.micro_batch
        ends = [sorted(rng.sample(range(n), min(most, n))) for n in (len(one.slices) for one in documents)]
        starts = range(0, len(documents), size)
        prefixes = [(one, i + 1) for one, own in zip(documents, ends, strict=True) for i in own]
        labels = None if self._structure is None else self._structure.matrix(prefixes)
        parts = [rendered(self._blueprint, documents[start : start + size]) for start in starts]
        return Step(name, parts, [ends[start : start + size] for start in starts], labels)

    @torch.no_grad()
    def held_out(self) -> list[HeldOut]:
        """In batches as large as a step's, with labels that are not permuted."""
        drop_out(self._network, False)
        size, found = self._material.settings.batch, list[HeldOut]()
        for start in range(0, len(self._judged), size):
            documents = self._judged[start : start + size]
            work = self._work(documents, f"held out/{start}")
            passes = [self._pass(work, n) for n in range(len(work.parts))]
            nats = torch.cat([own for own, _ in passes]).tolist()
            counts = [count for part in work.parts for count in part.counts]
            rows = [HeldOut(one.pictures[0].digest, start + n, counts[n], nats[n]) for n, one in enumerate(documents)]
            found += rows if work.labels is None else _compared(rows, work, torch.cat([own for _, own in passes]))
        return found

    def save(self, folder: Path) -> None:
        """The adapter as peft saves it, the retrieval head beside it, and what they were trained on."""
        from safetensors.torch import save_file

        save_lora(self._network, folder)
        if self._head is not None:
            save_file({name: value.detach().cpu() for name, value in self._head.state_dict().items()}, folder / HEAD)
        settings = self._blueprint.settings
        write_origin(folder, self._material.base, settings.label, type(self._network).__name__, asdict(self._target))


def check_documents(documents: Sequence[Document]) -> None:
    """Raises DataError."""
    if short := [one for one in documents if len(one.slices) < 2]:
        raise DataError(
            f"{len(short)} of {len(documents)} documents have fewer than two slices ({short[0].uid} has "
            f"{len(short[0].slices)}); a document is a picture and a sentence, or more"
        )


def _compared(rows: Sequence[HeldOut], work: Step, vectors: Tensor) -> list[HeldOut]:
    """With what each document's slice ends add to L_d."""
    assert work.labels is not None
    ends = [len(own) for part in work.ends for own in part]
    errors = torch.split(structure_errors(vectors, work.labels), ends)
    return [HeldOutDocument(**asdict(row), ld=float(own.mean())) for row, own in zip(rows, errors, strict=True)]
