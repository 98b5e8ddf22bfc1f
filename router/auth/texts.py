"""What is said about owners and keys, in English and Chinese.

In: nothing. Out: `Text`s.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

NO_OWNER: Final = Text(
    "there is no owner {name!r}; `glowl owners list` shows them all",
    "没有名为 {name!r} 的所有者；`glowl owners list` 可列出全部",
)
NAME_TAKEN: Final = Text("an owner is named {name!r} already ({id})", "已有名为 {name!r} 的所有者（{id}）")
NAME_WRONG: Final = Text(
    "a name has 1 to 64 characters, none of them a space at an end, a comma or a control character, and does not "
    "look like an id",
    "名称须为 1 至 64 个字符，首尾不能有空格，不能含逗号或控制字符，也不能与 id 的形式相同",
)
ID_TAKEN: Final = Text("{id} is an owner already, named {name!r}", "{id} 已是所有者，名为 {name!r}")
ID_WRONG: Final = Text(
    "{id!r} cannot be adopted: give 'local', the 16 hex digits that a key of GLOWL_API_KEYS stands for, or an own_... "
    "id",
    "无法接管 {id!r}：请给出 'local'、GLOWL_API_KEYS 中某个密钥对应的 16 位十六进制 id，或 own_... 形式的 id",
)
NO_KEY: Final = Text(
    "there is no key {id!r}; `glowl keys list` shows them by their first characters",
    "没有密钥 {id!r}；`glowl keys list` 会以开头几个字符列出全部密钥",
)
KEY_ENDED: Final = Text(
    "{id} is no longer good; `glowl keys create {owner}` makes a new key",
    "{id} 已失效；请用 `glowl keys create {owner}` 新建密钥",
)
SCOPES_BEYOND: Final = Text(
    "the owner itself lacks {scopes}; `glowl owners set {owner} --scopes ...` gives more",
    "所有者本身没有 {scopes}；可用 `glowl owners set {owner} --scopes ...` 增加",
)
NO_SCOPES: Final = Text("at least one scope is needed: {scopes}", "至少需要一个权限范围：{scopes}")
