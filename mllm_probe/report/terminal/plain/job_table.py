"""The table of `mllm-probe status`: a row for each job."""

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mllm_probe.errors import count
from mllm_probe.files.job_states import STATES, Standing, seconds
from mllm_probe.files.jobs import Job, now
from mllm_probe.report.terminal.printing import add_row, bare, wide_console


def job_table(jobs: Sequence[Standing]) -> Group:
    """A row for each job; below it what went wrong, each reason once; how many there are of each state."""
    states = Counter(job.state for job in jobs)
    said = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return Group(_table(jobs), *_reasons(jobs), Text(f"{count(len(jobs), 'job')}: {said}"))


def live(jobs: Sequence[Standing]) -> Live:
    """The table where it may be drawn again."""
    return Live(job_table(jobs), console=wide_console(), auto_refresh=False)


def _table(jobs: Sequence[Standing]) -> Table:
    table = bare()
    for name in ("", "state", "stage", "time", "where", "overrides"):
        table.add_column(name)
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for number, standing in enumerate(jobs):
        apart = [override for override in standing.overrides if override not in common]
        told = (_stage(standing.job), _time(standing.job)) if standing.job else ("", "")
        add_row(table, str(number), standing.state, *told, " ".join(_where(standing)), " ".join(apart))
    return table


def _stage(job: Job) -> str:
    return f"{job.stage} {job.done}/{job.total} {job.unit}" if job.stage else job.note


def _time(job: Job) -> str:
    minutes, rest = divmod(int(seconds(job.started, job.ended or now())), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _where(standing: Standing) -> Iterator[str]:
    if standing.name:
        yield f"job {standing.name}"
    if standing.job:
        yield standing.job.host
        if standing.job.restarts:
            yield f"({count(standing.job.restarts, 'restart')})"


def _reasons(jobs: Sequence[Standing]) -> Iterator[Text]:
    alike: dict[tuple[str, str], list[str]] = {}
    for number, job in enumerate(jobs):
        if job.why:
            alike.setdefault((job.state, job.why), []).append(str(number))
    for (state, why), numbers in alike.items():
        yield Text(f"{state} ({', '.join(numbers)}): {why}")
    for number, job in enumerate(jobs):
        if job.asked and job.job and job.asked.code and job.job.code not in ("", job.asked.code):
            yield Text(f"{number} ran other code than when it was submitted: {job.job.code}, {job.asked.code}")
