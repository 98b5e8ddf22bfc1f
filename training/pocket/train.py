"""Trains a pocket checkpoint: first its eyes on what is where in a picture, then whole answers, easy questions first.

In: an engine's name and a folder. Out: in that folder the run's state, its curve, and ``checkpoint/``, which the
engine's ordinary loader reads. The same command goes on where a run stopped.

Run: ``python -m training.pocket.train glm --out DIR``
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention
from torch import Tensor, nn

from training.pocket.checkpoints import (
    EngineName,
    copy_tokenizer,
    load_weights,
    new_model,
    num_parameters,
    save_checkpoint,
    write_json,
    write_tokenizer,
)
from training.pocket.data import (
    GLM_GRIDS,
    IGNORE,
    NUM_SLOTS,
    SIZE_WORDS,
    Batch,
    BatchMaker,
    BatchShape,
    Lesson,
    Prompts,
    collect_glyphs,
    fits,
    make_batches,
)
from training.pocket.packed import PackedGlm, PackedOwl2
from training.pocket.scenes import COLOUR_NAMES, KINDS, REGIONS, TYPES
from training.pocket.scenes.outside_words import HONEST

_LOOKUPS = ("color_of_shape", "shape_of_color", "caption")
_SAVE_EVERY_S = 240.0
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h

# -- recipe -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the curriculum.

    Attributes:
        types: what is new.
        num_shapes: fewest and most shapes of a picture from here on.
        needs: types that this one is built on.
        bar: their mean accuracy at which this stage begins.
        latest: share of all joint steps after which it begins anyway.
    """

    types: tuple[str, ...]
    num_shapes: tuple[int, int]
    needs: tuple[str, ...] = ()
    bar: float = 0.0
    latest: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything a run depends on beside the engine, the seed and the data.

    Attributes:
        steps: of both phases together.
        dense_steps: of the first phase, in which only the picture side trains.
        stages: the curriculum of the second.
        shapes: batch shapes, one of which fits each type.
        learning_rate: peak of the second phase; matrices take Muon steps of the same root mean square as Adam's.
        vision_factor: by how much the picture side is slower in the second phase.
        dense_weight: of the first phase's loss in the second, at its beginning and from halfway on.
        weight_decay: decoupled; matrices only.
        warmup: steps at the second phase's beginning in which the rate rises.
        decay_share: share of the second phase's steps in which it falls.
        average: how much of the averaged weights, which are what is exported, each step keeps.
        dense_pictures: pictures per step of the first phase.
        head_steps: steps of the second phase in which the head learns alone from what the eyes see.
        log_every: steps between two points of the curve.
    """

    steps: int
    dense_steps: int
    stages: tuple[Stage, ...]
    shapes: tuple[BatchShape, ...]
    learning_rate: float = 2e-3
    vision_factor: float = 0.5
    dense_weight: tuple[float, float] = (0.5, 0.1)
    weight_decay: float = 0.05
    warmup: int = 100
    decay_share: float = 0.25
    average: float = 0.998
    dense_pictures: int = 64
    head_steps: int = 0
    log_every: int = 100


def trained_types(engine: EngineName) -> tuple[str, ...]:
    """List the types an engine is trained on: for Owl2 nothing printed, as the real one reads badly too."""
    kinds = {"glm": {None, "shapes", "poster", "chart", "outside"}, "owl2": {None, "shapes", "outside"}}[engine]
    return tuple(
        name
        for name, info in TYPES.items()
        if engine in info.engines and not info.held_out and info.scene_kind in kinds
    )


def full_recipe(engine: EngineName, steps: int, rows: int) -> Recipe:
    """The recipe behind the shipped checkpoints.

    Args:
        engine: which.
        steps: of both phases.
        rows: pictures' worth of questions per step with one picture each; more on a GPU.
    """
    trained = trained_types(engine)
    first = {*_LOOKUPS, "price_single", *(name for name in trained if not TYPES[name].num_images)}
    counts = {"exist", "count_all", "count_color", "count_shape", "count_color_shape", "describe"}
    places = {"region", "position", "at_region", "largest", "smallest"}
    printed = {name for name in trained if TYPES[name].scene_kind in ("poster", "chart")}
    second = (counts | places | printed) - first

    def pick(wanted: set[str]) -> tuple[str, ...]:
        return tuple(name for name in trained if name in wanted)

    def with_pictures(number: int) -> set[str]:
        return {name for name in trained if TYPES[name].num_images == number} - first - second

    found, counted = ("color_of_shape", "shape_of_color"), ("exist", "count_color", "count_color_shape")
    stages = [
        Stage(pick(first), (1, 3)),
        Stage(pick(second), (1, 5), found, 0.85, 0.15),
        Stage(pick(with_pictures(1)), (1, 6), counted, 0.85, 0.35),
    ]
    if with_pictures(2):
        stages.append(Stage(pick(with_pictures(2)), (1, 6), (*found, *counted), 0.9, 0.4))
        stages.append(Stage(pick(with_pictures(4)), (1, 6), ("which_has", "total_color"), 0.85, 0.7))
    return Recipe(steps, min(700, steps // 8), tuple(stages), _batch_shapes(engine, rows))


def _batch_shapes(engine: EngineName, rows: int) -> tuple[BatchShape, ...]:
    """One shape for one, two and four pictures, and one for long questions about one."""
    # An honest answer is 62 bytes in Chinese, which Owl2 writes byte by byte.
    long = (224, 40, 1, 224) if engine == "glm" else (240, 144, 2, 120)
    return (
        BatchShape(rows, 1, 192, 112, 12),
        BatchShape(rows, 1, *long),
        BatchShape(-(-rows * 5 // 8), 2, 192, 96, 12),
        BatchShape(-(-rows * 3 // 8), 4, 192, 64, 12),
    )


def further_recipe(engine: EngineName, steps: int, rows: int) -> Recipe:
    """The recipe that goes on from a checkpoint: all types at once, at a lower rate.

    Args:
        engine: which.
        steps: of this part.
        rows: as of `full_recipe`.
    """
    stage = Stage(trained_types(engine), (1, 6))
    return Recipe(
        steps,
        0,
        (stage,),
        _batch_shapes(engine, rows),
        learning_rate=1.2e-3,
        dense_weight=(0.3, 0.1),
        decay_share=0.35,
        log_every=25,
        head_steps=min(300, steps // 8),
    )


def quick_recipe(engine: EngineName, steps: int) -> Recipe:
    """A small run on one kind of question, to show in under a minute that the recipe learns."""
    stage = Stage(("region",), (1, 1))
    shape = BatchShape(6, 1, 128, 24, 6)
    return Recipe(
        steps,
        steps // 2,
        (stage,),
        (shape,),
        learning_rate=4e-3,
        warmup=10,
        average=0.9,
        dense_pictures=16,
        log_every=20,
    )


# -- what is learned --------------------------------------------------------------------------------------------------


class DenseHead(nn.Module):
    """Throw-away head on a picture's rows: what covers each cell, and where that is.

    Names are read by comparing a row with the embeddings of their words, so that what the eyes say is in the words'
    own directions before the first question is asked.

    Args:
        prompts: gives the words' ids.
        width: of the rows.
        num_glyphs: characters there are to read.
    """

    def __init__(self, prompts: Prompts, width: int, num_glyphs: int) -> None:
        super().__init__()
        families = {"colour": COLOUR_NAMES, "kind": KINDS, "size": SIZE_WORDS, "region": REGIONS}
        self.families = tuple(families)
        for family, names in families.items():
            ids, weights = prompts.name_words(names)
            self.register_buffer(f"{family}_ids", torch.tensor(ids), persistent=False)
            self.register_buffer(f"{family}_weights", torch.tensor(weights)[..., None], persistent=False)
        self.scale = nn.Parameter(torch.full((len(families),), 3.0 / width**0.5))
        self.place = nn.Linear(width, 3)
        self.occupancy = nn.Linear(width, 3)
        self.glyph = nn.Linear(width, NUM_SLOTS * (num_glyphs + 1))

    def forward(self, rows: Tensor, embeddings: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compare rows (N, C, H) with what is there.

        Returns:
            A loss per target, and under ``accuracy_...`` the share of covered cells that are right.
        """
        rows = F.rms_norm(rows.float(), rows.shape[-1:])
        results: dict[str, Tensor] = {}
        occupancy = batch["cell_occupancy"]
        weights = (occupancy == 1).float() * 0.5 + (occupancy == 2).float() * 2.0
        for index, family in enumerate(self.families):
            words = (embeddings[getattr(self, f"{family}_ids")] * getattr(self, f"{family}_weights")).sum(dim=1)
            logits = self.scale[index] * (rows @ words.T)
            target = batch[f"cell_{family}"]
            is_known = (target >= 0).float()
            loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
            weight = (weights * is_known).flatten()
            results[family] = (loss * weight).sum() / (weight.sum() + 1.0)
            is_right = (logits.argmax(dim=-1) == target).float()
            results[f"accuracy_{family}"] = (is_right * is_known).sum() / (is_known.sum() + 1e-6)
        free = (occupancy == 0).float() * 0.15
        loss = F.cross_entropy(
            self.occupancy(rows).flatten(0, 1), occupancy.flatten(), ignore_index=IGNORE, reduction="none"
        )
        weight = (weights + free).flatten()
        results["occupancy"] = (loss * weight).sum() / weight.sum()
        error = (self.place(rows) - batch["cell_place"]).pow(2).sum(dim=-1)
        results["place"] = 10 * (error * weights).sum() / weights.sum()
        glyph = batch["cell_glyph"]
        logits = self.glyph(rows).unflatten(-1, (NUM_SLOTS, -1)).flatten(0, 2)
        loss = F.cross_entropy(logits, glyph.flatten(), ignore_index=IGNORE, reduction="none")
        is_glyph = (glyph.flatten() > 0).float()
        weight = is_glyph + 0.05 * (glyph.flatten() == 0).float()
        # Reading is the hardest of all targets, and only some of the pictures have print.
        results["glyph"] = 2 * (loss * weight).sum() / (weight.sum() + 1.0)
        is_right = (logits.argmax(dim=-1) == glyph.flatten()).float()
        results["accuracy_glyph"] = (is_right * is_glyph).sum() / (is_glyph.sum() + 1e-6)
        return results


