"""What the modules of router/middleware/ say to callers: refusals and notes, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

AUDIT_UNAVAILABLE: Final = Text(
    "The audit log cannot be written, and this service answers nothing that is not written there; try again later.",
    "审计日志暂时无法写入，而本服务不会处理未记录的请求；请稍后再试。",
)
SHUTTING_DOWN: Final = Text(
    "This server is being stopped, and the answer was not ready in time: send the request again.",
    "该服务器正在停止，未能及时给出回答：请重新发送请求。",
)
UNKNOWN_ENCODING: Final = Text(
    "The content encoding '{encoding}' is not supported: send the body plain, or in one of {accepted}.",
    "不支持内容编码 '{encoding}'：请直接发送请求体，或使用 {accepted} 之一。",
)
NOT_ENCODED: Final = Text(
    "The body is not valid {encoding}, as its Content-Encoding says: {why}.",
    "请求体不是有效的 {encoding} 数据，与其 Content-Encoding 不符：{why}。",
)
PACKED_TOO_LARGE: Final = Text(
    "The packed request body is larger than {max_bytes} bytes.", "压缩后的请求体超过 {max_bytes} 字节的上限。"
)
ORIGIN_REFUSED: Final = Text(
    "Requests from {origin!r} are not accepted: set GLOWL_CORS_ORIGINS to the origins of web pages that may "
    "use this service, or GLOWL_API_KEYS.",
    "不接受来自 {origin!r} 的请求：请用 GLOWL_CORS_ORIGINS 列出可以使用本服务的网页来源，或设置 GLOWL_API_KEYS。",
)
HOST_REFUSED: Final = Text(
    "The host {host!r} is not a name of this service: use 127.0.0.1 or localhost, or set GLOWL_ALLOWED_HOSTS "
    "to the names it has, or GLOWL_API_KEYS.",
    "主机名 {host!r} 不是本服务的名称：请使用 127.0.0.1 或 localhost，或用 GLOWL_ALLOWED_HOSTS "
    "列出本服务的名称，或设置 GLOWL_API_KEYS。",
)
TOO_MANY_SOCKETS: Final = Text(
    "Too many WebSockets are open: at most {of_owner} of one owner and {of_all} in all; close one, or ask over HTTP.",
    "打开的 WebSocket 过多：每个所有者最多 {of_owner} 个，总共最多 {of_all} 个；请关闭一个，或改用 HTTP。",
)
SOCKET_TOO_OLD: Final = Text(
    "This WebSocket has been open for an hour, which is the longest time; open a new one, and send the conversation.",
    "该 WebSocket 已打开一小时，达到上限；请重新连接，并发送整个对话。",
)
TOO_MANY_TURNS: Final = Text(
    "At most {most} requests may wait on one WebSocket, of {size} MB together; this one was dropped: send it after the "
    "others have ended.",
    "一个 WebSocket 上最多可有 {most} 个请求等待，合计 {size} MB；该请求已被丢弃：请在其他请求结束后再发送。",
)
NOT_AN_EVENT: Final = Text(
    "This is no event that is known here: send a JSON object with the type 'response.create' and the fields of "
    "POST /v1/responses.",
    "无法识别的事件：请发送 type 为 'response.create' 的 JSON 对象，其余字段与 POST /v1/responses 相同。",
)
NOT_OVER_SOCKETS: Final = Text(
    "'{param}' cannot be sent over a WebSocket: leave it out, or ask over HTTP.",
    "'{param}' 不能通过 WebSocket 发送：请去掉它，或改用 HTTP。",
)
