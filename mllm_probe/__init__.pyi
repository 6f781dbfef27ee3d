from mllm_probe.api import extract as extract
from mllm_probe.api import load_cache as load_cache
from mllm_probe.api import load_scores as load_scores
from mllm_probe.api import run as run
from mllm_probe.api import sweep as sweep

__version__: str
