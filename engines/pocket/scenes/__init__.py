"""Pictures that a program can draw and ask about, with exact answers: what pocket checkpoints learn."""

from engines.pocket.scenes.baselines import blind_baseline, blind_baselines, is_right
from engines.pocket.scenes.catalogue import TYPES
from engines.pocket.scenes.drawing import DenseTargets, dense_targets, render
from engines.pocket.scenes.layout import SIZES
from engines.pocket.scenes.nouns import Bar, Glyph, Lang, Question, Scene, SceneKind, Shape, TextLine, TypeInfo
from engines.pocket.scenes.sampling import ask, make_scene, sample_pack, sample_question
from engines.pocket.scenes.words import COLOUR_NAMES, KINDS, REGIONS

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