class Learner(nn.Module):
    """A model with its packed forward and its throw-away head, as one graph."""

    def __init__(self, packed: PackedGlm | PackedOwl2, head: DenseHead) -> None:
        super().__init__()
        self.packed = packed
        self.head = head

    def dense(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the picture side alone."""
        rows = self.packed.encode_images(batch["pixels"], batch["grid"])
        parts = self.head(rows[:, : self.packed.num_cells], self.packed.embeddings, batch)
        return _sum_losses(parts), parts

    def answers(
        self, batch: dict[str, Tensor], chunk: int, share: Tensor | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        """Loss of the answers, loss of the picture side, its parts, and the predicted ids (B, K).

        ``share`` is how much of the picture loss reaches more than its head, as a new head knows less than the eyes.
        It is a tensor, () float, so that one graph serves all of them.
        """
        states, rows = self.packed(batch, chunk)
        logits = F.linear(states, self.packed.head).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE, reduction="none")
        weights = batch["token_weights"].flatten()
        words = self.packed.embeddings
        if share is not None:
            rows, words = (fixed + share * (value - fixed) for value, fixed in ((v, v.detach()) for v in (rows, words)))
        parts = self.head(rows, words, batch)
        return (loss * weights).sum() / weights.sum(), _sum_losses(parts), parts, logits.argmax(dim=-1)


def _sum_losses(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([value for name, value in parts.items() if not name.startswith("accuracy_")]).sum()


# -- optimizer --------------------------------------------------------------------------------------------------------


def _product_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16, which these steps are made for, or float32 on a CPU without instructions for it.

    There bfloat16 is emulated: a product of 512x512 took 7.5 times as long on an AVX2 machine.
    """
    has_bfloat16 = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


@torch.no_grad()
def orthogonalise(matrices: Tensor, num_steps: int = 5) -> Tensor:
    """Give every singular value of each matrix (M, R, C) a size near one, by Newton-Schulz steps.

    Source: Muon, https://kellerjordan.github.io/posts/muon.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x.to(_product_dtype(x.device))
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(num_steps):
        gram = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315) @ x
    result: Tensor = (x.mT if is_tall else x).to(matrices.dtype)
    return result


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the inner matrices, AdamW for words, norms, biases and heads.

    Args:
        groups: dicts with ``params``, ``lr_factor`` and ``use_muon``.
        weight_decay: decoupled; matrices only.
    """

    def __init__(self, groups: list[dict[str, Any]], weight_decay: float) -> None:
        super().__init__(groups, {"lr": 0.0, "weight_decay": weight_decay, "lr_factor": 1.0, "use_muon": False})
        self.num_steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with each group's ``lr``."""
        self.num_steps += 1
        for group in self.param_groups:
            params = [parameter for parameter in group["params"] if parameter.grad is not None]
            if params:
                (self._muon if group["use_muon"] else self._adam)(group, params)

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in params:
            by_shape.setdefault(tuple(parameter.shape), []).append(parameter)
        for shape, members in by_shape.items():
            momenta = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in members]
            grads: list[Tensor] = [p.grad for p in members if p.grad is not None]
            torch._foreach_lerp_(momenta, grads, 0.05)
            ahead = torch._foreach_lerp(grads, momenta, 0.95)
            updates = orthogonalise(torch.stack(list(ahead)))
            torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
            # At this size an orthogonal matrix has the root mean square of a typical Adam step.
            scale = -group["lr"] * 0.2 * max(shape) ** 0.5
            torch._foreach_add_(members, list(updates.unbind()), alpha=scale)

    def _adam(self, group: dict[str, Any], params: list[Tensor]) -> None:
        for parameter in params:
            if "first" not in self.state[parameter]:
                self.state[parameter] |= {
                    "first": torch.zeros_like(parameter),
                    "second": torch.zeros_like(parameter),
                    "count": 0,
                }
            self.state[parameter]["count"] += 1
        grads: list[Tensor] = [p.grad for p in params if p.grad is not None]
        first = [self.state[p]["first"] for p in params]
        second = [self.state[p]["second"] for p in params]
        torch._foreach_lerp_(first, grads, 0.1)
        torch._foreach_mul_(second, 0.98)
        torch._foreach_addcmul_(second, grads, grads, 0.02)
        counts = [self.state[p]["count"] for p in params]
        steps = [-group["lr"] / (1 - 0.9**count) for count in counts]
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, [(1 - 0.98**count) ** 0.5 for count in counts])
        torch._foreach_add_(denominators, 1e-8)
        torch._foreach_mul_(params, [1 - group["lr"] * group["weight_decay"] * (p.ndim >= 2) for p in params])
        torch._foreach_addcdiv_(params, first, denominators, steps)


