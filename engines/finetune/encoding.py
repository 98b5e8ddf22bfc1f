"""Examples as rows of a batch, the same for both models: each picture already as many rows as it takes.

In: `Encoded` examples and the features of their pictures. Out: padded tensors, and the loss of a batch's answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor

from engines.base import Message
from engines.finetune.features import FeatureCache

IGNORE: Final = -100
"""The label of what is not learned: everything but the answer's tokens and the one that ends it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example, S rows long.

    Attributes:
        ids: S token ids; on a picture's rows the model's placeholder.
        is_image: S flags.
        num_prompt: how many of the rows are asked; the others are the answer, which is learned.
        pictures: SHA-256 of each picture, in order.
        positions: (3, S) for a model with three kinds of positions; None where rows are counted.
    """

    ids: tuple[int, ...]
    is_image: tuple[bool, ...]
    num_prompt: int
    pictures: tuple[str, ...] = ()
    positions: Tensor | None = None

    @property
    def labels(self) -> list[int]:
        """S labels."""
        return [IGNORE] * self.num_prompt + list(self.ids[self.num_prompt :])


class Student(Protocol):
    """A model to train, with its engine's own way from messages to rows.

    Attributes:
        model: transformers' model, in evaluation mode.
        revision: of its weights and preprocessing, for kept features.
    """

    model: Any
    revision: str

    def encode(self, messages: Sequence[Message], answer: str, features: FeatureCache) -> Encoded:
        """Turn an example into rows, and see to it that its pictures' features are kept.

        Raises:
            InvalidRequestError: or one of its kinds, if the engine would refuse the question.
        """
        ...

    def lora_modules(self) -> list[str]:
        """Full names of the modules that an adapter changes: the decoder's matrices, none of the vision tower's."""
        ...

    def inputs(self, embeddings: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Say what the model's forward is called with, given embedded rows (B, S, H) and a batch of `collate`."""
        ...


def collate(examples: Sequence[Encoded], features: FeatureCache) -> dict[str, Tensor]:
    """Make a batch, padded on the right; examples with pictures and without may be mixed.

    Returns:
        ``input_ids``, ``labels``, ``attention_mask`` (B, S) int64, ``is_image`` (B, S) bool; ``features`` (N, H), all
        pictures' rows in the order of the True flags, if there is a picture; ``position_ids`` (B, 3, S), if the model
        has them.
    """
    length = max(len(example.ids) for example in examples)

    def padded(rows: Sequence[Sequence[Any]], value: Any) -> Tensor:
        return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows])

    batch = {
        "input_ids": padded([example.ids for example in examples], 0),
        "labels": padded([example.labels for example in examples], IGNORE),
        "attention_mask": padded([[1] * len(example.ids) for example in examples], 0),
        "is_image": padded([example.is_image for example in examples], False),
    }
    rows = [features.get(picture)["features"] for example in examples for picture in example.pictures]
    if rows:
        batch["features"] = torch.cat(rows)
    positions = [example.positions for example in examples if example.positions is not None]
    if positions:
        batch["position_ids"] = torch.stack([F.pad(each, (0, length - each.shape[1]), value=0) for each in positions])
    return batch


def answer_loss(
    model: Any, student: Student, batch: Mapping[str, Tensor], num_answer_tokens: Tensor | int | None = None
) -> Tensor:
    """Return the summed loss of the answers' tokens over a number of them; by default, of the batch's own.

    Args:
        model: the student's, with its adapter.
        student: says how it is called.
        batch: of `collate`, on the model's device.
        num_answer_tokens: of all batches of a step, so that a short answer counts the same in each of them.
    """
    # Not `model`: over several devices it is a wrapper that has no such method.
    embeddings = student.model.get_input_embeddings()(batch["input_ids"])  # (B, S, H)
    if "features" in batch:
        seen = batch["features"].to(embeddings.dtype)
        embeddings = embeddings.masked_scatter(batch["is_image"][..., None], seen)
    labels = batch["labels"]
    is_learned = labels != IGNORE
    # Logits of the prompt are most of a batch's memory, and nothing is learned from them.
    num_kept = labels.shape[1] - int(is_learned.any(dim=0).int().argmax()) + 1
    logits = model(**student.inputs(embeddings, batch), use_cache=False, logits_to_keep=num_kept).logits
    targets = labels[:, labels.shape[1] - num_kept + 1 :]
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return loss / (is_learned.sum() if num_answer_tokens is None else num_answer_tokens)
