"""What the merge says: the instructions under which GLM and Owl2 write a final answer, and the notes beside it.

In: values for the places in braces. Out: the same sentence in both languages. Instructions are in the language of the
question; a question in any other language gets the English ones, which then name its language.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

# Instructions.

COMPOSE: Final = Text(
    "Below are two answers to the same question about the same pictures. Check them against the pictures and write "
    "one final answer in {language}: answer the question directly and do not mention that there were two answers. "
    "Where they disagree, trust the pictures.\n\n"
    "Question: {question}\n\nFirst answer: {draft}\n\nDeeper analysis: {deep}",
    "下面是针对同一个问题和图片的两份回答。请结合图片核对，写出一份最终回答：用{language}，直接回答问题，"
    "不要提到“两份回答”。两份回答不一致时，以图片为准。\n\n问题：{question}\n\n初步回答：{draft}\n\n深入分析（可能是英文）：{deep}",
)
FORM: Final = Text(
    "Below is an analysis of the question and the pictures. Check it against the pictures and write the final answer "
    "in the form that is asked for. Where they disagree, trust the pictures.\n\n"
    "Question: {question}\n\nAnalysis: {deep}",
    "下面是对图片和问题的分析（可能是英文）。请结合图片核对，按要求的格式写出最终回答，以图片为准。\n\n"
    "问题：{question}\n\n分析：{deep}",
)
GROUP: Final = Text(
    "\n\nYou see {named} of {total} here, in this order; the others are looked at separately. Say what you find in "
    "these for the question above, picture by picture and by these numbers, and nothing about pictures that you do not "
    "see.",
    "\n\n一共有 {total} 张图片，这里依次给出{named}，其余的另行分析。请按编号逐张说明其中与上述问题有关的内容，"
    "不要涉及没有看到的图片。",
)
REDUCE: Final = Text(
    "A question about {total} pictures was looked into in groups of pictures. What was found, in their order:\n\n"
    "{findings}\n\nQuestion: {question}\n\n"
    "Answer the question about all the pictures together from what was found, in {language}: directly, and without "
    "mentioning groups or findings.",
    "针对一个关于 {total} 张图片的问题，已分组分析。按图片顺序，分析结果如下（可能是英文）：\n\n{findings}\n\n"
    "问题：{question}\n\n请根据这些结果，用{language}直接回答针对全部图片的问题，不要提到分组或分析结果。",
)
QUESTION_LANGUAGE: Final = Text("English", "中文")
OTHER_LANGUAGE: Final = "the language of the question"

# Pictures by their numbers.

ONE_PICTURE: Final = Text("picture {first}", "第 {first} 张图片")
SOME_PICTURES: Final = Text("pictures {first}-{last}", "第 {first}-{last} 张图片")
FINDING: Final = Text("{named}: {text}", "{named}：{text}")
GROUP_MISSING: Final = Text("{named} could not be analysed.", "{named}未能分析。")
ONE_LEFT_OUT: Final = Text("[{named} is not shown here]", "[{named}未在此处显示]")
SOME_LEFT_OUT: Final = Text("[{named} are not shown here]", "[{named}未在此处显示]")

# Notes: what of an answer is not as it was to be.

NO_ANSWER: Final = Text("{engine} gave no answer ({code}): {message}", "{engine} 没有给出回答（{code}）：{message}")
ANSWER_CUT: Final = Text(
    "{engine}'s answer was cut ({finish_reason}), another one is complete",
    "{engine} 的回答被截断（{finish_reason}），另一份回答是完整的",
)
NO_SCHEMA_JSON: Final = Text(
    "owl2 wrote no JSON that satisfies the schema: glm puts its answer into the form",
    "owl2 没有写出符合 schema 的 JSON：由 glm 将其回答整理成要求的格式",
)
JSON_REPAIRED: Final = Text(
    "owl2's JSON did not satisfy the schema at first and was repaired", "owl2 的 JSON 起初不符合 schema，已修复"
)
GLM_JSON_CUT: Final = Text("glm's JSON was cut: owl2's stands alone", "glm 的 JSON 被截断：仅采用 owl2 的结果")
FIELDS_DO_NOT_FIT: Final = Text(
    "the fields of both answers do not satisfy the schema together: glm's answer stands as a whole",
    "两份回答的字段合并后不符合 schema：整体采用 glm 的回答",
)
NOT_COMPOSED: Final = Text(
    "the answers could not be composed by {engine}: {reason}", "{engine} 未能写出最终回答：{reason}"
)
COMPOSED_CUT: Final = Text(
    "glm's composed answer was cut ({finish_reason}), {engine}'s own one is complete",
    "glm 整合的回答被截断（{finish_reason}），{engine} 自己的回答是完整的",
)
NOT_MERGED: Final = Text(
    "the answers could not be merged, because of an error of this service: one of them stands alone",
    "由于本服务的错误，未能合并各份回答：仅采用其中一份",
)
NOT_REDUCED: Final = Text(
    "what was found in the groups of pictures could not be made into one answer by {engine}: {reason}",
    "{engine} 未能将各组图片的分析结果合成一个回答：{reason}",
)
GROUP_FAILED: Final = Text(
    "{named} could not be analysed by {engine} ({code}): {message}",
    "{engine} 未能分析{named}（{code}）：{message}",
)

# Why there is no answer in what an engine wrote.

NO_ENGINE_ANSWERED: Final = Text("no engine gave an answer", "没有引擎给出回答")
ONLY_BY_GLM: Final = Text(
    "Only GLM can write the answer in the form that was asked for, and it failed: {reason}",
    "只有 GLM 能按所要求的格式作答，而它失败了：{reason}",
)
MERGE_FAILED: Final = Text(
    "The answers could not be merged, because of an error of this service.", "由于本服务出错，未能合并各个回答。"
)
WROTE_NOTHING: Final = Text("it wrote nothing", "没有写出任何内容")
JSON_CUT: Final = Text("its JSON was cut ({finish_reason})", "其 JSON 被截断（{finish_reason}）")
NOTHING_BEFORE_LIMIT: Final = Text(
    "it reached its length limit before it had written anything", "在写出任何内容之前已达到长度上限"
)
WITHHELD: Final = Text("its answer was withheld by a content filter", "其回答被内容过滤器拦截")
