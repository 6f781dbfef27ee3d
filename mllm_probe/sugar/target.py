"""Structure-induced tuning as a target of `tune` (Sugar, Chow et al. 2024): L = lm_weight L_g + alpha L_d.

L_g is the usual loss over the sentences of interleaved documents, L_d compares what prefixes of documents end with to a
label matrix of frozen encoders (`labels`, `structure_loss`). The language model is trained through LoRA, on W_q and
W_v. What is read and what it will take is here, what a step does in `apprentice`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from mllm_probe.config.model import AUTO
from mllm_probe.data.documents import Document, Slice, draw_documents
from mllm_probe.errors import ConfigError, ModelError
from mllm_probe.extraction.estimate import bytes_of
from mllm_probe.models.interleaved import rendered
from mllm_probe.models.loading.projections import low_rank_parameters, projections
from mllm_probe.sugar.apprentice import SugarApprentice
from mllm_probe.sugar.settings import SugarSettings
from mllm_probe.sugar.structure_loss import retrieval_head
from mllm_probe.train.material import Material
from mllm_probe.train.memory import Memory, Shape, training_memory


@dataclass(frozen=True)
class SugarTuning(SugarSettings):
    """Raises ConfigError, ModelError."""

    name: ClassVar[str] = "sugar"
    unit: ClassVar[str] = "documents"
    probed: ClassVar[str] = "{model} model.adapter"

    @property
    def told(self) -> dict[str, Any]:
        return {"arm": self.arm, "alpha": self.alpha, "lm_weight": self.resolved.lm_weight}

    def examples(self, material: Material) -> tuple[list[Document], list[Document]]:
        """Raises ConfigError for settings of the training that do not go with these, DataError."""
        if material.blueprint.prompter.settings.chat == AUTO:
            raise ConfigError(
                "prompt.chat=auto puts all pictures of a document before its sentences in many chat templates; "
                "target=sugar takes prompt.chat=off or plain"
            )
        if self.resolved.structured and material.settings.batch == 1 and self.ends == 1:
            raise ConfigError(
                "train.batch=1 and target.ends=1 give one slice end a step, and no pair to compare; raise one of them"
            )
        drawn = ((material.train, self.documents), (material.test, self.held_out))
        learnt, judged = (draw_documents(pictures, count, self.pictures, self.seed) for pictures, count in drawn)
        return learnt, judged

    def slices(self, material: Material) -> list[Slice]:
        """Those whose vectors the labels need."""
        both = (*material.learnt, *material.judged) if self.resolved.structured else ()
        return [one for document in both for one in document.slices]

    def memory(self, material: Material) -> Memory:
        """Of a micro-batch of the longest documents. Raises ModelError, SpanError, DataError."""
        blueprint, settings = material.blueprint, material.settings
        bare, text = blueprint.bare(), blueprint.config.get_text_config()
        pattern = projections(bare, blueprint.structure, self.modules)
        width = blueprint.anatomy.widths["lm"]
        head = retrieval_head(width, self.width, self.linear, 0) if self.resolved.structured else nn.Identity()
        moving = low_rank_parameters(bare, pattern, self.rank) + sum(p.numel() for p in head.parameters())
        each = bytes_of(blueprint.settings, blueprint.parameters)
        weights = sum(count * each[tower] for tower, count in blueprint.parameters.items())
        longest = max(material.learnt, key=lambda one: (len(one.pictures), sum(len(s.text or "") for s in one.slices)))
        batch = rendered(blueprint, [longest])
        wide = getattr(text, "intermediate_size", 4 * width)
        shape = Shape(blueprint.anatomy.blocks["lm"], width, wide, text.vocab_size, round(each["rest"]))
        n = min(settings.micro_batch, settings.batch)
        return training_memory(weights, moving, shape, self.rank, n * batch.labels.shape[1], n * batch.counts[0])

    def apprentice(self, material: Material) -> SugarApprentice:
        """Raises ConfigError, ModelError, DataError, ProbeError."""
        if not material.blueprint.anatomy.causal:
            raise ModelError(
                f"{type(material.network).__name__} lets tokens see later ones, so the end of a slice would depend on "
                "the slices after it; choose a causal model"
            )
        return SugarApprentice(self.resolved, material)
