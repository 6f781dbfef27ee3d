"""What torch sees of CUDA cards, and whether nf4 works here.

Only torch can tell, and it is asked in a process of its own: importing it takes seconds and gigabytes, and a broken
build of it, or of bitsandbytes, may end its process without an exception.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib.util import find_spec

from mllm_probe.errors import first_line
from mllm_probe.machine.findings import NOTE, OK, PROBLEM, Finding

LARGEST = 0.2  # error of nf4 on numbers up to 1
ASK = "from mllm_probe.machine.cards import tell; tell()"  # the whole life of the other process


def cards() -> list[Finding]:
    """None without torch, which is missed among the packages already."""
    if not find_spec("torch"):
        return []
    there = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.run([sys.executable, "-P", "-c", ASK], env=there, stdout=subprocess.PIPE, text=True)
    if child.returncode:
        remedy = "pip install --force-reinstall torch bitsandbytes"
        return [Finding("torch", f"ends its process with code {child.returncode}", PROBLEM, remedy)]
    return [Finding(**row) for row in json.loads(child.stdout.splitlines()[-1])]  # libraries may print before


def tell() -> None:
    """What torch knows, as a line of JSON."""
    try:
        import torch  # noqa: F401
    except Exception as problem:  # it may lack a library that it links to, for one
        remedy = "pip install --force-reinstall torch"
        found = [Finding("torch", f"cannot be imported: {first_line(problem)}", PROBLEM, remedy)]
    else:
        found = [*_cuda(), *_nf4()]
    print(json.dumps([asdict(finding) for finding in found]))


def _cuda() -> Iterator[Finding]:
    import torch

    build = f"torch was built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch was built for the CPU"
    if not torch.cuda.is_available():
        yield Finding("CUDA", f"none; {build}", NOTE, "device=cpu serves model=mini; large models need a card")
        return
    for card in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(card)
        name = f"{torch.cuda.get_device_name(card)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        plain = Finding(f"CUDA {card}", name)
        with torch.cuda.device(card):
            lacks = Finding(f"CUDA {card}", f"{name}, no bfloat16", NOTE, "model.dtype=float16")
            yield plain if torch.cuda.is_bf16_supported() else lacks


def _nf4() -> Iterator[Finding]:
    """A real round trip on the device at hand."""
    if not find_spec("bitsandbytes"):
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        from mllm_probe.models.loading.device import nf4_error

        error = nf4_error(device)
    except Exception as problem:  # bitsandbytes fails in as many ways as there are builds of it
        remedy = "pip install --upgrade bitsandbytes, or model.quantization=none"
        yield Finding("nf4", f"fails on {device}: {first_line(problem)}", PROBLEM, remedy)
        return
    mark = OK if error < LARGEST else PROBLEM
    yield Finding("nf4", f"works on {device}, a round trip differs by {error:.2f} at most", mark)
