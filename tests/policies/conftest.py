"""What the policy tests share: the shipped presets, and a way to build features by naming only what matters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from policies.features import Features
from policies.rules import Rules, load_preset

PLAIN_CHINESE = Features(
    language="zh",
    language_source="script",
    num_images=1,
    num_new_images=1,
    mentions_several_images=False,
    multi_hop=0.1,
    multi_hop_cues=(),
    is_interactive=False,
    interactive_reason=None,
    num_chars=9,
    requested_route="auto",
    requested_engine=None,
)


@pytest.fixture(scope="session")
def seed() -> Rules:
    return load_preset("seed")


@pytest.fixture
def features() -> Callable[..., Features]:
    def build(**changes: Any) -> Features:
        return replace(PLAIN_CHINESE, **changes)

    return build
