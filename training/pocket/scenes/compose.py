"""The prompt under which GLM writes the final answer from its own draft and Owl2's finding.

In: a scene with a two-hop question, which GLM alone is not trained for. Out: the prompt; its answer is Owl2's finding
in the language of the question.
"""

from __future__ import annotations

import random

from training.pocket.scenes.asking import Scenes
from training.pocket.scenes.hops import ask_any_hop
from training.pocket.scenes.nouns import Lang, Question
from training.pocket.scenes.outside_words import HONEST
from training.pocket.scenes.words import KINDS, look, say

# Word for word what the router sends; a test holds the two together.
PROMPTS: dict[Lang, str] = {
    "zh": (
        "下面是针对同一个问题和图片的两份回答。请结合图片核对，写出一份最终回答：用中文，直接回答问题，"
        "不要提到“两份回答”。两份回答不一致时，以图片为准。\n\n"
        "问题：{question}\n\n初步回答：{draft}\n\n深入分析（可能是英文）：{deep}"
    ),
    "en": (
        "Below are two answers to the same question about the same pictures. Check them against the pictures and write "
        "one final answer in English: answer the question directly and do not mention that there were two answers. "
        "Where they disagree, trust the pictures.\n\n"
        "Question: {question}\n\nFirst answer: {draft}\n\nDeeper analysis: {deep}"
    ),
}

_SHARE_OF_HONEST = 0.12


def ask_compose(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """A draft that is right or wrong beside a finding in English that is right."""
    question = ask_any_hop(rng, scenes, lang)
    if question is None:
        return None
    (scene,) = scenes
    # What GLM alone makes of such a question: a colour, a kind, a whole shape, a number, yes or no.
    shape = rng.choice(scene.shapes)
    draft = rng.choice(
        (
            question.answer,
            rng.choice(question.candidates),
            say(shape.colour, lang),
            say(shape.kind, lang),
            look(*shape.look, lang),
            say(rng.choice(KINDS), lang),
            str(rng.randint(0, 6)),
            say(rng.choice(("yes", "no")), lang),
            HONEST[lang],
        )
    )
    deep, answer = question.answer_class, question.answer
    if rng.random() < _SHARE_OF_HONEST:
        # What neither can tell stays so; what the draft made of it does not count.
        deep = answer = HONEST[lang]
    text = PROMPTS[lang].format(question=question.text, draft=draft, deep=deep)
    return Question("compose", lang, scenes, text, answer, "", question.answer_class, question.candidates)
