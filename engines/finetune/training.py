"""One run: transformers' Trainer over a base with a peft adapter, from the last whole checkpoint if there is one.

In: encoded examples and settings. Out: the trained adapter in the model, and the curve.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.trainer_utils import set_seed

from engines.finetune.encoding import Encoded, Student, answer_loss, collate
from engines.finetune.features import FeatureCache
from engines.finetune.progress import Progress
from engines.finetune.settings import FinetuneSettings

CHECKPOINTS = "checkpoints"
_STATE = "trainer_state.json"  # the last file that Trainer writes of a checkpoint


class _Examples(Dataset[Encoded]):
    def __init__(self, examples: Sequence[Encoded]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Encoded:
        return self._examples[index]


class AnswerTrainer(Trainer):
    """Trainer with the loss of answers: a token counts the same, whatever batch of a step it is in."""

    loss_is_scaled_for_ga = True

    def __init__(self, student: Student, **options: Any) -> None:
        super().__init__(**options)
        self._student = student
        self.model_accepts_loss_kwargs = True  # or the answers' tokens of a step are not counted

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """See `engines.finetune.encoding.answer_loss`."""
        # Over several devices the gradients are averaged, but the tokens were counted over all of them.
        share = 1 if num_items_in_batch is None else self.accelerator.num_processes
        return answer_loss(model, self._student, inputs, num_items_in_batch) * share


def with_adapter(student: Student, settings: FinetuneSettings) -> Any:
    """Put an adapter that changes nothing yet into the student's model, and freeze all else.

    Args:
        student: its model is changed in place.
        settings: rank, scaling, dropout and seed.
    """
    set_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=student.lora_modules(),
    )
    model = get_peft_model(student.model, config)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if not trained or not all(".lora_" in name for name in trained):
        raise AssertionError(f"something else than an adapter would train: {trained[:3]}")
    return model


def save(model: Any, out: Path, base: str) -> None:
    """Write the adapter.

    Args:
        model: from `with_adapter`.
        out: folder of the adapter.
        base: name of the base, as the adapter's config says it.
    """
    # Only now: with a hub's name in its config, peft would ask the hub at every checkpoint.
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(out, save_embedding_layers=False)


def train(
    student: Student,
    model: Any,
    examples: Sequence[Encoded],
    features: FeatureCache,
    settings: FinetuneSettings,
    work: Path,
) -> list[dict[str, float]]:
    """Train the adapter.

    Args:
        student: of the model.
        model: from `with_adapter`.
        examples: to train on.
        features: of their pictures.
        settings: of the run.
        work: has the folder of checkpoints; a run that has whole ones goes on from the last, onto the same curve.

    Returns:
        Points of the curve: ``step``, ``loss`` (mean of the steps since the point before) and ``learning_rate``.
    """
    trainer = AnswerTrainer(
        student,
        model=model,
        args=_arguments(settings, len(examples), work, is_cpu=model.device.type == "cpu"),
        train_dataset=_Examples(examples),
        data_collator=lambda batch: collate(batch, features),
        callbacks=[Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    model.train()
    last = last_checkpoint(work)
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    model.eval()
    points = [point for point in trainer.state.log_history if "loss" in point]
    return [{name: point[name] for name in ("step", "loss", "learning_rate")} for point in points]


def last_checkpoint(work: Path) -> Path | None:
    """Find the last whole checkpoint; what a killed run left half written is removed."""
    whole: dict[int, Path] = {}
    for folder in (work / CHECKPOINTS).glob("checkpoint-*"):
        try:
            step = int(json.loads((folder / _STATE).read_text("utf-8"))["global_step"])
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            whole[step] = folder
    return whole[max(whole)] if whole else None


def num_steps(settings: FinetuneSettings, num_examples: int, num_devices: int = 1) -> int:
    """Steps of a run."""
    batches = -(-num_examples // (settings.batch_size * num_devices))
    steps = max(1, int(-(-batches // settings.accumulation) * settings.epochs))
    return min(steps, settings.max_steps) if settings.max_steps else steps


def _arguments(settings: FinetuneSettings, num_examples: int, work: Path, *, is_cpu: bool) -> TrainingArguments:
    num_devices = int(os.environ.get("WORLD_SIZE", "1"))
    return TrainingArguments(
        output_dir=str(work / CHECKPOINTS),
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=int(settings.warmup * num_steps(settings, num_examples, num_devices)),
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.checkpointing else None,
        logging_steps=settings.log_every,
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        seed=settings.seed,
        use_cpu=is_cpu,
        dataloader_pin_memory=not is_cpu,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