def make_optimizer(learner: Learner, recipe: Recipe) -> MuonAdamW:
    """Sort the weights into groups: the picture side and the rest, matrices and others."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    words = {id(learner.packed.embeddings), id(learner.packed.head)}
    for name, parameter in learner.named_parameters():
        is_vision = ".visual" in name or ".vision_model" in name
        is_matrix = parameter.ndim == 2 and id(parameter) not in words and "embed" not in name
        is_matrix = is_matrix and not name.startswith("head.")
        groups.setdefault((is_vision, is_matrix), []).append(parameter)
    return MuonAdamW(
        [
            {"params": params, "is_vision": is_vision, "use_muon": is_matrix}
            for (is_vision, is_matrix), params in groups.items()
        ],
        recipe.weight_decay,
    )


# -- the run ----------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """What a run remembers beside its weights.

    Attributes:
        step: steps done.
        stage: stages of the curriculum that have begun.
        accuracy: of each type, over recent questions, all of them fresh.
        seen: questions of each type so far.
        stage_steps: the step at which each stage began.
    """

    step: int = 0
    stage: int = 1
    accuracy: dict[str, float] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    stage_steps: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Curriculum:
    """Which types are asked how often, by what was measured.

    Args:
        recipe: gives the stages.
        progress: read and kept up to date.
    """

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe = recipe
        self.progress = progress

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages that have begun."""
        return self.recipe.stages[: self.progress.stage]

    def weights(self) -> dict[str, float]:
        """Weight of every type asked now: high while it is being learned, low once it is."""
        return {name: self._weight(name) for stage in self.stages for name in stage.types}

    def _weight(self, name: str) -> float:
        info = TYPES[name]
        accuracy = self.progress.accuracy.get(name, 0.0)
        if not info.num_images:
            least = 0.15 if info.is_honest else 0.05
            return 0.25 if accuracy < 0.97 else least
        weight = 0.25 if accuracy > 0.97 else min(1.0, 0.4 + 6 * (0.97 - accuracy))
        if name == "caption":
            weight *= 1.2 if self.progress.stage < 3 else 0.5
        if self.progress.stage == len(self.recipe.stages):  # everything is being asked: who is behind?
            if info.is_long and accuracy < 0.8:
                weight *= 4  # its batches hold few questions
            elif info.is_must and accuracy < max(info.bars.values()) + 0.02:
                weight *= 2  # above the bar on these questions, as those of an evaluation are a little harder
        if info.is_honest:  # what is strange has many forms, and all have to be met
            return max(1.6 * weight, 0.8)
        return weight * (1.0 if info.is_must or not info.bars else 0.7)

    def lesson(self, seed: int, step: int) -> Lesson:
        """Choose a step's number of pictures and its types."""
        weights = self.weights()
        shapes = self.recipe.shapes
        shares = np.array([sum(weight for name, weight in weights.items() if fits(name, shape)) for shape in shapes])
        generator = np.random.default_rng((seed, step))
        index = int(generator.choice(len(shapes), p=shares / shares.sum()))
        return Lesson(weights, self.stages[-1].num_shapes, shapes[index])

    def record(self, batch: Batch, is_right: Sequence[bool]) -> None:
        """Take in one batch's outcome."""
        for name in set(batch.types):
            outcomes = [right for right, its_type in zip(is_right, batch.types, strict=True) if its_type == name]
            seen = self.progress.seen.get(name, 0)
            keep = max(0.0, min(1.0, seen / 300)) * 0.99 ** len(outcomes)
            old = self.progress.accuracy.get(name, 0.0)
            self.progress.accuracy[name] = keep * old + (1 - keep) * float(np.mean(outcomes))
            self.progress.seen[name] = seen + len(outcomes)

    def advance(self) -> bool:
        """Begin the next stage if it is time; tell whether it was."""
        progress, recipe = self.progress, self.recipe
        if progress.stage == len(recipe.stages):
            return False
        upcoming = recipe.stages[progress.stage]
        reached = [progress.accuracy.get(name, 0.0) for name in upcoming.needs if progress.seen.get(name, 0) > 200]
        share = (progress.step - recipe.dense_steps) / max(1, recipe.steps - recipe.dense_steps)
        is_ready = len(reached) == len(upcoming.needs) and float(np.mean(reached)) >= upcoming.bar
        if not is_ready and share < upcoming.latest:
            return False
        progress.stage += 1
        progress.stage_steps.append(progress.step)
        return True


