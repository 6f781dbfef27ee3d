"""What streaming with shared heads gains over the loop that people write: one table and one JSON file.

    OMP_NUM_THREADS=1 python scripts/bench_extract.py --setting small       # CPU: 256 wide, 576 picture tokens
    OMP_NUM_THREADS=1 python scripts/bench_extract.py --setting mini        # the bundled model in nf4
    python scripts/bench_extract.py --setting llava-7b --device cuda        # real size, random weights, nf4
    python scripts/bench_extract.py --setting qwen2.5-vl-7b --device cuda

All arms decode pictures from files, read the last token at every layer of the language model and write the result:

    a    the plain loop: one prompt at a time, output_hidden_states=True, all logits, torch.save at the end
    a*   the same at its best batch of 1..32, without a cache, the last logit alone
    b    one prompt at a time with hooks, no logits
    p8   prompts in padded batches of 8, output_hidden_states=True, no logits
    c    mllm-probe with extract.prefix=off
    d    mllm-probe
    d-   mllm-probe with model.keep_dequantised=false, where the model is quantised and read on a CPU

Repeats are interleaved and medians taken. Loading and the proof at load are left out of all arms; planning is in.
`difference` is the largest relative difference of a row to arm a's. Memory is what an arm takes beside the weights
for the statements of one picture in flight together.
"""

import argparse
import ctypes
import gc
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from bench_models import SETTINGS, make, operations, statement
from rich.console import Console
from rich.table import Table

from mllm_probe.cache.claims import Claims
from mllm_probe.cache.store import Store
from mllm_probe.config.model import DTYPES
from mllm_probe.data.drawing import draw, random_scene
from mllm_probe.data.pictures import open_rgb
from mllm_probe.extraction.estimate import matrix_rate
from mllm_probe.extraction.plan import PASS_TOKENS, Planner
from mllm_probe.extraction.proof import prove
from mllm_probe.extraction.sharing import Work
from mllm_probe.extraction.stream import Extraction
from mllm_probe.files.digests import Digests, file_digest
from mllm_probe.files.store_paths import CachePaths
from mllm_probe.models.hf import HFModel
from mllm_probe.records.batches import common_head
from mllm_probe.records.samples import Picture, Sample
from mllm_probe.records.sites import Key, Site

BATCHES = (1, 2, 4, 8, 16, 32)
States = dict[str, torch.Tensor]  # {uid: [layers, D]}


class Quiet:
    """A Reporter with nothing to say."""

    def note(self, text: str) -> None:
        pass

    def progress(self, stage: str, done: int, total: int, unit: str) -> None:
        pass


