"""Sentences of `glowl dataset` and `glowl report`."""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    "dataset.nothing_kept": Text(
        "nothing is kept in {folder}. Switch capture on: {glowl} owners set NAME --capture pictures, or without keys "
        "GLOWL_CAPTURE=local=pictures (docs/loop.md)",
        "{folder} 中没有保存任何内容。请开启保存：{glowl} owners set NAME --capture pictures；不用密钥时 "
        "GLOWL_CAPTURE=local=pictures（见 docs/loop.zh.md）",
    ),
    "dataset.written": Text(
        "{folder}: {train} to learn from, {heldout} held out, {groups} different pictures",
        "{folder}：训练 {train} 条，留出 {heldout} 条，{groups} 组不同的图片",
    ),
    "dataset.dropped": Text("left out: {number} ({reason})", "未采用：{number} 条（{reason}）"),
    "dataset.empty": Text(
        "no example has a right answer yet. {waiting} answers wait for a correction or a thumb: {glowl} dataset review",
        "还没有带正确答案的样本。{waiting} 个回答等待更正或评价：{glowl} dataset review",
    ),
    "dataset.review": Text(
        "{waiting} answers wait for review. Open {url} while `{glowl} up` runs",
        "{waiting} 个回答等待审阅。在 `{glowl} up` 运行时打开 {url}",
    ),
    "dataset.exported": Text("{file}: {number}", "{file}：{number} 条"),
    "report.written": Text("{file}: {number} answers", "{file}：{number} 个回答"),
}
