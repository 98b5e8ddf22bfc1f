"""What torch on this machine can do, asked in a process of its own: the command line never loads torch itself.

In: nothing. Out: a `TorchReport`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

_PROBE = """
import json, torch
gpus = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append([properties.name, properties.total_memory])
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""
PROBE_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class TorchReport:
    """What a fresh process found.

    Attributes:
        version: empty if torch is missing or broken.
        cuda: the CUDA release torch was built for; None for a CPU build.
        gpus: name and memory in bytes of each device.
        error: why it could not be imported; empty if it is simply not installed, or fine.
    """

    version: str = ""
    cuda: str | None = None
    gpus: tuple[tuple[str, int], ...] = ()
    error: str = ""


def probe_torch() -> TorchReport:
    """Import torch elsewhere and report; takes a few seconds."""
    if find_spec("torch") is None:
        return TorchReport()
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return TorchReport(error=f"no answer after {PROBE_TIMEOUT_S} s")
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return TorchReport(error=lines[-1] if lines else f"exit status {done.returncode}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return TorchReport(
        version=found["version"],
        cuda=found["cuda"],
        gpus=tuple((name, memory) for name, memory in found["gpus"]),
    )