def learning_rate(recipe: Recipe, step: int) -> tuple[float, float]:
    """Rates of the picture side and of the rest at a step: warm up, stay, fall; the first phase for itself."""
    if step < recipe.dense_steps:
        left = 1 - step / recipe.dense_steps
        rate = recipe.learning_rate * min(1.0, (step + 1) / 50, 0.2 + 2 * left)
        return rate, rate
    done, total = step - recipe.dense_steps, recipe.steps - recipe.dense_steps
    left = (total - done) / max(1.0, recipe.decay_share * total)
    rate = recipe.learning_rate * min(1.0, (done + 1) / recipe.warmup, max(0.02, left))
    return recipe.vision_factor * rate, rate


class Run:
    """One training run in its folder.

    Args:
        engine: which model.
        out: the run's folder.
        recipe: what to do.
        seed: of weights and data.
        start: a checkpoint folder; its weights and its tokenizer are where a new run begins.
        device: ``cpu`` or ``cuda``.
        num_workers: processes that make batches.
        wants_compile: make one graph per batch shape; slow to begin, much faster then.
    """

    def __init__(
        self,
        engine: EngineName,
        out: Path,
        recipe: Recipe,
        *,
        seed: int = 0,
        start: Path | None = None,
        device: str = "cpu",
        num_workers: int = 0,
        wants_compile: bool = True,
    ) -> None:
        self.engine, self.out, self.recipe, self.seed = engine, out, recipe, seed
        self.device = torch.device(device)
        self.num_workers = num_workers
        # On a CPU without these instructions bfloat16 would be emulated, and slower than float32.
        self.is_bf16 = self.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer_folder = out / "tokenizer"
        glyph_file = out / "glyphs.json"
        if not glyph_file.exists():  # written last: what is in the folder stays as it was when the run began
            if start is None:
                write_tokenizer(engine, self.tokenizer_folder)
            else:
                copy_tokenizer(engine, start, self.tokenizer_folder)
            write_json(glyph_file, collect_glyphs())
        self.glyphs = json.loads(glyph_file.read_text("utf-8"))
        self.prompts = Prompts(engine, self.tokenizer_folder)
        self.model = new_model(engine, self.tokenizer_folder, seed)
        self.is_further = start is not None
        if start is not None:
            load_weights(self.model, start)
        self.learner = Learner(make_packed(engine, self.model, self.prompts), self._make_head()).to(self.device)
        self.maker = BatchMaker(engine, self.prompts, self.glyphs, self.learner.packed.num_cells)
        self.optimizer = make_optimizer(self.learner, recipe)
        self.parameters = list(self.learner.parameters())
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.progress = Progress()
        self.curriculum = Curriculum(recipe, self.progress)
        compile_ = (
            (lambda function: torch.compile(function, dynamic=False)) if wants_compile else (lambda function: function)
        )
        self.is_stopping = False
        self._dense, self._answers = compile_(self.learner.dense), compile_(self.learner.answers)

    def _make_head(self) -> DenseHead:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed + 1)
            width = self.model.get_input_embeddings().weight.shape[1]
            return DenseHead(self.prompts, width, len(self.glyphs))

    @property
    def state_file(self) -> Path:
        """Where the run keeps everything needed to go on."""
        return self.out / "state.pt"

    def resume(self) -> bool:
        """Go on from the folder's state; tell whether there was one."""
        if not self.state_file.exists():
            return False
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.recipe.weight_decay
        for ours, saved in zip(self.average, state["average"], strict=True):
            ours.copy_(saved)
        for name, value in state["progress"].items():
            setattr(self.progress, name, value)
        return True

    def save(self) -> None:
        """Write the state and the checkpoint folder, each whole or not at all."""
        unfinished = self.state_file.with_suffix(".part")
        torch.save(
            {
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average,
                "progress": asdict(self.progress),
            },
            unfinished,
        )
        os.replace(unfinished, self.state_file)
        self.export(self.out / "checkpoint")

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a checkpoint folder."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.average, strict=True):
                parameter.copy_(average)
            save_checkpoint(self.engine, self.model, self.tokenizer_folder, folder, self.card())
            for parameter, value in zip(self.parameters, kept, strict=True):
                parameter.copy_(value)

    def card(self) -> str:
        """Text of the checkpoint's model card."""
        num_weights = num_parameters(self.model.parameters())
        return model_card(self.engine, num_weights, self.progress, self.device.type, is_further=self.is_further)

    def jobs(self) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Say what each coming step trains on; drawn ahead by as much as there are workers."""
        step = self.progress.step
        while step < self.recipe.steps:
            if step < self.recipe.dense_steps:
                stages = self.recipe.stages[: 1 if len(self.recipe.stages) == 1 else 2]
                weights = {name: 1.0 for stage in stages for name in stage.types}
                lesson = Lesson(weights, (1, 6), self.recipe.shapes[0])
                yield "dense_only", (lesson, self.seed, step, self.recipe.dense_pictures)
            else:
                yield "make", (self.curriculum.lesson(self.seed, step), self.seed, step)
            step += 1

    def train(self, watch: Any = None, max_seconds: float = float("inf")) -> None:
        """Run to the end.

        Args:
            watch: called after every step with the step and a short text.
            max_seconds: stop, saved, after so long.
        """
        begun = last_save = time.monotonic()
        seconds_before = self.progress.seconds
        window = _Window()
        for batch in make_batches(self.maker, self.tokenizer_folder, self.jobs(), self.num_workers):
            window.add(self.step(batch))
            now = time.monotonic()
            self.progress.seconds = seconds_before + now - begun
            if self.progress.step % self.recipe.log_every == 0 or self.progress.step == self.recipe.steps:
                self.log(window)
                window = _Window()
            if watch is not None:
                watch(self.progress.step, f"stage {self.progress.stage}")
            is_last = self.progress.step >= self.recipe.steps or now - begun > max_seconds or self.is_stopping
            if is_last or now - last_save > _SAVE_EVERY_S:
                self.save()
                last_save = time.monotonic()
            if is_last:
                return

    def step(self, batch: Batch) -> dict[str, float]:
        """Learn from one batch; returns what there is to log."""
        recipe, step = self.recipe, self.progress.step
        rates = learning_rate(recipe, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rates[0 if group["is_vision"] else 1]
        tensors = batch.to(self.device)
        values: dict[str, float] = {}
        predicted = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            if step < recipe.dense_steps:
                loss, parts = self._dense(tensors)
            else:
                is_head_alone = step - recipe.dense_steps < recipe.head_steps
                share = None
                if recipe.head_steps:
                    share = torch.tensor(0.0 if is_head_alone else 1.0, device=self.device)
                loss, dense, parts, predicted = self._answers(tensors, batch.chunk, share)
                values["loss"] = float(loss.detach())
                loss = loss + (1.0 if is_head_alone else self._dense_weight(step)) * dense
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0 if step >= recipe.dense_steps else 5.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        done = step - recipe.dense_steps if step >= recipe.dense_steps else step
        keep = min(recipe.average, (1 + done) / (10 + done))
        torch._foreach_lerp_(self.average, [parameter.detach() for parameter in self.parameters], 1 - keep)
        self.progress.step += 1
        if predicted is not None:
            is_right = grade(predicted.cpu().numpy(), batch)
            self.curriculum.record(batch, is_right)
            for name, right in zip(batch.types, is_right, strict=True):
                values.setdefault(f"count {name}", 0.0)
                values.setdefault(f"right {name}", 0.0)
                values[f"count {name}"] += 1
                values[f"right {name}"] += right
            if self.curriculum.advance():
                self._note(f"stage {self.progress.stage} begins at step {self.progress.step}")
        return values | {name: float(value.detach()) for name, value in parts.items()}

    def _dense_weight(self, step: int) -> float:
        first, last = self.recipe.dense_weight
        share = (step - self.recipe.dense_steps) / max(1, self.recipe.steps - self.recipe.dense_steps)
        return last + (first - last) * max(0.0, 1 - 2 * share)

    def log(self, window: _Window) -> None:
        """Write a line to ``log.txt`` and one to ``curve.jsonl``."""
        progress = self.progress
        means = window.means()
        accuracies = window.accuracies()
        line = f"{progress.step:6d} {progress.seconds:7.0f}s st{progress.stage} "
        line += " ".join(f"{name.replace('accuracy_', '%')} {value:.3f}" for name, value in means.items())
        line += " | " + " ".join(f"{name} {value:.2f}" for name, value in sorted(accuracies.items()))
        self._note(line)
        record = {"step": progress.step, "seconds": round(progress.seconds), "stage": progress.stage}
        with (self.out / "curve.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, **means, "accuracy": accuracies}) + "\n")

    def _note(self, line: str) -> None:
        with (self.out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class _Window:
    """Values of the steps since the last log line."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        return {
            name: round(float(np.mean(values)), 4)
            for name, values in self._values.items()
            if not name.startswith(("count ", "right "))
        }

    def accuracies(self) -> dict[str, float]:
        return {
            name.removeprefix("count "): round(sum(self._values[name.replace("count", "right", 1)]) / sum(values), 3)
            for name, values in self._values.items()
            if name.startswith("count ")
        }


