"""Slices -> vectors of frozen encoders, each computed once and kept.

    outputs/labels/<encoder>/identity.json       the files, the pooling and the device that were digested
                             <part>.safetensors  `vectors` [n, D] float32, in the metadata the uids of the n slices

A part that is there is whole, and its name is a digest of its uids: what is killed goes on with the part it was at, and
several processes may fill one folder.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from mllm_probe.cache.coverage import folder_digests
from mllm_probe.cache.store import write_json
from mllm_probe.config.tune import IMAGE, JOINT, TEXT, LabelSettings
from mllm_probe.data.documents import Slice
from mllm_probe.data.pictures import open_rgb
from mllm_probe.files.digests import Digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.files.seals import read_sealed, save_sealed
from mllm_probe.files.store_paths import VectorPaths
from mllm_probe.records.protocols import Reporter
from mllm_probe.records.samples import digest
from mllm_probe.sugar.labels import PICTURE, SENTENCE, SliceVectors, check_labels

if TYPE_CHECKING:
    import torch

    from mllm_probe.models.encoders.embedders import Embedder, EmbedderPlan

PART = 512  # slices that are computed before they are kept
FORMAT = 1


def slice_vectors(
    plans: Mapping[str, "EmbedderPlan"],
    slices: Sequence[Slice],
    batch: int,
    outputs: OutputPaths,
    device: str,
    digests: Digests,
    reporter: Reporter,
) -> SliceVectors:
    """Of every different slice, in the order in which they come first, by the encoders of `plan_labels`; these are
    loaded for slices alone that are not kept yet, on `device` ("cpu", "cuda"), and read `batch` at a time. Raises
    ModelError, DataError, CacheError, ProbeError."""
    import torch
    from torch.nn.functional import pad

    first = {one.uid: one for one in reversed(slices)}
    order = dict.fromkeys(one.uid for one in slices)
    kinds = torch.tensor([PICTURE if first[uid].text is None else SENTENCE for uid in order])
    found: dict[str, dict[str, torch.Tensor]] = {}
    for kind, plan in plans.items():
        read = [first[uid] for uid in order if kind in (JOINT, _own(first[uid]))]
        found[kind] = _vectors(plan, read, batch, outputs, device, digests, reporter)
    digests.save()
    b = torch.stack([found[JOINT][uid] for uid in order])
    if IMAGE not in plans:
        return SliceVectors(tuple(order), b, b, kinds)
    a = [found[_own(first[uid])][uid] for uid in order]
    widest = max(map(len, a))
    return SliceVectors(tuple(order), torch.stack([pad(one, (0, widest - len(one))) for one in a]), b, kinds)


def _own(one: Slice) -> str:
    """The encoder of slices of its kind."""
    return IMAGE if one.text is None else TEXT


def plan_labels(settings: LabelSettings) -> dict[str, "EmbedderPlan"]:
    """{image, text, joint: its encoder}, those that are needed; no weight is loaded. Raises ConfigError, ModelError."""
    check_labels(settings)
    from mllm_probe.models.encoders.embedders import plan_embedder

    own = {} if settings.joint_only else {IMAGE: settings.image, TEXT: settings.text}
    return {kind: plan_embedder(kind, one) for kind, one in {**own, JOINT: settings.joint}.items()}


def label_identity(plans: Mapping[str, "EmbedderPlan"], digests: Digests) -> dict[str, dict[str, object]]:
    """{image, text, joint: what its vectors follow from}; where files lie does not count, what is in them does."""
    return {
        kind: {"files": folder_digests(plan.folder, digests), "pooling": plan.pooling, "format": FORMAT}
        for kind, plan in plans.items()
    }


def _vectors(
    plan: "EmbedderPlan",
    slices: Sequence[Slice],
    batch: int,
    outputs: OutputPaths,
    device: str,
    digests: Digests,
    reporter: Reporter,
) -> dict[str, "torch.Tensor"]:
    """{uid: [D] float32}."""
    identity = {**label_identity({plan.kind: plan}, digests)[plan.kind], "kind": plan.kind, "device": device}
    paths = outputs.vectors(digest(identity))
    kept = _kept(paths, {one.uid for one in slices}, reporter)
    missing = [one for one in slices if one.uid not in kept]
    if not missing:
        return kept
    from mllm_probe.models.encoders.embedders import Embedder

    write_json(paths.identity, identity)
    embedder = Embedder(plan, device)
    for remark in embedder.remarks:
        reporter.note(remark)
    sentences = [one.text for one in missing if one.text is not None]
    if sentences and (cut := embedder.cut(sentences)):
        reporter.note(
            f"{plan.name}: {cut} of {len(sentences)} sentences are cut to the {embedder.limit} tokens it reads"
        )
    for start in range(0, len(missing), PART):
        part = missing[start : start + PART]
        kept |= _computed(embedder, part, batch, paths)
        reporter.progress(plan.name, start + len(part), len(missing), "slices")
    return kept


def _computed(embedder: "Embedder", part: Sequence[Slice], batch: int, paths: VectorPaths) -> dict[str, "torch.Tensor"]:
    """Kept before they are returned."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for kind in (PICTURE, SENTENCE):
        chosen = [one for one in part if (one.text is None) == (kind == PICTURE)]
        for start in range(0, len(chosen), batch):
            some = chosen[start : start + batch]
            if kind == PICTURE:
                rows = embedder.pictures([open_rgb(one.picture.path) for one in some])
            else:
                rows = embedder.sentences([one.text for one in some if one.text is not None])
            found |= dict(zip((one.uid for one in some), rows, strict=True))
    part_of = paths.part(digest(list(found)))
    save_sealed(part_of, {"vectors": torch.stack(list(found.values()))}, {"uids": json.dumps(list(found))})
    return found


def _kept(paths: VectorPaths, wanted: Collection[str], reporter: Reporter) -> dict[str, "torch.Tensor"]:
    """Of the parts that are as they were written; others are removed, and so made again."""
    found: dict[str, torch.Tensor] = {}
    for part in paths.parts():
        try:
            tensors, metadata = read_sealed(part)
            rows = zip(json.loads(metadata["uids"]), tensors["vectors"], strict=True)
            found |= {uid: row for uid, row in rows if uid in wanted}
        except (KeyError, ValueError, TypeError) as error:
            reporter.note(f"{part} is damaged ({error}) and is made again")
            part.unlink(missing_ok=True)
    return found
