"""What the modules of router/api/anthropic/ say to callers, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

NOT_SUPPORTED: Final = Text(
    "Unsupported parameter: '{param}'. {advice}",
    "不支持的参数：'{param}'。{advice}",
)
LEAVE_IT_OUT: Final = Text("Leave it out.", "请去掉它。")
SEND_OUTPUT_CONFIG: Final = Text(
    "Send the schema as 'output_config': {'format': {'type': 'json_schema', 'schema': ...}}.",
    "请以 'output_config': {'format': {'type': 'json_schema', 'schema': ...}} 发送该 schema。",
)
SEND_DISABLE_PARALLEL: Final = Text(
    "Send 'tool_choice': {'type': 'auto', 'disable_parallel_tool_use': true}.",
    "请发送 'tool_choice': {'type': 'auto', 'disable_parallel_tool_use': true}。",
)
NOT_BASE64: Final = Text(
    "'{param}' is not base64: a picture at an address is sent as {{'type': 'url', 'url': ...}}.",
    "'{param}' 不是 base64：网络图片请以 {{'type': 'url', 'url': ...}} 发送。",
)
CALLED_BY_MODEL: Final = Text(
    "Unsupported value: '{param}' must contain 'direct': no code is run here that could call a function.",
    "不支持的取值：'{param}' 必须包含 'direct'：这里不运行代码，因此没有代码能调用函数。",
)
NAME_THE_TOOL: Final = Text(
    "'tool_choice.name' is missing: it is the name of the function of 'tools' that must be called.",
    "缺少 'tool_choice.name'：它是 'tools' 中必须调用的函数的名字。",
)
OTHER_TURN: Final = Text(
    "'{param}': a block of type '{kind}' is part of a turn of '{role}'.",
    "'{param}'：类型为 '{kind}' 的块属于 '{role}' 的消息。",
)
