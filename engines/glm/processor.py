"""The checkpoint's own processor, made usable without torchvision: tokenizer, chat template, Pillow image processor.

In: a checkpoint folder or hub id. Out: a `Glm46VProcessor` that knows no videos.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, Glm46VProcessor
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils_base import VERY_LARGE_INTEGER


class GlmImageTextProcessor(Glm46VProcessor):
    """`Glm46VProcessor` without its video part, which exists for torchvision only and refuses to be None."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token = "<|image|>"  # noqa: S105 - a vocabulary item, not a secret
        self.video_token = "<|video|>"  # noqa: S105
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        self.video_start_id = tokenizer.convert_tokens_to_ids("<|begin_of_video|>")
        self.video_end_id = tokenizer.convert_tokens_to_ids("<|end_of_video|>")
        # Glm46VProcessor.__init__ is skipped on purpose: it demands the video processor.
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def num_image_tokens(self, width: int, height: int, size: dict[str, int]) -> int:
        """Count the rows of one picture without its pixels.

        Args:
            width: in pixels; swapping it with the height changes nothing.
            height: in pixels.
            size: the image processor's bounds, in pixels of two frames.

        Raises:
            ValueError: if one side is over 200 times the other.
        """
        count = self._get_num_multimodal_tokens(image_sizes=[(height, width)], size=size)
        return int(count["num_image_tokens"][0])

    @property
    def bytes_per_image_token(self) -> int:
        """Memory of the float32 patches that become one row of the model's sequence."""
        images = self.image_processor
        return int(4 * 3 * images.temporal_patch_size * (images.merge_size * images.patch_size) ** 2)


def load_processor(model: str) -> GlmImageTextProcessor:
    """Load tokenizer, chat template and image processor of a checkpoint.

    Raises:
        OSError: if the folder or hub id has no such files.
    """
    tokenizer = AutoTokenizer.from_pretrained(model)
    # Left alone, sanitising knows the special tokens and those that the template spells out; a caller could still type
    # the box marks, which are neither.
    tokenizer.chat_control_tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    # The engine refuses what is too long and says by how much; the library would warn of the same prompts, once.
    tokenizer.model_max_length = VERY_LARGE_INTEGER
    image_processor = Glm46VImageProcessorPil.from_pretrained(model)
    return GlmImageTextProcessor(image_processor, tokenizer, chat_template=tokenizer.chat_template)