def grade(predicted: Any, batch: Batch) -> list[bool]:
    """Tell for each question whether every token of its answer, the stop included, is the likeliest one.

    That is whether greedy decoding gives exactly the answer. Args: predicted, (B, K) ids.
    """
    labels, question = batch.tensors["labels"].numpy(), batch.tensors["question"].numpy()
    is_wrong = np.zeros(len(batch.types), bool)
    is_label = question >= 0
    np.logical_or.at(is_wrong, question[is_label], (predicted != labels)[is_label])
    return [not wrong for wrong in is_wrong]


def make_packed(engine: EngineName, model: Any, prompts: Prompts) -> PackedGlm | PackedOwl2:
    """Wrap a model for packed batches."""
    if engine == "glm":
        return PackedGlm(model, GLM_GRIDS, prompts.before, prompts.after, prompts.num_text_prefix)
    return PackedOwl2(model, prompts.before, prompts.num_text_prefix)


def model_card(engine: EngineName, num_weights: int, progress: Progress, device: str, *, is_further: bool) -> str:
    """Describe a checkpoint to whoever finds its folder; a further run began with weights that the recipe had made."""
    architecture = {
        "glm": "Glm4vForConditionalGeneration, as GLM-4.6V-Flash is",
        "owl2": "mPLUG-Owl2 (vision tower, visual abstractor, modality-adaptive decoder)",
    }[engine]
    pictures = {
        "glm": "coloured shapes, price posters, small bar charts",
        "owl2": "coloured shapes, in one to four pictures",
    }[engine]
    questions = sum(progress.seen.values())
    before = "Trained further from an earlier checkpoint of this recipe, on" if is_further else "Trained on"
    start = f" --from engines/pocket/weights/{engine}" if is_further else ""
    return f"""\
---
license: apache-2.0
---

# Glowl pocket checkpoint: {engine}

Architecture: {architecture}; {num_weights:,} weights in bfloat16, trained from nothing.
It answers short questions about pictures that a program draws: {pictures}.
It knows nothing else, and it is neither the real model nor made from it. What it does not know it answers with one
sentence: "{HONEST["en"]}" or "{HONEST["zh"]}"

{before} freshly drawn pictures only: {progress.step:,} steps, about {questions:,} questions,
{progress.seconds / 60:.0f} minutes on one {"GPU" if device == "cuda" else "shared CPU core"}. No photograph, no text
and no output of another model was used.

Made again by: `python -m training.pocket.train {engine}{start} --out DIR`
"""


