"""What the modules of router/batches/ say to callers: refusals and notes, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

FILES_TOO_LARGE: Final = Text(
    "All files together would have more than {max_total_bytes} bytes; delete some first.",
    "全部文件将超过 {max_total_bytes} 字节的上限；请先删除一些。",
)
TOO_MANY_FILES: Final = Text(
    "There are {max_files} files already; delete some first.", "已有 {max_files} 个文件；请先删除一些。"
)
FILE_TOO_LARGE: Final = Text("The file is larger than {limit} bytes.", "文件超过 {limit} 字节的上限。")
SAME_ID: Final = Text("an earlier line has the same 'custom_id'", "前面的行已使用同一个 'custom_id'")
PACKED: Final = Text(
    "The input file is compressed ({packed}); upload it unpacked: JSON lines in UTF-8.",
    "输入文件是压缩文件（{packed}）；请解压后上传 UTF-8 编码的 JSON Lines 文件。",
)
NOT_UTF8: Final = Text(
    "The input file must be UTF-8 text; save it in that encoding.", "输入文件必须是 UTF-8 编码的文本；请以该编码保存。"
)
NOT_LINES: Final = Text(
    "The input file must have one JSON object per line, as `jq -c` writes them; this is an array, or an "
    "object over several lines.",
    "输入文件必须每行一个 JSON 对象（可用 `jq -c` 转换）；此文件是一个数组，或一个跨多行的对象。",
)
LINE_TOO_LONG: Final = Text("longer than {size} bytes", "超过 {size} 字节")
NOT_OBJECT: Final = Text("not a JSON object", "不是 JSON 对象")
CUSTOM_ID: Final = Text(
    "'custom_id' must be a text of 1 to {max_custom_id} characters",
    "'custom_id' 必须是 1 至 {max_custom_id} 个字符的字符串",
)
METHOD: Final = Text("'method' must be 'POST'", "'method' 必须为 'POST'")
BODY: Final = Text("'body' must be an object", "'body' 必须是对象")
NOT_JSON: Final = Text("not valid JSON: {error}", "不是有效的 JSON：{error}")
LINE_FAILED: Final = Text("The server failed on this line; its log says more.", "服务器处理该行时出错，详情见日志。")
LINE_CANCELLED: Final = Text(
    "The batch was cancelled before this line was answered.", "批次在该行得到回答之前已被取消。"
)
EMPTY_FILE: Final = Text("The input file has no lines.", "输入文件没有任何内容。")
BATCH_FAILED: Final = Text("The server failed; its log says more.", "服务器内部出错，详情见日志。")
LINE_EXPIRED: Final = Text(
    "The time of the batch was over before this line was answered.", "该行在批次到期之前未得到回答。"
)
INPUT_GONE: Final = Text("The input file is gone.", "输入文件已不存在。")
INPUT_EXPIRED: Final = Text(
    "The input file was deleted, or its time was over, before all its lines were read.",
    "输入文件在全部行读取完成之前已被删除或过期。",
)
RESPONSE_DELETED: Final = Text("The response was deleted.", "该响应已被删除。")
TOO_MANY_LINES: Final = Text(
    "The input file has more than {max_lines} lines; split it.", "输入文件超过 {max_lines} 行；请拆分。"
)
ENDPOINT: Final = Text(
    "'url' must be the endpoint of the batch, '{endpoint}'", "'url' 必须与批次的端点一致：'{endpoint}'"
)
