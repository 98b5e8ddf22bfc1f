"""Pictures that a program can draw and ask about, with exact answers: what pocket checkpoints learn."""

from training.pocket.scenes.baselines import blind_baseline, blind_baselines, is_right
from training.pocket.scenes.catalogue import TYPES
from training.pocket.scenes.drawing import DenseTargets, dense_targets, render
from training.pocket.scenes.layout import SIZES
from training.pocket.scenes.nouns import Bar, Glyph, Lang, Question, Scene, SceneKind, Shape, TextLine, TypeInfo
from training.pocket.scenes.sampling import ask, make_scene, sample_pack, sample_question
from training.pocket.scenes.words import COLOUR_NAMES, KINDS, REGIONS

__all__ = [
    "COLOUR_NAMES",
    "KINDS",
    "REGIONS",
    "SIZES",
    "TYPES",
    "Bar",
    "DenseTargets",
    "Glyph",
    "Lang",
    "Question",
    "Scene",
    "SceneKind",
    "Shape",
    "TextLine",
    "TypeInfo",
    "ask",
    "blind_baseline",
    "blind_baselines",
    "dense_targets",
    "is_right",
    "make_scene",
    "render",
    "sample_pack",
    "sample_question",
]
