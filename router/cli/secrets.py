"""Which variables of the user's environment a process gets: its own settings, and no key or secret of another's.

In: the environment. Out: the same without what the process has no use for. An engine runs code and weights of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

# Read by huggingface_hub and modelscope, which only engines use.
_HUB_TOKENS = frozenset({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN"})
# The key of a collector of traces can be in their headers.
_OF_COLLECTORS = "OTEL_"
# Callers' keys are the api's to check.
_OF_THE_API = ("GLOWL_API_KEYS", "GLOWL_JWT_")


def is_for_engine(name: str) -> bool:
    """Whether an engine may have a variable: none of ours; everything reaches it by its options."""
    return not name.startswith(("GLOWL_", "REDIS_URL"))


def is_for_other(name: str) -> bool:
    """Whether a process that is none of ours may have a variable: redis, and what makes checkpoints."""
    return is_for_engine(name) and name not in _HUB_TOKENS and not name.startswith(_OF_COLLECTORS)


def is_for_worker(name: str) -> bool:
    """Whether a worker may have a variable."""
    return name not in _HUB_TOKENS and not name.startswith(_OF_THE_API)


def is_for_api(name: str) -> bool:
    """Whether the api may have a variable."""
    return name not in _HUB_TOKENS


def keep(environ: Mapping[str, str], is_for: Callable[[str], bool]) -> dict[str, str]:
    """Return the variables that a process may have."""
    return {name: value for name, value in environ.items() if is_for(name)}
