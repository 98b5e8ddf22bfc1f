"""Where everything goes when each image marker of a prompt becomes the rows of one image.

In: token ids in which -200 stands for an image, with masks and labels. Out: the same over the sequence after insertion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor
from transformers.generation import LogitsProcessor, LogitsProcessorList

from engines.owl2.config import IGNORE_LABEL, IMAGE_TOKEN_ID

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Insertion:
    """Where everything goes when each image marker becomes several rows; S is the length before, L after.

    Attributes:
        token_ids: (B, L), the token of each row; 0 on image rows and on padding.
        modality_indicators: (B, L), 1 on image rows and 0 elsewhere.
        attention_mask: (B, past + L) of 0 and 1, or None if every row is real.
        labels: (B, L), -100 on image rows and on padding; None if none were given.
        is_added_padding: (B, L), True on rows added to make lengths equal; None if there are none.
    """

    token_ids: Tensor
    modality_indicators: Tensor
    attention_mask: Tensor | None
    labels: Tensor | None
    is_added_padding: Tensor | None


def plan_insertion(
    input_ids: Tensor,
    num_image_rows: int,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    padding_side: PaddingSide = "right",
) -> Insertion:
    """Expand every image marker to the rows of one image.

    Rows that end up shorter than the longest are padded; the given mask travels with its tokens, so padding that was
    there before may be on either side.

    Args:
        input_ids: (B, S), -200 for an image.
        num_image_rows: rows per image.
        attention_mask: (B, past + S), 0 on padding; what concerns the past stays as it is.
        labels: (B, S).
        padding_side: where padding is added; left for generation, which reads the last row.
    """
    is_marker = input_ids == IMAGE_TOKEN_ID
    widths = torch.where(is_marker, num_image_rows, 1)
    lengths = widths.sum(dim=1).tolist()
    longest = max(lengths)
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    # source[b, l] is the input position row l comes from, -1 on added padding.
    sources = []
    for row_widths, length in zip(widths, lengths, strict=True):
        gap = (longest - length, 0) if padding_side == "left" else (0, longest - length)
        sources.append(F.pad(columns.repeat_interleave(row_widths), gap, value=-1))
    source = torch.stack(sources)
    is_added_padding = source < 0 if min(lengths) < longest else None
    source = source.clamp(min=0)

    is_image = is_marker.gather(1, source)
    is_token = ~is_image
    if is_added_padding is not None:
        is_image, is_token = is_image & ~is_added_padding, is_token & ~is_added_padding
        attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    token_ids = torch.where(is_token, input_ids.gather(1, source), 0)
    if attention_mask is not None:
        past, present = attention_mask.tensor_split([attention_mask.shape[1] - input_ids.shape[1]], dim=1)
        present = present.gather(1, source)
        if is_added_padding is not None:
            present = present.masked_fill(is_added_padding, 0)
        attention_mask = torch.cat([past, present], dim=1)
    if labels is not None:
        labels = torch.where(is_token, labels.gather(1, source), IGNORE_LABEL)
    return Insertion(token_ids, is_image.long(), attention_mask, labels, is_added_padding)


def align_right(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move padding that follows a row's tokens before them, so that generation can go on from the last column.

    Args:
        input_ids: (B, S).
        attention_mask: (B, past + S), 0 on padding; what concerns the past stays as it is.

    Returns:
        Both, in the same shapes.
    """
    length = input_ids.shape[1]
    past, present = attention_mask.tensor_split([attention_mask.shape[1] - length], dim=1)
    num_trailing = (present.flip(1).cumsum(dim=1) == 0).sum(dim=1, keepdim=True)
    source = (torch.arange(length, device=input_ids.device) - num_trailing) % length
    return input_ids.gather(1, source), torch.cat([past, present.gather(1, source)], dim=1)


class MarkerFreeLogitsProcessor(LogitsProcessor):
    """Show other processors a prompt without image markers: many of them use its ids as indices.

    Args:
        processors: what ``generate`` would call.
        stand_in: the id they see instead of -200.
    """

    def __init__(self, processors: LogitsProcessorList, stand_in: int) -> None:
        self.processors = processors
        self.stand_in = stand_in

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Process scores (B, V) for the ids so far (B, S)."""
        shown = input_ids.masked_fill(input_ids == IMAGE_TOKEN_ID, self.stand_in)
        return self.processors(shown, scores)  # type: ignore[arg-type]  # transformers writes LongTensor for ids
