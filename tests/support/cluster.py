"""A real SLURM of one node, as whoever runs the tests: munged, slurmctld and slurmd, all files below one folder.

It keeps no accounts, so a script stands in for sacct, without which submitit waits for ever for a job that was killed.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from getpass import getuser
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
PLACES = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin"))
MISSING = [name for name in DAEMONS if shutil.which(name, path=PLACES) is None]
PATIENCE = 120.0  # seconds for anything to happen
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
MaxArraySize=5
SchedulerParameters=sched_interval=1,bf_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=60 DefMemPerCPU=200 State=UP
PartitionName=brief Nodes={host} MaxTime=5 DefMemPerCPU=200 State=UP
"""
SACCT = """\
#!{python}
import re, subprocess, sys

print("JobID|State|NodeList")
for flag, name in zip(sys.argv, sys.argv[1:]):
    asked = ["scontrol", "show", "job", "--oneliner", name] if flag == "-j" else ["true"]
    for line in subprocess.run(asked, capture_output=True, text=True).stdout.splitlines():
        job = dict(re.findall(r"(\\w+)=(\\S*)", line))
        task = job.get("ArrayTaskId", "")
        place = f"[{{task}}]" if re.search(r"[-,%]", task) else task
        name = f"{{job['ArrayJobId']}}_{{place}}" if task else job["JobId"]
        print(f"{{name}}|{{job['JobState']}}|{{job['NodeList']}}")
"""


def until(happened: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment in which sbatch, squeue and scancel mean this cluster; the daemons end with the context."""
    host = platform.node().partition(".")[0]
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    fill = {"folder": folder, "host": host, "user": getuser(), "ports": _free(2), "cpus": min(2, os.cpu_count() or 1)}
    (folder / "slurm.conf").write_text(CONFIG.format(**fill))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "bin" / "sacct").write_text(SACCT.format(python=sys.executable))
    (folder / "bin" / "sacct").chmod(0o755)
    path = os.pathsep.join((str(folder / "bin"), PLACES))
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in ("key-file", "socket", "pid-file")]
    files += [f"--{name}-file={folder}/munge.{name}" for name in ("log", "seed")]
    munge = ["munged", "--foreground", "--force", *files]
    with ExitStack() as stack:
        for command, ready in (
            (munge, ["munge", "--no-input", f"--socket={folder}/munge.socket"]),
            (["slurmctld", "-D"], ["scontrol", "ping"]),
            (["slurmd", "-D", "-N", host], ["sinfo", "--noheader", "--states=idle", "--format=%T"]),
        ):
            stack.enter_context(_daemon(command, folder, environment))
            until(lambda ready=ready: _answers(ready, environment), f"{command[0]}, see {folder}/{command[0]}.log")
        yield environment


@contextmanager
def _daemon(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _answers(command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether it succeeds and says something that is no bad news."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode == 0 and bool(done.stdout.strip()) and "DOWN" not in done.stdout


def _free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
