"""What an engine will count for a request, as far as that is known without its tokenizer.

In: the size of a picture in pixels. Out: how many tokens of the prompt it takes; and how many an answer may have for
which no number was asked. An engine reports it beside its name, so that the api counts as the engine does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from engines.image_header import fit_size

# GLM sees a picture as a film of two equal frames.
_NUM_FRAMES: Final = 2


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """An engine's own arithmetic.

    Attributes:
        max_tokens: of an answer if the request says nothing.
        max_tokens_thinking: likewise, with what it thinks.
        tokens_per_picture: of any picture; 0 if that depends on its size.
        cell_px: side of the square that becomes one token.
        shortest_edge: fewest pixels of a picture and its copy, as the checkpoint's processor names it.
        longest_edge: most pixels of these two.
        max_side_px: longer pictures are scaled down before anything else.
    """

    max_tokens: int = 1024
    max_tokens_thinking: int = 4096
    tokens_per_picture: int = 0
    cell_px: int = 28
    shortest_edge: int = 12_544
    longest_edge: int = 9_633_792
    max_side_px: int = 16_384

    def of_picture(self, width: int, height: int) -> int:
        """Count the tokens of a picture; swapping its sides changes nothing.

        Args:
            width: in pixels.
            height: in pixels.

        Source: smart_resize of transformers 5.23, models/glm46v/image_processing_pil_glm46v.py.
        """
        if self.tokens_per_picture:
            return self.tokens_per_picture
        width, height = fit_size(width, height, self.max_side_px)
        cell = self.cell_px
        if min(width, height) < cell:
            scale = max(cell / height, cell / width)
            width, height = int(width * scale), int(height * scale)
        columns, rows = round(width / cell), round(height / cell)
        num_pixels = _NUM_FRAMES * (columns * cell) * (rows * cell)
        if num_pixels > self.longest_edge:
            shrink = math.sqrt(_NUM_FRAMES * height * width / self.longest_edge)
            columns = max(1, math.floor(width / shrink / cell))
            rows = max(1, math.floor(height / shrink / cell))
        elif num_pixels < self.shortest_edge:
            grow = math.sqrt(self.shortest_edge / (_NUM_FRAMES * height * width))
            columns, rows = math.ceil(width * grow / cell), math.ceil(height * grow / cell)
        return columns * rows


# Of the published checkpoints, by role: of a server of another make no more is known.
PUBLISHED: Final = {
    "glm": TokenCosts(),
    "owl2": TokenCosts(max_tokens=512, max_tokens_thinking=512, tokens_per_picture=65),
}
