"""What each process may load: the api and the command line stay small and never touch torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "transformers", "tokenizers", "numpy", "engines.glm", "engines.owl2", "engines.pocket"),
    "cryptography.hazmat",  # 18 MB; an api that takes tokens loads it
    "aiohttp.client",  # a tenth of the start; whoever fetches a picture or posts a webhook loads it
)
_PROBE = """
import json, sys
{body}
loaded = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps(loaded))
"""


def loaded_by(body: str) -> list[str]:
    probe = _PROBE.format(body=body, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded: list[str] = json.loads(done.stdout.splitlines()[-1])
    return loaded


@pytest.mark.parametrize(
    "body",
    [
        "from router.app import create_app; from router.settings import Settings; create_app(Settings())",
        "from router.worker import create_worker; from router.settings import Settings; create_worker(Settings())",
        "import router.cli.main",
        "import engines.http.server, engines.http.client, engines.echo",
        "from policies.features import Question, measure; measure(Question('Wat is dit voor een dier?'))",
    ],
)
def test_no_process_but_an_engine_loads_torch(body: str) -> None:
    assert loaded_by(body) == []
