"""What a training run of mPLUG-Owl2 needs beside the model: labels, batches, names, as the reference makes them.

In: samples of a LLaVA-style JSON list, as dicts. Out: ids with labels, right-padded batches ready for the model's
``forward``, the names LoRA adapts and the weights that train at all. Pure functions: no file is read or written here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from engines.owl2.config import IGNORE_LABEL, IMAGE_TOKEN_ID
from engines.owl2.processor import AspectRatio, ImageProcessor
from engines.owl2.prompts import END_OF_TURN_TEXT, IMAGE_MARKER, TEMPLATES
from engines.owl2.tokenizer import Owl2Tokenizer

TRAINING_TEMPLATE = "v1"
"""What the reference's scripts train with; inference uses ``mplug_owl2``."""

MAX_LENGTH_TOKENS = 2048
"""Where the reference's scripts cut a sample, counted before images are put in."""

# What a picture counts for when samples are grouped by length: fixed in the reference, whatever rows it really takes.
_IMAGE_WORDS = 128
_VISUAL_PARTS = ("vision_model", "visual_abstractor")
_ANSWER = " ASSISTANT: "

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """One conversation ready for a batch.

    Attributes:
        input_ids: -200 for the picture.
        labels: likewise long; -100 where nothing is learned.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def num_images(self) -> int:
        """Markers in ``input_ids``."""
        return self.input_ids.count(IMAGE_TOKEN_ID)


def render_training_text(sample: Mapping[str, Any], template: str = TRAINING_TEMPLATE) -> str:
    """Write a sample's conversation as one text, in which ``<|image|>`` and ``</s>`` are markers.

    All markers of a message become one, on a line of its own before the text: a sample has one picture. A first message
    that is not the user's is left out.

    Args:
        sample: ``conversations``, a list of ``{"from": "human" or "gpt", "value": text}``; ``image`` if it has one.
        template: a key of `engines.owl2.prompts.TEMPLATES`.

    Raises:
        ValueError: if the roles do not take turns, or a sample with a picture has markers in several messages.
    """
    messages = list(sample["conversations"])
    if messages and messages[0]["from"] != "human":
        messages = messages[1:]
    text, num_marked = TEMPLATES[template], 0
    for index, message in enumerate(messages):
        role, name, end = (("human", "USER", " "), ("gpt", "ASSISTANT", END_OF_TURN_TEXT))[index % 2]
        if message["from"] != role:
            raise ValueError(f"{_name(sample)}: message {index} is from {message['from']!r}, not {role!r}")
        value = message["value"]
        if "image" in sample and IMAGE_MARKER in value:
            value = f"{IMAGE_MARKER}\n{value.replace(IMAGE_MARKER, '').strip()}".strip()
            num_marked += 1
        text += f"{name}: {value}{end}" if value else f"{name}:"
    if num_marked > 1:
        raise ValueError(f"{_name(sample)}: {num_marked} messages hold a marker, but a sample has one picture")
    return text


def label_sample(
    sample: Mapping[str, Any],
    tokenizer: Owl2Tokenizer,
    template: str = TRAINING_TEMPLATE,
    max_length: int = MAX_LENGTH_TOKENS,
) -> LabelledSample:
    """Tokenise a conversation; answers and the end of turn after each are learned, the rest is not.

    Where a round ends is counted by tokenising the rounds one by one. Should those counts not add up to the whole, as
    can happen when the tokenizer treats text after ``</s>`` differently, nothing of the sample is learned and a
    warning is logged.

    Args:
        sample: see `render_training_text`.
        tokenizer: of the checkpoint.
        template: likewise.
        max_length: a text-only sample is cut here; one with a picture is cut by `collate`.

    Returns:
        ids and labels of equal length.

    Raises:
        ValueError: see `render_training_text`.

    Source: X-PLUG/mPLUG-Owl@0f3068f train/train.py.
    """
    text = render_training_text(sample, template)
    has_image = "image" in sample
    encode = tokenizer.encode_with_images if has_image else tokenizer.encode
    input_ids = encode(text) if has_image else encode(text)[:max_length]
    labels = list(input_ids)

    at = 1  # the BOS
    labels[:at] = [IGNORE_LABEL] * at
    for turn in text.split(END_OF_TURN_TEXT):
        parts = turn.split(_ANSWER)
        if len(parts) != 2:
            break
        # Two of the question's tokens do not count: BOS, which the whole text has only once, and the space after
        # "ASSISTANT:", which belongs to the answer's first token there.
        end = at + len(encode(parts[0] + _ANSWER)) - 2
        labels[at:end] = [IGNORE_LABEL] * len(labels[at:end])
        at += len(encode(turn))  # its BOS counts for the end of turn, which splitting took away
    labels[at:] = [IGNORE_LABEL] * len(labels[at:])
    num_tokens = sum(token_id != tokenizer.unk_token_id for token_id in input_ids)
    if at < max_length and at != num_tokens:
        log.warning(
            "%s: its rounds have %d tokens, the whole %d; nothing of it is learned", _name(sample), at, num_tokens
        )
        labels = [IGNORE_LABEL] * len(labels)
    return LabelledSample(tuple(input_ids), tuple(labels))


def training_pixels(image: Image.Image, processor: ImageProcessor, image_aspect_ratio: str) -> Tensor:
    """Prepare a sample's picture; (3, S, S), float32.

    Args:
        image: of any size and mode.
        processor: of the checkpoint.
        image_aspect_ratio: ``pad`` pads to a square; with any other value the sides are cut off, as in the reference.
    """
    way: AspectRatio = "pad" if image_aspect_ratio == "pad" else "none"
    return torch.from_numpy(processor(image, way))


def collate(
    samples: Sequence[LabelledSample],
    images: Sequence[Tensor | None],
    pad_token_id: int,
    max_length: int = MAX_LENGTH_TOKENS,
) -> dict[str, Tensor]:
    """Make a batch, padded on the right.

    Args:
        samples: B of them.
        images: (3, S, S) of each sample, or None. A picture whose marker is missing or was cut off is left out: here
            pictures belong to markers, while the reference spends one on every sample.
        pad_token_id: ``<unk>``, as in the reference.
        max_length: longer samples are cut, before images are put in.

    Returns:
        ``input_ids``, ``labels`` and ``attention_mask`` (B, S), and ``pixel_values`` (N, 3, S, S) if there are any.

    Raises:
        ValueError: if a sample has a marker but no picture.
    """
    cut = [LabelledSample(sample.input_ids[:max_length], sample.labels[:max_length]) for sample in samples]
    length = max(len(sample.input_ids) for sample in cut)
    input_ids = torch.full((len(cut), length), pad_token_id)
    labels = torch.full_like(input_ids, IGNORE_LABEL)
    pixel_values = []
    for row, (sample, image) in enumerate(zip(cut, images, strict=True)):
        input_ids[row, : len(sample.input_ids)] = torch.tensor(sample.input_ids)
        labels[row, : len(sample.labels)] = torch.tensor(sample.labels)
        if sample.num_images:
            if image is None:
                raise ValueError(f"sample {row} of the batch has a marker but no picture")
            pixel_values.append(image)
    batch = {"input_ids": input_ids, "labels": labels, "attention_mask": input_ids.ne(pad_token_id).long()}
    return batch | ({"pixel_values": torch.stack(pixel_values)} if pixel_values else {})


def lora_target_modules(model: nn.Module) -> list[str]:
    """Name every linear layer that LoRA adapts: all of the decoder's, the head and the visual parts left out.

    Returns:
        Full names, sorted; 9 per decoder layer.
    """
    return sorted(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head" and not any(part in name for part in _VISUAL_PARTS)
    )


def is_trained(parameter_name: str) -> bool:
    """Tell whether a weight trains: in the reference's full and LoRA runs alike, all but the vision tower's do."""
    return "vision_model" not in parameter_name


def freeze_untrained(model: nn.Module) -> None:
    """Set ``requires_grad`` of every weight by `is_trained`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))


def sample_lengths(samples: Iterable[Mapping[str, Any]]) -> list[int]:
    """Estimate lengths, in words, to put samples of similar length together; a picture counts as 128 words."""
    return [_count_words(sample) + (_IMAGE_WORDS if "image" in sample else 0) for sample in samples]


def modality_lengths(samples: Iterable[Mapping[str, Any]]) -> list[int]:
    """Estimate lengths, in words, negative without a picture: so that batches need not mix both kinds."""
    return [_count_words(sample) * (1 if "image" in sample else -1) for sample in samples]


def _count_words(sample: Mapping[str, Any]) -> int:
    return sum(len(message["value"].split()) for message in sample["conversations"])


def _name(sample: Mapping[str, Any]) -> str:
    return f"sample {sample.get('id', '?')}"
