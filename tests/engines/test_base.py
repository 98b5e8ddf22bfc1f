"""The border every engine shares: the parts of it that do something."""

from __future__ import annotations

import pytest

from engines.base import ContextLengthError, EngineInfo, fit_max_tokens


@pytest.mark.parametrize(
    ("num_prompt", "wanted", "expected"),
    [(10, 5, 5), (10, 90, 90), (10, 91, 90), (10, None, 50), (60, None, 40), (99, 4096, 1), (99, None, 1)],
)
def test_an_answer_gets_what_it_asks_for_or_what_is_left(num_prompt: int, wanted: int | None, expected: int) -> None:
    assert fit_max_tokens(num_prompt, wanted, 50, 100) == expected


@pytest.mark.parametrize(("num_prompt", "over"), [(100, 1), (107, 8)])
def test_a_prompt_without_room_for_one_token_is_refused_with_the_excess(num_prompt: int, over: int) -> None:
    with pytest.raises(ContextLengthError, match=rf"\b{over} more than fit") as caught:
        fit_max_tokens(num_prompt, 1, 50, 100)

    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("variant", "shown"), [("full", "m"), ("pocket", "m-pocket"), ("random-tiny", "m-random-tiny")]
)
def test_any_weights_but_the_real_ones_show_in_the_models_name(variant: str, shown: str) -> None:
    assert EngineInfo("glm", "m", variant, 100, 1).model_id == shown  # type: ignore[arg-type]