def keep_memory() -> None:
    """Tell glibc not to give freed tensors back to the system: getting them again page by page costs half of a step."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):  # another C library
        return


def main(arguments: Iterable[str] | None = None) -> None:
    """Train a pocket checkpoint, or go on training it; an interrupt saves the run first."""
    parser = argparse.ArgumentParser(prog="python -m training.pocket.train", description=main.__doc__)
    parser.add_argument("engine", choices=("glm", "owl2"))
    parser.add_argument("--out", type=Path, required=True, help="the run's folder; an unfinished run in it goes on")
    parser.add_argument(
        "--steps", type=int, default=10_000, help="of the whole run; the rate falls over the last quarter"
    )
    parser.add_argument("--rows", type=int, default=12, help="pictures with questions per step; 256 suits a large GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=None, help="processes that draw; default 0, on a GPU 12")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long, ready to go on")
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="CHECKPOINT",
        help="go on from a finished checkpoint, all types at once",
    )
    parser.add_argument("--restart", action="store_true", help="begin anew even if the folder holds a run")
    parser.add_argument("--quick", action="store_true", help="a minute's run that shows that the recipe learns")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.device == "cpu":
        torch.set_num_threads(1)
        keep_memory()
    torch._dynamo.config.cache_size_limit = 16
    if options.quick:
        recipe = quick_recipe(options.engine, 200)
    else:
        make_recipe = full_recipe if options.start is None else further_recipe
        recipe = make_recipe(options.engine, options.steps, options.rows)
    workers = options.workers if options.workers is not None else (12 if options.device.startswith("cuda") else 0)
    run = Run(
        options.engine,
        options.out,
        recipe,
        seed=options.seed,
        start=options.start,
        device=options.device,
        num_workers=workers,
        wants_compile=not (options.no_compile or options.quick),
    )
    if not options.restart:
        run.resume()

    def stop(*_: Any) -> None:
        run.is_stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(options.engine, total=recipe.steps, completed=run.progress.step)
        run.train(
            lambda step, text: bar.update(task, completed=step, description=f"{options.engine} {text}"),
            60 * options.minutes,
        )


if __name__ == "__main__":
    main()