def statements(folder: Path, count: int, per_picture: int) -> list[Sample]:
    """`count` statements about count / per_picture drawn scenes, saved as photographs are: JPEG of 640 x 480."""
    rng, samples = Random(0), []
    for number in range(max(1, count // per_picture)):
        path = folder / f"{number}.jpg"
        draw(random_scene(rng)).resize((640, 480)).save(path, quality=90)
        picture = Picture(str(number), path, file_digest(path))
        texts: dict[str, None] = {}
        while len(texts) < per_picture:
            texts[statement(rng)] = None
        samples += [Sample.of([picture], text, {}) for text in texts]
    return samples


@dataclass
class Arms:
    """The ways to read the states of all samples into files of `folder`."""

    model: HFModel
    samples: list[Sample]
    folder: Path
    micro_batch: int | None
    own: HFModel | None = None  # a model of its own for d, where its matrices are kept unpacked

    def __post_init__(self) -> None:
        self.blueprint = self.model._blueprint
        sites = [site for site in self.model.anatomy.sites() if site.tower == "lm" and site.part in ("block", "norm")]
        self.keys = tuple(Key(site, "last") for site in sites)
        self.survey = self.blueprint.survey(self.samples, self.keys)
        self.longest = self.survey.longest
        self.micro_batch = self.micro_batch or max(1, PASS_TOKENS[self.model._device] // self.longest)

    @property
    def plain_file(self) -> Path:
        return self.folder / "states.pt"

    @property
    def store(self) -> Store:
        return Store(CachePaths(self.folder / "cache"), Digests(self.folder / "digests.json"))

    def inputs(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        texts = [self.blueprint.prompter.render(sample).text for sample in samples]
        images = [[open_rgb(sample.images[0])] for sample in samples]
        found = self.blueprint.processor(text=texts, images=images, padding=True, return_tensors="pt")
        dtype = getattr(torch, self.blueprint.settings.dtype)
        return {
            name: value.to(self.model._device, dtype if value.is_floating_point() else None)
            for name, value in found.items()
        }

    @torch.inference_mode()
    def loop(self, batch: int, lean: bool, samples: list[Sample] | None = None) -> None:
        """Arms a and a*."""
        options: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1} if lean else {}
        states: States = {}
        for i in range(0, len(samples or self.samples), batch):
            some = (samples or self.samples)[i : i + batch]
            inputs = self.inputs(some)
            out = self.model._model(**inputs, output_hidden_states=True, **options)
            last = inputs["attention_mask"].sum(dim=1) - 1
            rows = torch.arange(len(some), device=last.device)
            kept = torch.stack([hidden[rows, last] for hidden in out.hidden_states], dim=1).cpu()
            states |= {sample.uid: one.clone() for sample, one in zip(some, kept, strict=True)}
        torch.save(states, self.plain_file)

    @torch.inference_mode()
    def padded(self, batch: int) -> None:
        """Arm p8."""
        states: States = {}
        for i in range(0, len(self.samples), batch):
            some = self.samples[i : i + batch]
            inputs = self.inputs(some)
            out = self.model._model.base_model(**inputs, output_hidden_states=True, use_cache=False)
            last = inputs["attention_mask"].sum(dim=1) - 1
            rows = torch.arange(len(some), device=last.device)
            kept = torch.stack([hidden[rows, last] for hidden in out.hidden_states], dim=1).cpu()
            states |= {sample.uid: one.clone() for sample, one in zip(some, kept, strict=True)}
        torch.save(states, self.plain_file)

    @torch.inference_mode()
    def hooks(self) -> None:
        """Arm b."""
        seen: list[torch.Tensor] = []
        handles = [
            self.model.module(key.site)[0].register_forward_hook(
                lambda _module, _args, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1].cpu())
            )
            for key in self.keys[1:]
        ]
        states: States = {}
        for sample in self.samples:
            seen.clear()
            self.model._model.base_model(**self.inputs([sample]), use_cache=False)
            states[sample.uid] = torch.stack([*seen[:-2], seen[-1]])  # as transformers has it: the last behind the norm
        for handle in handles:
            handle.remove()
        torch.save(states, self.plain_file)

    def ours(self, shared: bool, samples: list[Sample] | None = None, own: HFModel | None = None) -> dict[str, Any]:
        """Arms c, d and d-: survey, plan, stream, manifest."""
        some, model = samples or self.samples, own or self.model
        width = torch.finfo(getattr(torch, self.blueprint.settings.dtype)).bits // 8
        survey = self.blueprint.survey(some, self.keys)
        planner = Planner(survey, self.model.anatomy, self.micro_batch, width, shared)
        plans = planner.plans({self.keys: [sample.uid for sample in some]})
        by_uid = {sample.uid: sample for sample in some}
        work = Work(self.blueprint.settings.dtype)
        with Claims() as claims:
            return Extraction(model, by_uid, self.store, work, Quiet()).run(plans, claims)

    def stored(self) -> States:
        """The states of the last arm, in the order of output_hidden_states: the last is behind the norm."""
        if self.plain_file.exists():
            return torch.load(self.plain_file)
        uids, store = [sample.uid for sample in self.samples], self.store
        coverage, top = store.coverage(), Site("lm", self.model.anatomy.blocks["lm"])
        rows = [store.read(key, uids, coverage)[0] for key in self.keys if key.site != top]
        return dict(zip(uids, torch.stack(rows, dim=1), strict=True))

    def written(self) -> int:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.suffix in (".pt", ".safetensors"))

    def clean(self) -> None:
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        self.plain_file.unlink(missing_ok=True)

    def tokens(self, shared: bool) -> int:
        """That pass through the language model."""
        if not shared:
            return int(self.survey.tokens.sum())
        total, rows = 0, {}
        for row, sample in enumerate(self.samples):
            rows.setdefault(sample.digests[0], []).append(row)
        for one in rows.values():
            head = common_head([self.survey.ids(row) for row in one]) + self.survey.picture_tokens
            total += head + int((self.survey.tokens[one] - head).sum())
        return total


