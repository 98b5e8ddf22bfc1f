"""What the modules of router/api/anthropic/ say to callers, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

UNKNOWN_BLOCK: Final = Text(
    "Unsupported value: '{param}' is '{kind}'. Accepted are: {accepted}.",
    "不支持的取值：'{param}' 为 '{kind}'。可用的有：{accepted}。",
)
NOT_SUPPORTED: Final = Text(
    "Unsupported parameter: '{param}'. {advice}",
    "不支持的参数：'{param}'。{advice}",
)
LEAVE_IT_OUT: Final = Text("Leave it out.", "请去掉它。")
SEND_OUTPUT_CONFIG: Final = Text(
    "Send the schema as 'output_config': {'format': {'type': 'json_schema', 'schema': ...}}.",
    "请以 'output_config': {'format': {'type': 'json_schema', 'schema': ...}} 发送该 schema。",
)
NOT_BASE64: Final = Text(
    "'{param}' is not base64: a picture at an address is sent as {{'type': 'url', 'url': ...}}.",
    "'{param}' 不是 base64：网络图片请以 {{'type': 'url', 'url': ...}} 发送。",
)
NO_TOOLS: Final = Text(
    "Unsupported value for 'tools': tools are not available over Messages; leave it out, or send 'tool_choice': "
    "{'type': 'none'} for an answer in words.",
    "不支持 'tools'：Messages 不能使用工具；请去掉它，或发送 'tool_choice': {'type': 'none'} 以获得文字回答。",
)
