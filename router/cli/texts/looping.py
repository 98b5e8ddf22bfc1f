"""Sentences of `glowl dataset` and `glowl report`."""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    "dataset.nothing_kept": Text(
        "nothing is kept in {folder}. Switch capture on: {command}, or without keys "
        "GLOWL_CAPTURE=local=pictures (docs/loop.md)",
        "{folder} 中没有保存任何内容。请开启保存：{command}；不用密钥时 "
        "GLOWL_CAPTURE=local=pictures（见 docs/loop.zh.md）",
    ),
    "dataset.nothing_found": Text(
        "nothing that is kept in {folder} is of that time and owner: give a longer --since, or an ID that "
        "`glowl owners show` prints as --owner",
        "{folder} 中没有符合该时间和所有者的内容：请用更长的 --since，或用 `glowl owners show` 显示的 ID 作为 --owner",
    ),
    "dataset.written": Text(
        "{folder}: {train} to learn from, {heldout} held out, {groups} different pictures",
        "{folder}：训练 {train} 条，留出 {heldout} 条，{groups} 组不同的图片",
    ),
    "dataset.dropped": Text("left out: {number} ({reason})", "未采用：{number} 条（{reason}）"),
    "dataset.empty": Text(
        "no example has a right answer yet. {waiting} answers wait for a correction or a thumb: {command}",
        "还没有带正确答案的样本。{waiting} 个回答等待更正或评价：{command}",
    ),
    "dataset.waiting": Text("{waiting} answers wait for review", "{waiting} 个回答等待审阅"),
    "dataset.ask": Text(
        "y: right, g: GLM is right, o: Owl2 is right, s: skip, q: end, or type the right answer",
        "y：正确，g：GLM 正确，o：Owl2 正确，s：跳过，q：结束，或输入正确答案",
    ),
    "dataset.reviewed": Text("{number} kept", "已保存 {number} 条"),
    "dataset.exported": Text("{file}: {number}", "{file}：{number} 条"),
    "report.written": Text("{file}: {number} answers", "{file}：{number} 个回答"),
}
