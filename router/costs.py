"""What a call will cost, as far as can be known before an engine sees it.

In: a conversation, its job's spec, and what the engines say of themselves. Out: the `Cost` that is charged when it is
admitted; what it used takes its place at the end. Pictures are counted as the engines count them, text by its length: a
tokenizer would be another 20 MB and a millisecond for each request.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from engines.base import EngineInfo, ImagePart, Message, TextPart
from engines.image_header import read_header
from engines.token_costs import PUBLISHED, TokenCosts
from engines.tools import ToolUse
from router.jobs.job import BranchPlan, JobSpec
from router.limits.meters import Cost

# English has 4 and JSON 3 characters of ASCII a token. GLM's tokenizer makes 0.6 tokens of a Chinese character; Owl2's,
# made for English, up to 3 of a rare one.
_ASCII_PER_TOKEN: Final = 3
_TOKENS_PER_OTHER: Final = {"glm": 1, "owl2": 2}
# Role, end of turn, and what the template puts around all of it.
_PER_MESSAGE: Final = 6
_PER_PROMPT: Final = 24


def to_cost(
    messages: Sequence[Message], spec: JobSpec, infos: Mapping[str, EngineInfo | None], *, counts_tokens: bool
) -> Cost:
    """Return what a call is charged before it is begun.

    Args:
        messages: the conversation, its pictures loaded.
        spec: of its job, which says who answers and how the answers are merged.
        infos: what is known of the engines.
        counts_tokens: tokens are limited; otherwise they are not counted.
    """
    sizes = _sizes(messages)
    return Cost(
        requests=0 if spec.batch_id else 1,
        pictures=len(sizes),
        kilopixels=sum(-(-width * height // 1000) for width, height in sizes),
        tokens=_tokens(messages, spec, infos, sizes) if counts_tokens else 0,
    )


def tokens_of_cut(messages: Sequence[Message], text: str, info: EngineInfo | None) -> int:
    """Return what GLM used for an answer that was cut, after so much text of it."""
    sizes = _sizes(messages)
    return _prompt(messages, "glm", _costs(info, "glm"), sizes) + tokens_of_text(text, "glm")


def tokens_of_prompt(messages: Sequence[Message], engine: str, info: EngineInfo | None) -> int:
    """Estimate the tokens of a conversation as an engine reads it."""
    return _prompt(messages, engine, _costs(info, engine), _sizes(messages))


def tokens_of_text(text: str, engine: str) -> int:
    """Estimate the tokens of a text."""
    num_ascii = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return -(-num_ascii // _ASCII_PER_TOKEN) + _TOKENS_PER_OTHER.get(engine, 1) * (len(text) - num_ascii)


def _tokens(
    messages: Sequence[Message],
    spec: JobSpec,
    infos: Mapping[str, EngineInfo | None],
    sizes: Sequence[tuple[int, int]],
) -> int:
    max_tokens = spec.sampling.max_tokens
    total = answers = 0
    for branch in spec.branches:
        shown = sizes if branch.pictures is None else sizes[branch.pictures[0] - 1 : branch.pictures[1]]
        run = _run(messages, max_tokens, branch, infos.get(branch.engine), shown)
        answers += run[1]
        total += sum(run) + _of_tools(spec.sampling.tool_use, branch.engine)
    if spec.merge_queue != "light":  # an engine writes the final answer, and reads the others for it
        is_shown = all(branch.pictures is None for branch in spec.branches)
        merge = BranchPlan("merge", spec.merge_queue)
        total += answers + sum(_run(messages, max_tokens, merge, infos.get(merge.engine), sizes if is_shown else ()))
    return total


def _of_tools(tool_use: ToolUse | None, engine: str) -> int:
    """Return what an engine reads of the functions that may be called."""
    tools = () if tool_use is None else tool_use.tools
    return sum(tokens_of_text(f"{tool.name}{tool.description}{tool.parameters}", engine) for tool in tools)


def _run(
    messages: Sequence[Message],
    max_tokens: int | None,
    branch: BranchPlan,
    info: EngineInfo | None,
    sizes: Sequence[tuple[int, int]],
) -> tuple[int, int]:
    """Return what an engine reads, and may write."""
    costs = _costs(info, branch.engine)
    prompt = _prompt(messages, branch.engine, costs, sizes)
    wanted = max_tokens or (costs.max_tokens_thinking if branch.enable_thinking else costs.max_tokens)
    return prompt, wanted if info is None else min(wanted, max(info.context_tokens - prompt, 1))


def _prompt(messages: Sequence[Message], engine: str, costs: TokenCosts, sizes: Sequence[tuple[int, int]]) -> int:
    text = sum(
        tokens_of_text(part.text, engine)
        for message in messages
        for part in message.parts
        if isinstance(part, TextPart)
    )
    text += sum(tokens_of_text(call.name + call.arguments, engine) for each in messages for call in each.tool_calls)
    return _PER_PROMPT + _PER_MESSAGE * len(messages) + text + sum(costs.of_picture(*size) for size in sizes)


def _costs(info: EngineInfo | None, engine: str) -> TokenCosts:
    return (info.costs if info is not None else None) or PUBLISHED.get(engine, PUBLISHED["glm"])


def _sizes(messages: Sequence[Message]) -> list[tuple[int, int]]:
    return [_size_of(part) for message in messages for part in message.parts if isinstance(part, ImagePart)]


def _size_of(image: ImagePart) -> tuple[int, int]:
    header = read_header(image.data)  # not the first reading: what has none was refused
    return header.width_px, header.height_px
