"""From pictures to the score of a layer, in one flat file: what `mllm-probe run task=entailment` does, without
its commands.

    python docs/walkthrough.py [PICTURES] [OUTPUTS]

Read it from top to bottom: each step calls the piece of the package that the command calls, and the comment above it
says why the step is there. 600 pictures take about 20 seconds of one core, and half of that the second time, when the
states are in the cache. Its scores are to the last digit those of

    mllm-probe run task=entailment layers.towers=[lm] layers.norm=false extract.positions=[last,mean_image] \
        extract.answers=null controls=none dataset.pictures=PICTURES

and its cache holds the same bytes (tests/project/test_walkthrough.py). A run does more: controls, tests over all
layers, guards against mistakes, and a page.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mllm_probe.cache.plan import SHARED, ShardWriter
from mllm_probe.cache.store import Store
from mllm_probe.config.model import ModelSettings
from mllm_probe.config.run import RunConfig
from mllm_probe.data.coco import Selection
from mllm_probe.data.duplicates import grouped
from mllm_probe.data.scenes import Scenes
from mllm_probe.experiment.cache_identity import identity_of, name_cache
from mllm_probe.extraction.plan import Planner
from mllm_probe.extraction.proof import prove
from mllm_probe.extraction.stream import finish
from mllm_probe.extraction.taps import read_states
from mllm_probe.files.digests import open_digests
from mllm_probe.files.paths import OutputPaths
from mllm_probe.models.blueprint import Blueprint
from mllm_probe.models.hf import load_model
from mllm_probe.models.loading.checkpoint import find_checkpoint
from mllm_probe.models.loading.device import pick_device
from mllm_probe.probes.logistic import Logistic
from mllm_probe.records.problems import LayerData, Problem
from mllm_probe.records.sites import Key, Site
from mllm_probe.stats import intervals
from mllm_probe.stats.bootstrap import Resamples
from mllm_probe.stats.measures import measure
from mllm_probe.tasks.entailment import Entailment
from mllm_probe.tasks.splits import Folds

PICTURES = int(sys.argv[1]) if len(sys.argv) > 1 else 600
OUTPUTS = OutputPaths(Path(sys.argv[2] if len(sys.argv) > 2 else "outputs"))
SEEDS = (0, 1, 2)  # each draws train and validation anew; the test pictures stay

# 1. Pictures. ---------------------------------------------------------------------------------------------------------
# Scenes of coloured shapes with true captions, drawn once and kept as files in COCO's layout. Each file is known by the
# digest of its bytes, so that a picture that changes is a new picture and finds no old activations.
digests = open_digests(OUTPUTS.digests)
collection = Scenes(pictures=PICTURES).load(OUTPUTS.root, Selection(), digests)
# Pictures that look alike get one group, and a group is in one split: else test pictures would appear in training.
collection = replace(collection, pictures=grouped(collection.pictures, digests))

# 2. Samples and decisions. --------------------------------------------------------------------------------------------
# A sample is what the model reads: a picture and a text. A decision is what is scored: here, is the caption true of the
# picture? A false one is the caption of another picture. They are exchanged within a fold (pictures that go into one
# split together), so that each is equally often true and false there: neither text nor picture alone can tell.
folds = Folds()
examples = Entailment().examples(collection, folds)
samples = {sample.uid: sample for sample in examples.samples}
first = examples.samples[0]
print(f"{len(collection.pictures)} pictures, {len(samples)} samples; the first: {first.text!r} about {first.name}")

# 3. The model without its weights. ------------------------------------------------------------------------------------
# Its config and its processor say which layers there are and how long prompts become. What can be wrong is found here,
# before gigabytes are loaded. `mini` is a real LLaVA, only small; its language model is held in 4 bits (nf4).
config = RunConfig(model=ModelSettings(name="mini", bundled="mini", dtype="float32"))
checkpoint = find_checkpoint(config.model)
blueprint = Blueprint(checkpoint, config.model, config.prompt, config.extract.padding_side)
anatomy = blueprint.anatomy
# A key is a site (a tower and a layer) and a position in the prompt. `last` is the token that would produce the answer;
# `mean_image` is the mean over the picture's tokens, which come before the caption and so cannot depend on it.
layers = range(anatomy.blocks["lm"] + 1)  # 0 is what the first block receives
keys = [Key(Site("lm", layer), position) for layer in layers for position in ("last", "mean_image")]
survey = blueprint.survey(examples.samples, keys)
print(f"{len(keys)} keys from {keys[0]} to {keys[-1]}; the longest prompt has {survey.longest} tokens")

# 4. The cache. --------------------------------------------------------------------------------------------------------
# Its folder is named after all that can change a stored number: the content of the checkpoint's files, the number
# format, the prompt's wrapping (docs/design/cache-identity.md). Samples, sites and positions are not in that name: the
# folder lists which of them it has, and only what is missing is read.
identity = identity_of(checkpoint, config.model, config.prompt, config.extract, digests)
store = Store(OUTPUTS.cache(identity.digest), digests)
missing = store.coverage().missing(keys, samples)
print(f"cache {identity.digest} lacks activations of {sum(map(len, missing.values()))} samples")

if missing:  # else no weight is loaded
    device = pick_device("auto")
    model = load_model(blueprint, device, keys)
    name_cache(store, identity, "mini")

    # 5. A pass with a hook, by hand. ----------------------------------------------------------------------------------
    # A hook is called with what a block returns, and returns nothing: the model computes what it would compute anyway.
    # This one keeps the state of the last token behind the last block, of one prompt alone.
    by_hand = []
    block, _ = model.module(keys[-1].site)
    handle = block.register_forward_hook(
        lambda _module, _inputs, out: by_hand.append((out[0] if isinstance(out, tuple) else out)[0, -1].cpu())
    )
    with torch.inference_mode():
        model.forward(model.collate([first], keys))
    handle.remove()

    # 6. May statements share their picture? ---------------------------------------------------------------------------
    # Statements about a picture begin with the same tokens, and most of them are the picture's. To compute these once,
    # the statements are packed behind them in one sequence, and a mask keeps them from seeing each other. That must not
    # change a state, so this model has to show it on some prompts of this experiment (docs/design/packed-heads.md).
    proof = prove(model, [*examples.samples[:3], examples.samples[-1]], keys, survey.longest)
    model.anatomy = replace(anatomy, causal=proof.causal)
    print(proof.why or f"packing changes a state by {proof.error:.0e} of it: statements share their picture's tokens")

    # 7. The plan. -----------------------------------------------------------------------------------------------------
    # Which samples share a pass, and which passes a file, is fixed before the first pass. So whoever is killed goes on
    # with the first file that is missing, and ends with the bytes that an undisturbed run has.
    planner = Planner.of(survey, model.anatomy, device, "float32", shared=not proof.why)
    for plan in planner.plans(missing):
        group = store.begin(plan, model.provenance())
        print(f"plan {plan.digest}: {len(plan.ends)} passes into {plan.shards} shards")

        # 8. Passes into shards. ---------------------------------------------------------------------------------------
        # `read_states` puts a hook at every site, takes the rows of the positions asked for inside the hook, and leaves
        # the model behind the last site: no logits, no later block. A shard is renamed into place when it is whole.
        # (Several processes would claim shards first: docs/design/claims.md.)
        for number in range(plan.shards):
            if group.shard(number).exists():
                continue
            content = plan.content(number)
            writer = ShardWriter(group.shard(number), content.prefixes, content.owners, plan.spaces)
            for unit in content.units:
                read = [samples[uid] for uid in unit.samples]
                batch = model.collate(read, plan.keys, unit.prefix == SHARED, content.owners)
                writer.add(read_states(model, batch, plan.keys, torch.float32))
            writer.write()
        finish(plan, store)  # the manifest, with the digest of each shard: a group without one does not count

    stored, _ = store.read(Key(keys[-1].site, "last"), [first.uid], store.coverage())
    off = float((stored[0] - by_hand[0]).norm() / by_hand[0].norm())
    print(f"the first sample's state in the shard differs from the one read by hand by {off:.0e} of it")
digests.save()

# 9. Splits. -----------------------------------------------------------------------------------------------------------
# By picture, never by row. The test pictures are the same for all seeds, so that layers, controls and other models are
# compared on the same decisions. Labels of test rows are blanked: no probe can learn from what it does not get.
decisions = examples.decisions
y = np.asarray([decision.label for decision in decisions])  # [N]
groups = np.asarray([decision.group for decision in decisions])
problems = []
for seed in SEEDS:
    split_of = folds.splits(examples.folds, seed)
    split = np.asarray([split_of[group] for group in groups])
    problems.append(Problem(np.where(split == "test", 0, y), split == "train", split == "val", seed=seed))
test = split == "test"
floor = max(y[test].mean(), 1 - y[test].mean())
print(f"{test.sum()} of {len(y)} decisions are tested; the best constant answer has {floor:.1%}")

# 10. Probes and scores. -----------------------------------------------------------------------------------------------
# For each key a logistic regression per seed on standardised rows, solved to the optimum; validation chooses the
# strength of its penalty. The value is the mean over seeds. The interval says how much it may change with other
# pictures: decisions about one picture are not independent, so pictures are the unit (docs/probing.md).
pictures = Resamples(groups[test])
coverage = store.coverage()
scores: dict[str, tuple[float, float, float]] = {}  # value, low, high
validation: dict[str, float] = {}
for key in keys:
    rows, _ = store.rows(key, [decision.sample for decision in decisions], coverage)
    data = LayerData(rows)
    logits = np.stack([fit(data) for fit in Logistic().fit(data, problems)])  # [S, N], above 0 for yes
    interval = intervals.of("accuracy", logits[:, test], y[test], pictures)
    value = np.mean([measure("accuracy", one[test], y[test])[0] for one in logits])
    scores[str(key)] = (float(value), interval.low, interval.high)
    held_out = [measure("accuracy", one[p.val], y[p.val])[0] for one, p in zip(logits, problems, strict=True)]
    validation[str(key)] = float(np.mean(held_out))
    if key.position == "last":
        print(f"{key}: {value:.1%} [{interval.low:.1%}, {interval.high:.1%}]")
# Here a probe can only guess: a picture has equal numbers of true and false captions, and the state is the same for
# all of them. The command finds such keys by comparing rows, marks them `by design`, and tests none of them.
print(f"mean_image, at every block: {scores['lm.12@mean_image'][0]:.1%}")

# 11. Which layer? -----------------------------------------------------------------------------------------------------
# Not the one with the best test value: that would choose and judge on the same pictures. Validation chooses, the test
# pictures judge. Which blocks may be the best, and whether any is above chance at all when many are tested, are
# separate questions (docs/design/max-t.md).
best = max(validation, key=validation.__getitem__)
value, low, high = scores[best]
print(f"best layer on validation: {best}, with {value:.1%} [{low:.1%}, {high:.1%}] on the test pictures")
