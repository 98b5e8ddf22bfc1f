"""What limits say to callers, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

REACHED: Final = Text(
    "The limit of {whose} is reached: {what}. Try again in {wait}.", "已达到{whose}的限额：{what}。请在 {wait} 后重试。"
)
NEVER_FITS: Final = Text(
    "This request is larger than the limit of {whose} ({what}), so it would never be accepted: it counts as {cost}. "
    "Send less, or ask for fewer tokens with max_completion_tokens, max_output_tokens in a response, "
    "or max_tokens in a message.",
    "该请求超出{whose}的限额（{what}），重试也不会被接受：它计为 {cost}。"
    "请减少内容，或用 max_completion_tokens"
    "（在 responses 中用 max_output_tokens，在 messages 中用 max_tokens）降低生成长度。",
)
WHOSE: Final = {
    "owner": Text("this owner", "该所有者"),
    "batch": Text("this owner's batches", "该所有者的批处理"),
    "key": Text("this key", "该密钥"),
    "address": Text("this address", "该地址"),
}
WHAT: Final = {
    "requests": Text("{limit} requests a minute", "每分钟 {limit} 个请求"),
    "pictures": Text("{limit} pictures a minute", "每分钟 {limit} 张图片"),
    "megapixels": Text("{limit} megapixels a minute", "每分钟 {limit} 百万像素"),
    "tokens": Text("{limit} tokens a minute", "每分钟 {limit} 个 token"),
    "concurrent": Text("{limit} requests at a time", "同时 {limit} 个请求"),
}
COST: Final = {
    "requests": Text("{cost}", "{cost}"),
    "pictures": Text("{cost} pictures", "{cost} 张图片"),
    "megapixels": Text("{cost} megapixels", "{cost} 百万像素"),
    "tokens": Text("up to {cost} tokens", "最多 {cost} 个 token"),
}
TOO_MANY_FAILURES: Final = Text(
    "Too many requests with a wrong key came from this address; try again in {wait}.",
    "来自该地址的错误密钥请求过多；请在 {wait} 后重试。",
)
