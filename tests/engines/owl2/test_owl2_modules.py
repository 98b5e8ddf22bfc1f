"""engines.owl2 vision, abstractor and language: each part against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from engines.owl2.abstractor import PositionTables, key_positions, query_positions
from engines.owl2.attention import eager_attention
from engines.owl2.config import MPLUGOwl2AbstractorConfig
from engines.owl2.language import (
    ModalityRouting,
    MPLUGOwl2RMSNorm,
    Multiway,
    apply_rotary,
    rotary_tables,
)
from engines.owl2.vision import VisionAttention, VisionModel


def test_position_tables_have_the_sums_of_the_published_size() -> None:
    keys, queries = key_positions(32, 1024), query_positions(64, 1024)

    assert keys.shape == (1025, 1024)
    assert queries.shape == (64, 1024)
    assert keys.sum().item() == pytest.approx(439601.4, abs=0.1)
    assert queries.sum().item() == pytest.approx(25048.26, abs=0.01)


def test_key_positions_start_with_zeros_and_encode_the_column_before_the_row() -> None:
    table = key_positions(4, 8)

    assert not table[0].any()
    row_1_column_2 = table[1 + 1 * 4 + 2]
    assert row_1_column_2[0] == pytest.approx(torch.sin(torch.tensor(2.0)).item())  # column, first frequency
    assert row_1_column_2[2] == pytest.approx(torch.cos(torch.tensor(2.0)).item())
    assert row_1_column_2[4] == pytest.approx(torch.sin(torch.tensor(1.0)).item())  # row


def test_position_tables_follow_the_dtype_and_can_be_trained_with_after_inference() -> None:
    tables = PositionTables(MPLUGOwl2AbstractorConfig())
    weight = torch.ones(64, 1024, requires_grad=True)

    with torch.inference_mode():
        q_pos, k_pos = tables.get(torch.zeros(1, dtype=torch.bfloat16))
        tables.get(torch.zeros(1))
    (tables.get(torch.zeros(1))[0] * weight).sum().backward()

    assert (q_pos.dtype, k_pos.dtype) == (torch.bfloat16, torch.bfloat16)
    assert weight.grad is not None
    assert weight.grad.sum().item() == pytest.approx(25048.26, abs=0.1)


def test_multiway_gives_each_row_to_the_module_of_its_modality() -> None:
    torch.manual_seed(0)
    multiway = Multiway(lambda: nn.Linear(3, 5))
    indicators = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    rows = torch.randn(2, 4, 3)

    mixed = multiway(rows, ModalityRouting.from_indicators(indicators))

    for b in range(2):
        for s in range(4):
            torch.testing.assert_close(mixed[b, s], multiway.multiway[int(indicators[b, s])](rows[b, s]))


@pytest.mark.parametrize("value", [0, 1])
def test_multiway_serves_a_batch_of_one_modality_and_no_routing_means_text(value: int) -> None:
    torch.manual_seed(0)
    multiway = Multiway(lambda: nn.Linear(3, 5))
    rows = torch.randn(2, 4, 3)

    routed = multiway(rows, ModalityRouting.from_indicators(torch.full((2, 4), value)))

    torch.testing.assert_close(routed, multiway.multiway[value](rows))
    torch.testing.assert_close(multiway(rows, None), multiway.multiway[0](rows))


def test_multiway_sends_gradients_to_both_modules() -> None:
    multiway = Multiway(lambda: nn.Linear(3, 5))

    multiway(torch.ones(1, 2, 3), ModalityRouting.from_indicators(torch.tensor([[0, 1]]))).sum().backward()

    assert all(module.weight.grad.abs().sum() > 0 for module in multiway.multiway)


def test_rotary_attention_depends_on_the_distance_of_two_rows_only(config: Any) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, config.head_dim), torch.randn(1, 1, 1, config.head_dim)

    def score(query_at: int, key_at: int) -> float:
        rotated_query = apply_rotary(query, *rotary_tables(config, torch.tensor([[query_at]])))
        rotated_key = apply_rotary(key, *rotary_tables(config, torch.tensor([[key_at]])))
        return (rotated_query * rotated_key).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-4)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-4)


def test_rotary_tables_stay_float32_in_a_half_precision_model(config: Any) -> None:
    cos, _ = rotary_tables(config, torch.arange(100)[None])
    states = torch.ones(1, 1, 100, config.head_dim, dtype=torch.bfloat16)

    assert cos.dtype == torch.float32
    assert cos[0, 3, 0].item() == pytest.approx(torch.cos(torch.tensor(3.0)).item())
    assert apply_rotary(states, cos, cos).dtype == torch.bfloat16


def test_linear_rope_scaling_stretches_positions(config: Any, make_config: Any) -> None:
    scaled = make_config(rope_scaling={"type": "linear", "factor": 2.0}, rope_theta=10000.0)

    torch.testing.assert_close(
        rotary_tables(scaled, torch.tensor([[8]])), rotary_tables(config, torch.tensor([[4]])), atol=1e-6, rtol=0
    )


def test_rms_norm_keeps_the_input_dtype_and_normalises_in_float32() -> None:
    norm = MPLUGOwl2RMSNorm(4, 1e-6).half()

    normed = norm(torch.full((1, 4), 300.0, dtype=torch.float16))  # 300 squared is over float16's largest number

    assert normed.dtype == torch.float16
    torch.testing.assert_close(normed, torch.ones(1, 4, dtype=torch.float16))


def test_eager_attention_equals_the_fused_one() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 5, 8)
    mask = torch.full((5, 5), float("-inf")).triu(1)[None, None]

    mixed, weights = eager_attention(nn.Identity(), query, key, value, mask, scaling=8**-0.5)

    fused = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(mixed.transpose(1, 2), fused)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))


def test_the_fused_vision_projection_is_laid_out_head_by_head(config: Any) -> None:
    torch.manual_seed(0)
    attention = VisionAttention(config.vision)
    rows = torch.randn(1, 6, 16)
    fused = attention.query_key_value(rows).view(1, 6, 2, 3, 8)
    query, key, value = (fused[:, :, :, index].transpose(1, 2) for index in range(3))

    expected = ((query @ key.transpose(2, 3)) * 8**-0.5).softmax(-1) @ value
    expected = attention.dense(expected.transpose(1, 2).reshape(1, 6, 16))

    torch.testing.assert_close(attention(rows), expected)


def test_the_vision_tower_refuses_another_image_size(config: Any) -> None:
    with pytest.raises(ValueError, match="28x28"):
        VisionModel(config.vision)(torch.zeros(1, 3, 35, 28))
