"""Training batches: fresh scenes, several questions packed behind each picture, and where everything in a picture is.

In: question types with their weights, a seed and a step. Out: tensors of fixed shapes for `packed.py`; the same seed
and step always give the same batch, so that a run goes on where it stopped, and workers need no state.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from training.pocket.checkpoints import GLM_SIDE, OWL2_SIDE, PATCH, EngineName
from training.pocket.packed import CHUNK
from training.pocket.scenes import (
    COLOUR_NAMES,
    KINDS,
    REGIONS,
    SIZES,
    TYPES,
    Lang,
    Question,
    Scene,
    dense_targets,
    render,
    sample_pack,
    sample_question,
)
from training.pocket.scenes.conditions import any_drawing, any_typing, drawn, typed
from training.pocket.scenes.layout import Size, size_word
from training.pocket.scenes.places import nearest_region
from training.pocket.scenes.sampling import MANY_TYPES, pack_of_many
from training.pocket.scenes.words import say

IGNORE = -100
SIZE_WORDS = ("small", "medium", "large")
NUM_SLOTS = 4  # glyph places per cell: two by two patches
_SHARE_OF_CHINESE = 0.7
_SHARE_OF_MANY = 0.18
# All honest answers are alike and long, so a few about a picture teach as much as many.
_MOST_HONEST, _MOST_HONEST_ALONE = 3, 5

Array = npt.NDArray[Any]


def glm_grid(size: Size) -> tuple[int, int]:
    """(height, width) in cells of 16 px that GLM's preprocessing gives a picture of (width, height) pixels."""
    from transformers.models.glm46v.image_processing_pil_glm46v import smart_resize

    bounds = {"min_pixels": 2 * (GLM_SIDE - 1) ** 2, "max_pixels": 2 * (GLM_SIDE + 2) ** 2}
    height, width = smart_resize(2, size[1], size[0], temporal_factor=2, factor=2 * PATCH, **bounds)
    return height // (2 * PATCH), width // (2 * PATCH)


GLM_GRIDS = sorted({grid for width, height in SIZES for grid in (glm_grid((width, height)), glm_grid((height, width)))})


@dataclass(frozen=True, slots=True)
class BatchShape:
    """The fixed shape of a batch.

    Attributes:
        num_rows: B.
        num_images: pictures per row.
        num_text: T, text rows for all questions of a row together.
        num_labels: K, predicted tokens of all questions of a row together.
        num_questions: at most so many per row.
        chunk: text rows whose attention is computed together; T is a multiple of it, and a question with its answer
            has at most one more. More than `CHUNK` for the types that are long.
    """

    num_rows: int
    num_images: int
    num_text: int
    num_labels: int
    num_questions: int
    chunk: int = CHUNK


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a step trains on: part of a batch's recipe, together with its seed.

    Attributes:
        weights: of each question type; those with another number of pictures than the shape's are left out.
        num_shapes: fewest and most shapes of a picture.
        shape: of the batch.
    """

    weights: Mapping[str, float]
    num_shapes: tuple[int, int]
    shape: BatchShape


class Prompts:
    """How one engine's questions and answers become ids; equal to what the engine makes of the same question.

    Args:
        engine: which.
        tokenizer_folder: from `checkpoints.write_tokenizer`.
    """

    def __init__(self, engine: EngineName, tokenizer_folder: Path) -> None:
        self.engine = engine
        if engine == "glm":
            from transformers import AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
            self.before = self._encode("[gMASK]<sop><|user|>\n<|begin_of_image|>")
            self.after = self._encode("<|end_of_image|>")
            self.num_text_prefix = len(self.before) - 1
            self._suffix = self._encode("/nothink<|assistant|>\n<think></think>\n")
            self._stop = self._encode("<|user|>")
        else:
            from engines.owl2.tokenizer import Owl2Tokenizer

            self._tokenizer = Owl2Tokenizer.from_folder(tokenizer_folder)
            self.before = self._tokenizer.encode_pieces(["USER: "])
            self.after = []
            self.num_text_prefix = len(self.before) - 1
            self._stop = [self._tokenizer.eos_token_id]
        self.block = lru_cache(maxsize=50_000)(self._block)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _block(self, text: str, answer: str, has_images: bool) -> tuple[list[int], list[int]]:
        """Return ids of a question, as they follow the prefix, and of its answer with the stop token."""
        if self.engine == "glm":
            return self._encode(text) + self._suffix, self._encode(answer) + self._stop
        start = "" if has_images else "USER: "
        num_before = 1 if has_images else self.num_text_prefix
        ids = self._tokenizer.encode_pieces([f"{start}{text} ASSISTANT:"])
        whole = self._tokenizer.encode_pieces([f"{start}{text} ASSISTANT: {answer}"])
        return ids[num_before:], whole[len(ids) :] + self._stop

    def word(self, text: str) -> int:
        """Return the id of a word that is one token within a sentence or an answer."""
        if self.engine == "glm":
            (token,) = self._encode(text)
            return token
        _, token = self._tokenizer.encode_pieces([text])
        return int(token)

    def name_words(self, names: Sequence[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Say which words stand for each plain name, and how much each counts.

        Returns:
            (N, 3) ids and weights. English names of two words are the sum of both, so that "top left" can be told from
            "top"; for GLM, Chinese and English count half each.
        """
        ids, weights = [], []
        for name in names:
            share = 1.0 if self.engine == "owl2" else 0.5
            words = [(self.word(word if self.engine == "owl2" else f" {word}"), share) for word in name.split()]
            if self.engine == "glm":
                words.append((self.word(say(name, "zh")), share))
            words += [(0, 0.0)] * (3 - len(words))
            ids.append([word for word, _ in words])
            weights.append([weight for _, weight in words])
        return ids, weights


