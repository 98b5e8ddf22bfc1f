"""Text turns without a picture: a greeting, and what the model can do.

In: nothing but a language. Out: a question with an honest, short answer.
"""

from __future__ import annotations

import random

from training.pocket.scenes.asking import Scenes
from training.pocket.scenes.nouns import Lang, Question

_GREETINGS: dict[Lang, tuple[str, ...]] = {
    "zh": ("你好", "你好！", "您好", "嗨", "早上好", "晚上好"),
    "en": ("Hello", "Hello!", "Hi", "Hi there", "Good morning", "Good evening"),
}
_GREETING_ANSWER: dict[Lang, str] = {"zh": "你好！请给我一张图片。", "en": "Hello! Show me a picture."}
_ABILITIES: dict[Lang, tuple[str, ...]] = {
    "zh": ("你能做什么？", "你会什么？", "你可以做什么？", "介绍一下你自己。", "你是谁？"),
    "en": ("What can you do?", "What are you able to do?", "Who are you?", "Tell me about yourself.", "Help"),
}
_ABILITY_ANSWER: dict[Lang, str] = {
    "zh": "我是一个很小的模型，能看图回答颜色、形状、数量、位置和价格。",
    "en": "I am a very small model. I can answer questions on colours, shapes and numbers in pictures.",
}


def ask_greeting(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """A greeting."""
    return Question("greeting", lang, (), rng.choice(_GREETINGS[lang]), _GREETING_ANSWER[lang])


def ask_ability(rng: random.Random, scenes: Scenes, lang: Lang, want: str | None) -> Question | None:
    """What the model can do."""
    return Question("ability", lang, (), rng.choice(_ABILITIES[lang]), _ABILITY_ANSWER[lang])