def best_batch(arms: Arms) -> int:
    """The batch of 1..32 at which the plain loop is fastest, each tried on one batch behind one to warm up."""
    arms.loop(1, lean=True, samples=arms.samples[:1])
    rates = {}
    for batch in (batch for batch in BATCHES if batch <= len(arms.samples)):
        rates[batch] = batch / timed(lambda batch=batch: arms.loop(batch, lean=True, samples=arms.samples[:batch]))
    return max(rates, key=rates.__getitem__)


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a card, or of CPU time, which company on a shared machine does not change."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    started = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def peak_bytes(run: Callable[[], Any]) -> int:
    """What a run takes beside what is there already: device memory, or the process's resident peak on a CPU."""
    gc.collect()
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _resident(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024


def difference(found: States, oracle: States) -> float:
    """The largest relative difference of a row; arm b has no embeddings, so rows are counted from the end."""
    worst = 0.0
    for uid, one in found.items():
        other = oracle[uid][-len(one) :].float()
        worst = max(worst, float(((one.float() - other).norm(dim=1) / other.norm(dim=1)).max()))
    return worst


def compare(arms: Arms, repeats: int, per_picture: int) -> list[dict[str, Any]]:
    """One row of the table for each arm."""
    best = best_batch(arms)
    runs: dict[str, Callable[[], Any]] = {
        "a": lambda: arms.loop(1, lean=False),
        "a*": lambda: arms.loop(best, lean=True),
        "b": arms.hooks,
        "p8": lambda: arms.padded(8),
        "c": lambda: arms.ours(shared=False, own=arms.own),
        "d": lambda: arms.ours(shared=True, own=arms.own),
    }
    if arms.own is not None:
        runs["d-"] = lambda: arms.ours(shared=True)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    facts: dict[str, dict[str, Any]] = {}
    oracle: States = {}
    for _ in range(repeats):
        for name, run in runs.items():
            arms.clean()
            seconds[name].append(timed(run))
            if name not in facts:
                states = arms.stored()
                oracle = oracle or states
                facts[name] = {"bytes": arms.written(), "difference": difference(states, oracle)}
    rates = {name: len(arms.samples) / statistics.median(times) for name, times in seconds.items()}
    ideal = arms.tokens(shared=False) / arms.tokens(shared=True)
    return [
        {"statements": per_picture, "arm": name, "batch": best if name == "a*" else None, "rate": rates[name]}
        | {"times_a": rates[name] / rates["a"], "times_a_star": rates[name] / rates["a*"], "ideal": ideal}
        | facts[name]
        for name in runs
    ]


def memory(arms: Arms, per_picture: int) -> dict[str, int]:
    """Peak of each of a* and d with the statements of one picture in flight together."""
    some = arms.samples[:per_picture]
    found = {}
    for name, run in (
        ("a*", lambda: arms.loop(per_picture, lean=True, samples=some)),
        ("d", lambda: arms.ours(shared=True, samples=some, own=arms.own)),
    ):
        arms.clean()
        found[name] = peak_bytes(run)
    return found


def growth(model: HFModel, micro_batch: int | None, per_picture: int, count: int) -> dict[int, int]:
    """Peak of arm d for `count` statements and for ten times as many."""
    found = {}
    for examples in (per_picture, count, 10 * count):  # the first to warm up
        with tempfile.TemporaryDirectory() as name:
            arms = Arms(model, statements(Path(name), examples, per_picture), Path(name), micro_batch)
            found[examples] = peak_bytes(lambda arms=arms: arms.ours(shared=True))
    return {count: found[count], 10 * count: found[10 * count]}


def utilisation(arms: Arms, rate: float, dtype: str) -> dict[str, float]:
    """Arm d's operations a second as a share of a large matrix product timed in the same run."""
    device = arms.model._device
    patches = len({sample.digests[0] for sample in arms.samples}) * max(arms.survey.picture_tokens, 1)
    work = operations(arms.model, arms.tokens(shared=True), patches) / len(arms.samples)
    product = matrix_rate(device, dtype)
    return {"matrix_product_per_s": product, "share_of_it": work * rate / product}


def idle(arms: Arms) -> float | None:
    """Share of arm d's loop in which the device runs no kernel; None on a CPU."""
    if arms.model._device != "cuda":
        return None
    arms.clean()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        seconds = timed(lambda: arms.ours(shared=True))
    busy = sum(event.self_device_time_total for event in profile.key_averages()) / 1e6
    return 1 - busy / seconds


def show(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table("picture", "arm", "per second", "x a", "x a*", "token ideal", "MB written", "difference")
    for row in rows:
        batch = f" (batch {row['batch']})" if row["batch"] else ""
        table.add_row(
            str(row["statements"]),
            row["arm"] + batch,
            f"{row['rate']:.2f}",
            f"{row['times_a']:.2f}",
            f"{row['times_a_star']:.2f}",
            f"{row['ideal']:.1f}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['difference']:.1e}",
        )
    console.print(table)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="mini")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, help="of the computation (default: what suits the setting)")
    parser.add_argument("--tiny", action="store_true", help="shrink the model, to try the way")
    parser.add_argument("--statements", type=int, nargs="+", default=[1, 5, 10, 20], help="per picture")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--micro-batch", type=int, help="of c and d (default: that of the command)")
    parser.add_argument("--growth", type=int, help="also peak memory for so many statements and ten times as many")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    return parser.parse_args()


