"""Tables of encoders with known scores."""

from pathlib import Path

from mllm_probe.config.vision import FitSettings
from mllm_probe.vision.encoder_table import Benchmark, read_table

NAMES = ("mmbench", "mme", "mmmu", "okvqa", "textvqa", "vizwiz", "scienceqa", "seed")


def benchmarks(a: str) -> dict[str, Benchmark]:
    return {each.name: each for each in read_table(FitSettings(a=a, on_bad_row="skip")).benchmarks}


A_COS, A_LOGLIK = benchmarks("a_cos"), benchmarks("a_loglik")
TABLE = "representation,a_loglik,c_pck010,perf_one,two\n"
ROWS = [f"r{i},{-3 + 0.3 * i},{(7 * i) % 11},{40 + i * i},{i}\n" for i in range(8)]


def written(folder: Path, *rows: str, header: str = TABLE) -> Path:
    (folder / "mine.csv").write_text(header + "".join(rows or ROWS))
    return folder / "mine.csv"


def results(folder: Path, job: str) -> list[Path]:
    return sorted((folder / "outputs" / job).glob("*/*"))