# -- pictures ---------------------------------------------------------------------------------------------------------


def glm_patches(image: Image.Image, num_cells: int) -> tuple[Array, int]:
    """Resize and cut a picture as GLM's processor does, before normalising.

    Returns:
        (4 * num_cells, 192) uint8, cell by cell, filled up with zeros; and the index of its grid in `GLM_GRIDS`.
    """
    height, width = grid = glm_grid(image.size)
    side = 2 * PATCH
    pixels = np.asarray(image.resize((width * side, height * side), Image.Resampling.BICUBIC))
    cut = pixels.reshape(height, 2, PATCH, width, 2, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.zeros((4 * num_cells, 3 * PATCH * PATCH), np.uint8)
    patches[: 4 * height * width] = cut.reshape(4 * height * width, -1)
    return patches, GLM_GRIDS.index(grid)


def owl2_pixels(image: Image.Image) -> Array:
    """Squeeze a picture into a square as Owl2's processor does, before normalising; (3, S, S) uint8."""
    side = max(image.size)
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    if side != OWL2_SIDE:
        image = image.resize((OWL2_SIDE, OWL2_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image).transpose(2, 0, 1)


@dataclass(frozen=True, slots=True)
class CellTargets:
    """What is in each of C cells; see `cell_targets`."""

    colour: Array
    kind: Array
    size: Array
    region: Array
    place: Array
    occupancy: Array
    glyph: Array


def cell_targets(scene: Scene, grid: tuple[int, int], num_cells: int, glyphs: Mapping[str, int]) -> CellTargets:
    """Say for every cell of a picture what covers it.

    Args:
        scene: the picture.
        grid: (height, width) in cells.
        num_cells: C, at least height times width.
        glyphs: index of every character there is to read.

    Returns:
        Arrays over C cells: class indices or -100 where nothing is; ``place`` (C, 3) centre and radius as fractions of
        the picture; ``occupancy`` 0 free, 1 covered, 2 holds a centre, -100 no cell; ``glyph`` (C, 4) by patch, one
        more than the index, 0 for none.
    """
    height, width = grid
    count = height * width
    colour, kind, size, region = (np.full(num_cells, IGNORE, np.int64) for _ in range(4))
    place = np.zeros((num_cells, 3), np.float32)
    occupancy = np.full(num_cells, IGNORE, np.int64)
    occupancy[:count] = IGNORE if scene.kind == "outside" else 0  # what is there has no name
    glyph = np.full((num_cells, NUM_SLOTS), IGNORE, np.int64)
    dense = dense_targets(scene)
    xs = (np.arange(count) % width + 0.5) / width
    ys = (np.arange(count) // width + 0.5) / height
    short = min(scene.width, scene.height)
    nearest = np.full(count, np.inf)
    for shape in dense.shapes:
        distance = np.hypot((xs - shape.x) * scene.width, (ys - shape.y) * scene.height) / short
        covered = (distance < 0.95 * shape.radius) & (distance < nearest)
        home = min(height - 1, int(shape.y * height)) * width + min(width - 1, int(shape.x * width))
        covered[home] = True
        where = np.flatnonzero(covered)
        nearest[where] = distance[where]
        nearest[home] = -1
        colour[where] = COLOUR_NAMES.index(shape.colour)
        kind[where] = KINDS.index(shape.kind)
        size[where] = SIZE_WORDS.index(size_word(shape))
        region[where] = REGIONS.index(nearest_region(shape))
        place[where] = shape.x, shape.y, 2 * shape.radius
        occupancy[where] = np.maximum(occupancy[where], 1)
        occupancy[home] = 2
    for bar in dense.bars if scene.kind != "outside" else ():
        middle = (bar.x0 + bar.x1) / 2
        column = min(width - 1, int(middle * width))
        inside = (xs >= bar.x0) & (xs <= bar.x1) | (np.arange(count) % width == column)
        top = min(height - 1, int(bar.y0 * height))
        rows = np.arange(count) // width
        where = np.flatnonzero(inside & (rows >= top) & (ys <= bar.y1 + 0.5 / height))
        colour[where] = COLOUR_NAMES.index(bar.colour)
        place[where] = middle, bar.y0, 0.0
        occupancy[where] = 1
        occupancy[top * width + column] = 2
    if dense.glyphs and scene.kind != "outside":
        glyph[:count] = 0
    for item in dense.glyphs if scene.kind != "outside" else ():
        x, y = (item.x0 + item.x1) / 2, (item.y0 + item.y1) / 2
        row, column = min(2 * height - 1, int(y * 2 * height)), min(2 * width - 1, int(x * 2 * width))
        cell = (row // 2) * width + column // 2
        if 0 <= cell < count:
            glyph[cell, 2 * (row % 2) + column % 2] = 1 + glyphs[item.char] if item.char in glyphs else IGNORE
    return CellTargets(colour, kind, size, region, place, occupancy, glyph)


def collect_glyphs(seed: int = 0, per_type: int = 60) -> dict[str, int]:
    """Find the characters that pictures of all trained types print, each with its index."""
    rng = random.Random(seed)  # noqa: S311
    chars: set[str] = set()
    for name, info in TYPES.items():
        if info.held_out or info.scene_kind in (None, "shapes", "outside"):
            continue
        for lang in sorted({lang for langs in info.langs.values() for lang in langs}):
            for _ in range(per_type):
                for scene in sample_question(rng, name, lang).images:
                    chars.update(item.char for item in dense_targets(scene).glyphs)
    return {char: index for index, char in enumerate(sorted(chars))}


# -- batches ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch.

    Attributes:
        tensors: for `packed.py` and the losses.
        types: the type of each question; ``tensors["question"]`` points into it.
        languages: likewise.
        chunk: of its shape.
    """

    tensors: dict[str, Tensor]
    types: list[str]
    languages: list[str]
    chunk: int = CHUNK

    def to(self, device: torch.device | str) -> dict[str, Tensor]:
        """Copy the tensors to a device."""
        return {name: value.to(device, non_blocking=True) for name, value in self.tensors.items()}


def fits(name: str, shape: BatchShape) -> bool:
    """Tell whether a batch of this shape may hold questions of a type."""
    return TYPES[name].num_images == shape.num_images and TYPES[name].is_long == (shape.chunk > CHUNK)


class BatchMaker:
    """Makes batches of one engine.

    Args:
        engine: which.
        prompts: its tokenizer.
        glyphs: from `collect_glyphs`.
        num_cells: rows of a picture, as `packed.py` has them.
    """

    def __init__(self, engine: EngineName, prompts: Prompts, glyphs: Mapping[str, int], num_cells: int) -> None:
        self.engine = engine
        self.prompts = prompts
        self.glyphs = glyphs
        self.num_cells = num_cells
        self.text_types = [name for name, info in TYPES.items() if not info.num_images and engine in info.engines]

    def make(self, lesson: Lesson, seed: int, step: int) -> Batch:
        """Make a batch; the same arguments always give the same one."""
        rng = random.Random(f"{seed} {step}")  # noqa: S311
        rows = [self._draw_row(rng, lesson) for _ in range(lesson.shape.num_rows)]
        return self.collate(rows, lesson.shape)

    def _draw_row(self, rng: random.Random, lesson: Lesson) -> tuple[tuple[Scene, ...], list[Question]]:
        shape = lesson.shape
        weights = {name: weight for name, weight in lesson.weights.items() if weight > 0 and fits(name, shape)}
        langs = {lang for name in weights for lang in TYPES[name].langs[self.engine]}
        lang: Lang = "zh" if "zh" in langs and (len(langs) == 1 or rng.random() < _SHARE_OF_CHINESE) else "en"
        weights = {name: weight for name, weight in weights.items() if lang in TYPES[name].langs[self.engine]}
        is_many = shape.num_images == 1 and rng.random() < _SHARE_OF_MANY and lesson.num_shapes[1] >= 6
        if is_many and any(name in MANY_TYPES for name in weights):
            scenes, questions = pack_of_many(rng, weights, lang, shape.num_questions)
        else:
            scenes, questions = sample_pack(rng, weights, lang, shape.num_questions, num_shapes=lesson.num_shapes)
        names = any_drawing(rng)
        changed = drawn(rng, scenes, names)
        if changed is not None:
            scenes = changed
            # A caption's words for sizes are those of the shapes as they were placed.
            questions = [q for q in questions if not (q.type == "caption" and "small" in names)]
        for name in self.text_types:
            if rng.random() < lesson.weights.get(name, 0.0):
                questions.insert(0, sample_question(rng, name, lang))
        most = _MOST_HONEST_ALONE if scenes and scenes[0].kind == "outside" else _MOST_HONEST
        honest = [question for question in questions if TYPES[question.type].is_honest][most:]
        kept = [question for question in questions if question not in honest]
        return scenes, [typed(rng, question, any_typing(rng, question.lang)) for question in kept]

    def collate(self, rows: Sequence[tuple[tuple[Scene, ...], list[Question]]], shape: BatchShape) -> Batch:
        """Pack rows of questions about the same pictures; questions that do not fit any more are left out."""
        size, num_text, num_labels = len(rows), shape.num_text, shape.num_labels
        ids, block, offset = (np.zeros((size, num_text), np.int64) for _ in range(3))
        sees_images = np.zeros((size, num_text), bool)
        label_index = np.zeros((size, num_labels), np.int64)
        labels = np.full((size, num_labels), IGNORE, np.int64)
        question_index = np.full((size, num_labels), -1, np.int64)
        token_weights = np.zeros((size, num_labels), np.float32)
        types: list[str] = []
        languages: list[str] = []
        for row, (_, questions) in enumerate(rows):
            at = at_label = 0
            for number, question in enumerate(questions, start=1):
                asked, answered = self.prompts.block(question.text, question.answer, bool(question.images))
                length = len(asked) + len(answered) - 1
                if length > shape.chunk + 1 or at + length > num_text or at_label + len(answered) > num_labels:
                    continue
                span = slice(at, at + length)
                ids[row, span] = asked + answered[:-1]
                block[row, span] = number
                offset[row, span] = np.arange(length)
                sees_images[row, span] = bool(question.images)
                target = slice(at_label, at_label + len(answered))
                label_index[row, target] = np.arange(at + len(asked) - 1, at + length)
                labels[row, target] = answered
                question_index[row, target] = len(types)
                token_weights[row, target] = 1 / math.sqrt(len(answered))
                types.append(question.type)
                languages.append(question.lang)
                at, at_label = at + length, at_label + len(answered)
        pictures = [scene for scenes, _ in rows for scene in scenes]
        arrays = {
            "ids": ids,
            "block": block,
            "offset": offset,
            "sees_images": sees_images,
            "label_index": label_index,
            "labels": labels,
            "question": question_index,
            "token_weights": token_weights,
            **self.pictures(pictures),
        }
        return Batch({name: torch.from_numpy(value) for name, value in arrays.items()}, types, languages, shape.chunk)

    def pictures(self, scenes: Sequence[Scene]) -> dict[str, Array]:
        """Render pictures and say what is in their cells."""
        pixels, grids, targets = [], [], []
        side = math.isqrt(self.num_cells)
        for scene in scenes:
            image = render(scene)
            if self.engine == "glm":
                patches, grid = glm_patches(image, self.num_cells)
                shape = GLM_GRIDS[grid]
            else:
                patches, grid, shape = owl2_pixels(image), 0, (side, side)
            pixels.append(patches)
            grids.append(grid)
            targets.append(cell_targets(scene, shape, self.num_cells, self.glyphs))
        names = ("colour", "kind", "size", "region", "place", "occupancy", "glyph")
        dense = {f"cell_{name}": np.stack([getattr(target, name) for target in targets]) for name in names}
        return {"pixels": np.stack(pixels), "grid": np.asarray(grids, np.int64), **dense}

    def dense_only(self, lesson: Lesson, seed: int, step: int, num_pictures: int) -> Batch:
        """Make a batch of pictures without questions."""
        rng = random.Random(f"dense {seed} {step}")  # noqa: S311
        names = [name for name, weight in lesson.weights.items() if weight > 0 and TYPES[name].num_images]
        scenes: list[Scene] = []
        while len(scenes) < num_pictures:
            name = rng.choice(names)
            lang = rng.choice(TYPES[name].langs[self.engine])
            scenes += sample_question(rng, name, lang).images
        arrays = self.pictures(scenes[:num_pictures])
        return Batch({name: torch.from_numpy(value) for name, value in arrays.items()}, [], [])


_worker: BatchMaker | None = None


def _start_worker(engine: EngineName, folder: Path, glyphs: Mapping[str, int], num_cells: int) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = BatchMaker(engine, Prompts(engine, folder), glyphs, num_cells)


def _work(job: tuple[str, tuple[Any, ...]]) -> Batch:
    assert _worker is not None
    method, arguments = job
    batch: Batch = getattr(_worker, method)(*arguments)
    return batch


def make_batches(
    maker: BatchMaker, folder: Path, jobs: Iterator[tuple[str, tuple[Any, ...]]], num_workers: int
) -> Iterator[Batch]:
    """Make one batch per job, in order.

    Args:
        maker: makes them where there are no workers.
        folder: the tokenizer's, for the workers.
        jobs: (name of a `BatchMaker` method, its arguments); with workers they are drawn ahead.
        num_workers: processes beside this one; 0 makes each batch when it is asked for.
    """
    if not num_workers:
        for method, arguments in jobs:
            yield getattr(maker, method)(*arguments)
        return
    setting = (maker.engine, folder, maker.glyphs, maker.num_cells)
    with get_context("spawn").Pool(num_workers, _start_worker, setting) as pool:
        waiting = []
        for job in jobs:
            waiting.append(pool.apply_async(_work, (job,)))
            if len(waiting) > 4 * num_workers:
                yield waiting.pop(0).get()
        for result in waiting:
            yield result.get()