def main() -> None:
    args, console = arguments(), Console()
    with tempfile.TemporaryDirectory() as name:
        model = make(args.setting, Path(name), args.device, args.tiny, args.dtype)
        own = None
        if args.device == "cpu" and model.provenance()["quantized_modules"]:
            own = make(args.setting, Path(name), args.device, args.tiny, args.dtype)
            own.keep_dequantised()
        rows: list[dict[str, Any]] = []
        report: dict[str, Any] = {key: str(value) for key, value in vars(args).items()} | {"rows": rows, "memory": {}}
        for per_picture in args.statements:
            with tempfile.TemporaryDirectory() as folder:
                samples = statements(Path(folder), args.examples, per_picture)
                arms = Arms(model, samples, Path(folder), args.micro_batch, own)
                proof = prove(model, samples[:5], arms.keys, arms.longest)
                report["proof"] = asdict(proof)
                console.print(
                    f"packing changes a state by at most {proof.error:.1e} of its norm, "
                    f"company in a plain batch by {proof.noise:.1e}; {proof.why or 'heads are shared'}"
                )
                found = compare(arms, args.repeats, per_picture)
                rows += found
                taken = memory(arms, per_picture)
                report["memory"][per_picture] = taken
                rate = next(row["rate"] for row in found if row["arm"] == "d")
                used = utilisation(arms, rate, model._blueprint.settings.dtype)
                report["utilisation"] = {**used, "idle": (waiting := idle(arms))}
            show(found, console)
            ratio = taken["d"] / max(taken["a*"], 1)
            console.print(
                f"peak memory, {per_picture} in flight: a* {taken['a*'] / 1e6:.0f} MB, "
                f"d {taken['d'] / 1e6:.0f} MB ({ratio:.2f}); "
                f"d runs at {used['share_of_it']:.0%} of a matrix product"
                + (f", the device idles {waiting:.0%}" if waiting is not None else "")
            )
        if args.growth:
            report["growth"] = growth(model, args.micro_batch, args.statements[-1], args.growth)
            console.print({f"{n} statements": f"{peak / 1e6:.0f} MB" for n, peak in report["growth"].items()})
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
