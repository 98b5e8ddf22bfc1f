"""vLLM's entry point: it calls `register` in each of its processes before a model is built.

In: nothing. Out: the config class known to transformers, and the model's class to vLLM, imported when it is needed.
"""

from __future__ import annotations

from importlib.metadata import entry_points

GROUP = "vllm.general_plugins"
NAME = "glowl_owl2"
ARCHITECTURE = "MPLUGOwl2ForConditionalGeneration"


def register() -> None:
    """Make mPLUG-Owl2 known; may be called any number of times."""
    from vllm import ModelRegistry

    import engines.owl2  # noqa: F401 - registers the config class with transformers

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "engines.owl2_vllm.model:Owl2ForVllm")


def is_installed() -> bool:
    """Whether vLLM's other processes will find `register`, which they only do by the distribution's entry point."""
    return any(entry.name == NAME for entry in entry_points(group=GROUP))
