"""What the modules of router/ say to callers: refusals and notes, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

NO_KEY: Final = Text(
    "No API key was sent; send it as 'Authorization: Bearer KEY', 'api-key: KEY' or 'x-api-key: KEY'.",
    "没有提供 API 密钥；请用 'Authorization: Bearer KEY'、'api-key: KEY' 或 'x-api-key: KEY' 发送。",
)
KEYS_DIFFER: Final = Text(
    "The request has API keys that differ, so its caller cannot be told; send one, or the same in "
    "'Authorization: Bearer KEY', 'api-key: KEY' and 'x-api-key: KEY'.",
    "请求中的多个 API 密钥不一致，无法确定调用者；请只发送一个，或在 'Authorization: Bearer KEY'、'api-key: "
    "KEY' 与 'x-api-key: KEY' 中使用相同的密钥。",
)
UNKNOWN_KEY: Final = Text("This API key is not known here.", "API 密钥无效。")
EXPIRED_KEY: Final = Text("This API key has expired.", "此 API 密钥已过期。")
MISTYPED_KEY: Final = Text(
    "This API key is not whole: its last characters do not fit the others. Copy all of it.",
    "此 API 密钥不完整：末尾的校验字符与其余部分不符。请完整复制密钥。",
)
KEY_UNSURE: Final = Text(
    "Redis does not answer, so it is not known whether this request needs a key, or whether its key is good; "
    "try again shortly.",
    "redis 没有响应，无法确认该请求是否需要密钥或其密钥是否有效；请稍后再试。",
)
TOKEN_TOO_LONG: Final = Text(
    "The token has more than {limit} characters, the most that is accepted.", "令牌超过 {limit} 个字符的上限。"
)
TOKEN_FORM: Final = Text(
    "The token is not a signed JSON Web Token (JWS, compact form); encrypted and unsigned ones are not accepted.",
    "令牌不是有效的已签名 JSON Web Token（JWS 紧凑格式）；不接受加密或未签名的令牌。",
)
TOKEN_CRITICAL: Final = Text(
    "The token's header has 'crit' or 'b64', which is not supported here.", "令牌头部含有此处不支持的 'crit' 或 'b64'。"
)
TOKEN_TYPE: Final = Text(
    "The token's 'typ' is not JWT or at+jwt: it was made for something else.",
    "令牌的 'typ' 不是 JWT 或 at+jwt，并非用于访问本服务。",
)
TOKEN_ALGORITHM: Final = Text(
    "The token's algorithm is not accepted: no key of this service uses it.",
    "不接受该令牌的签名算法：本服务没有对应的密钥。",
)
TOKEN_NO_KID: Final = Text(
    "The token names no key ('kid'), and its issuer has several; get one that does.",
    "令牌未指明密钥（'kid'），而签发者有多个密钥；请使用带 'kid' 的令牌。",
)
TOKEN_UNKNOWN_KID: Final = Text(
    "The token names a key ('kid') that its issuer does not publish; get a new token.",
    "令牌指明的密钥（'kid'）不在签发者公布的密钥中；请获取新的令牌。",
)
TOKEN_SIGNATURE: Final = Text("The token's signature or content is not valid.", "令牌的签名或内容无效。")
TOKEN_EXPIRED: Final = Text("The token has expired; get a new one.", "令牌已过期；请获取新的令牌。")
TOKEN_EARLY: Final = Text(
    "The token is not valid yet ('nbf' or 'iat'); check the clock of the machine that made it.",
    "令牌尚未生效（'nbf' 或 'iat'）；请检查签发机器的时钟。",
)
TOKEN_ISSUER: Final = Text(
    "The token's issuer ('iss') is not the one that this service accepts.", "令牌的签发者（'iss'）不被本服务接受。"
)
TOKEN_AUDIENCE: Final = Text(
    "The token was made for another service: its audience ('aud') is not this one.",
    "令牌用于其他服务：其受众（'aud'）不是本服务。",
)
TOKEN_CLAIM: Final = Text(
    "The token's claim '{claim}' is missing or has a wrong value.", "令牌的声明 '{claim}' 缺失或取值有误。"
)
TOKEN_OWNER: Final = Text(
    "The token does not say who it is for: its claim '{claim}' is missing or is no text.",
    "令牌未说明其所有者：声明 '{claim}' 缺失或不是文本。",
)
TOKEN_KEYS_AWAY: Final = Text(
    "The public keys of the token's issuer cannot be read now, so the token cannot be checked; try again shortly.",
    "暂时无法读取令牌签发者的公钥，因此无法验证令牌；请稍后再试。",
)
TOO_MANY_CHARACTERS: Final = Text(
    "The conversation has {num_chars} characters; at most {limit} are accepted.",
    "对话共有 {num_chars} 个字符，最多 {limit} 个。",
)
TOO_MANY_FOR_MODEL: Final = Text(
    '{num_images} pictures were sent; {model_id} accepts at most {max_images} at a time. With model "glowl" '
    'and hybrid {{"route": "deep"}}, more are looked at in groups.',
    '发送了 {num_images} 张图片；{model_id} 一次最多接受 {max_images} 张。model 为 "glowl" 且 hybrid 为 '
    '{{"route": "deep"}} 时，更多的图片会分组分析。',
)
TOO_MANY_IN_CONVERSATION: Final = Text(
    "The conversation has {num_images} pictures; at most {max_images} are accepted.",
    "对话共有 {num_images} 张图片，最多支持 {max_images} 张。",
)
NO_ENGINE_FOR_SCHEMA: Final = Text(
    "Only GLM-4.6V-Flash can hold an answer to a JSON Schema, and it is not available; try again later.",
    "只有 GLM-4.6V-Flash 能按 JSON Schema 回答，目前不可用，请稍后再试。",
)
KEY_REUSED: Final = Text(
    "This Idempotency-Key was sent before with another body; send a new key with a new request.",
    "该 Idempotency-Key 已用于另一个请求体；新的请求请使用新的键。",
)
STILL_RUNNING: Final = Text(
    "The request with this Idempotency-Key is still being worked on; send it again shortly.",
    "使用该 Idempotency-Key 的请求仍在处理中，请稍后重试。",
)
KEYED_RESPONSE_DELETED: Final = Text(
    "The response '{response_id}' of this Idempotency-Key was deleted.",
    "该 Idempotency-Key 对应的响应 '{response_id}' 已被删除。",
)
TOO_MUCH_OF_ALL: Final = Text(
    "Too much is being sent to the service at a time; try again later.", "同时发送给服务的数据过多；请稍后重试。"
)
TOO_MANY_REQUESTS: Final = Text(
    "Too many requests at a time: at most {max_requests_of_one} may be open; try again later.",
    "同时进行的请求过多：最多 {max_requests_of_one} 个；请稍后重试。",
)
TOO_MANY_REQUESTS_OF_ALL: Final = Text(
    "The service has {max_requests} requests open already; try again later.",
    "服务同时进行的请求已达 {max_requests} 个；请稍后重试。",
)
TOO_MUCH_AT_A_TIME: Final = Text(
    "Too much is being sent at a time: request bodies may have {limit} bytes together; try again later.",
    "同时发送的数据过多：请求体合计最多 {limit} 字节；请稍后重试。",
)
BODY_TIMEOUT: Final = Text(
    "The request body did not arrive in time: at least {num_kb} KB a second, and no pause of more than "
    "{body_timeout_s:g} s.",
    "请求体未按时到达：每秒至少 {num_kb} KB，停顿不超过 {body_timeout_s:g} 秒。",
)
REPEATED_NAME: Final = Text(
    "'{name}' is there twice in one object, and only one of them could count; send it once.",
    "同一个对象中出现了两个 '{name}'，只能有一个生效；请只发送一个。",
)
TOO_MANY_PARTS: Final = Text(
    "The request has too many parts: at most {max_items} objects and lists and {max_commas} values are accepted.",
    "请求的内容项过多：最多 {max_items} 个对象和数组、{max_commas} 个值。",
)
PICTURE_TOO_LARGE: Final = Text(
    "The picture is larger than {limit} bytes, the most that is accepted.", "图片超过 {limit} 字节的上限。"
)
TOO_MANY_PICTURES: Final = Text(
    "The request has {num_images} pictures; at most {limit} are accepted.",
    "请求包含 {num_images} 张图片，最多支持 {limit} 张。",
)
DATA_URL: Final = Text(
    "The data URL is not of the form data:image/png;base64,...", "data URL 的格式应为 data:image/png;base64,...。"
)
EMPTY_PICTURE: Final = Text(
    "The picture is empty. Send a data URL (data:image/png;base64,...), an http(s) URL or base64.",
    "图片为空。请发送 data URL（data:image/png;base64,...）、http(s) 地址或 base64。",
)
PICTURE_TYPE: Final = Text(
    "{media_type} is not accepted as a picture. PNG, JPEG, WebP, BMP and GIF with a single frame are accepted.",
    "不支持 {media_type}。支持 PNG、JPEG、WebP、BMP 以及单帧 GIF。",
)
PICTURE_TOO_SMALL: Final = Text(
    "The picture is {size} pixels. Send one of at least 1 x 1.", "图片尺寸为 {size} 像素，至少应为 1 x 1。"
)
TOO_MANY_PIXELS: Final = Text(
    "The picture has too many pixels ({size}). At most {max_pixels} in all and {max_side_px} a side are accepted.",
    "图片像素过多（{size}）。总像素上限为 {max_pixels}，单边上限为 {max_side_px}。",
)
TOO_MANY_SCANS: Final = Text(
    "The picture is a JPEG of {num_scans} scans ({size}), too many to decode. Save it again as an ordinary JPEG.",
    "图片是含 {num_scans} 次扫描的 JPEG（{size}），解码开销过大。请另存为普通 JPEG。",
)
LARGE_RLE: Final = Text(
    "The picture is a large run-length encoded BMP ({size}). Save it as a PNG.",
    "图片是较大的行程编码 BMP（{size}），请另存为 PNG。",
)
ANIMATED: Final = Text(
    "The picture is animated. Send a single frame. PNG, JPEG, WebP, BMP and GIF with a single frame are accepted.",
    "不支持动图，请发送单帧图片。支持 PNG、JPEG、WebP、BMP 以及单帧 GIF。",
)
TOO_MANY_PIXELS_OF_ALL: Final = Text(
    "The pictures of the request have more than {max_request_pixels} pixels together. Send fewer or smaller ones.",
    "请求中的图片总像素超过 {max_request_pixels} 的上限，请减少图片数量或缩小图片。",
)
PICTURE_SCHEME: Final = Text(
    "Pictures are not read from {name}: URLs. Send a data URL (data:image/png;base64,...), an http(s) URL or base64.",
    "不支持 {name}: 形式的图片地址。请发送 data URL（data:image/png;base64,...）、http(s) 地址或 base64。",
)
NOT_BASE64: Final = Text(
    "The picture is not valid base64. Send a data URL (data:image/png;base64,...), an http(s) URL or base64.",
    "图片不是有效的 base64。请发送 data URL（data:image/png;base64,...）、http(s) 地址或 base64。",
)
TOO_MANY_CHUNKS: Final = Text(
    "The picture ({media_type}) consists of more than {most} chunks, segments, scans or extensions, too many "
    "to read. Save it again as an ordinary PNG or JPEG.",
    "图片（{media_type}）所含的数据块、段、扫描或扩展超过 {most} 个，读取开销过大。请另存为普通 PNG 或 JPEG。",
)
BROKEN_HEADER: Final = Text(
    "The picture starts like {media_type} but its header is broken or cut off. Send the whole file.",
    "图片看似 {media_type}，但文件头损坏或不完整。请发送完整文件。",
)
REDIS_AWAY: Final = Text(
    "The job queue (redis) does not answer; try again shortly.", "任务队列（redis）暂时没有响应，请稍后再试。"
)
REDIS_LACKS_REPLICAS: Final = Text(
    "The job queue (redis) accepts no writes now: it has fewer replicas than its min-replicas-to-write; "
    "try again shortly.",
    "任务队列（redis）暂不接受写入：副本数少于其 min-replicas-to-write，请稍后再试。",
)
REDIS_ALONE: Final = Text(
    "The store (redis) has written this, but {number} of the {wanted} replicas that GLOWL_REDIS_WAIT asks for "
    "confirmed it, so it is not accepted; try again shortly.",
    "存储（redis）已写入，但 GLOWL_REDIS_WAIT 要求的 {wanted} 个副本中只有 {number} 个确认，因此未被接受，请稍后再试。",
)
REDIS_FULL: Final = Text(
    "The store (redis) is full, so no new jobs and files are accepted; questions that are answered at once "
    "go on. Try again later, or delete jobs and files.",
    "存储（redis）已满，暂不接受新任务和文件；即时回答不受影响。请稍后再试，或删除部分任务和文件。",
)
DISK_FULL: Final = Text(
    "Less than {free_mb} MB are free on the disk of the store (redis), so no new jobs and files are accepted; "
    "questions that are answered at once go on. Make room on that disk; deleted jobs and files free it only later.",
    "存储（redis）所在磁盘的剩余空间不足 {free_mb} MB，暂不接受新任务和文件；即时回答不受影响。请清理该磁盘；"
    "删除任务和文件不会立即释放空间。",
)
URL_FORM: Final = Text(
    "This is not a well-formed URL. Send one such as https://example.com/picture.png.",
    "URL 格式不正确。请使用形如 https://example.com/picture.png 的地址。",
)
URL_PRIVATE: Final = Text(
    "The URL leads to a private, local or reserved address, which is not fetched. Send a public URL, or the "
    "picture itself as a data URL.",
    "该 URL 指向私有、本机或保留地址，不予访问。请使用公网地址，或以 data URL 直接发送图片。",
)
URL_TOO_LARGE: Final = Text(
    "The file behind the URL is larger than {limit} bytes, the most that is accepted.",
    "该 URL 的文件超过 {limit} 字节的上限。",
)
URL_TOO_LONG: Final = Text(
    "The URL is longer than {max_url_chars} characters. Send a shorter one, or the picture as a data URL.",
    "URL 超过 {max_url_chars} 个字符。请使用更短的 URL，或以 data URL 发送图片。",
)
URL_SCHEME: Final = Text(
    "Only http:// and https:// URLs are fetched. Send one of those, or the picture as a data URL.",
    "仅支持 http:// 与 https:// 地址。请改用此类地址，或以 data URL 发送图片。",
)
URL_CREDENTIALS: Final = Text(
    "URLs with a user name or password inside are not fetched. Send a URL without them.",
    "不支持包含用户名或密码的 URL。请去掉后重试。",
)
TOO_MANY_REDIRECTS: Final = Text(
    "The URL redirects more than {max_redirects} times. Send the final URL.",
    "该 URL 重定向超过 {max_redirects} 次。请使用最终地址。",
)
FETCH_STATUS: Final = Text(
    "The server answered with status {status} instead of 200.", "对方服务器返回状态码 {status}，而不是 200。"
)
FETCH_PACKED: Final = Text(
    "The server sent a compressed body although it was asked not to.",
    "对方服务器返回了压缩内容，而请求中已声明不接受压缩。",
)
HOST_UNKNOWN: Final = Text("The URL's host name was not found.", "找不到该 URL 的主机名。")
TOO_MANY_DOWNLOADS: Final = Text(
    "Too many slow downloads from this host, or of this key, are under way. Try again later, or send the file itself.",
    "该主机或该密钥正在进行的慢速下载过多。请稍后重试，或直接发送文件。",
)
FETCH_TIMEOUT: Final = Text(
    "The server did not finish its answer within {timeout_s:g} seconds.", "对方服务器未在 {timeout_s:g} 秒内完成响应。"
)
FETCH_TLS: Final = Text("The server's TLS certificate could not be verified.", "无法验证对方服务器的 TLS 证书。")
FETCH_UNREACHABLE: Final = Text("The server could not be reached.", "无法连接对方服务器。")
FETCH_BROKEN: Final = Text(
    "The server broke off the transfer or did not speak proper HTTP.", "对方服务器中断了传输，或响应不是有效的 HTTP。"
)
HOST_TIMEOUT: Final = Text("The URL's host name could not be looked up in time.", "未能及时解析该 URL 的主机名。")
SERVED_AS: Final = Text(" (served as {served_as})", "（类型标为 {served_as}）")
UNKNOWN_PICTURE: Final = Text(
    "The bytes{label} are not a picture of a known type. PNG, JPEG, WebP, BMP and GIF with a single frame "
    "are accepted.",
    "内容{label}不是可识别的图片。支持 PNG、JPEG、WebP、BMP 以及单帧 GIF。",
)
DOWNLOAD_FAILED: Final = Text("The picture could not be downloaded. {why}", "图片下载失败。{why}")
# What an engine says, by the code of its error: `says` is the engine's own English.
OF_ENGINE: Final = {
    "engine_unavailable": Text("{says}", "推理引擎暂时不可用，请稍后再试。"),
    "engine_overloaded": Text("{says}", "推理引擎正忙，请稍后再试。"),
    "engine_timeout": Text("{says}", "推理引擎响应超时，请稍后再试。"),
    "invalid_json_schema": Text("{says}", "无法按该 JSON Schema 回答：{says}"),
    "image_parse_error": Text("{says}", "图片无法解码：文件不完整、已损坏或不是图片。请发送完整的图片文件。"),
    "image_too_large": Text("{says}", "图片过大，无法解码：{says}"),
    "invalid_image": Text("{says}", "图片不符合要求：{says}"),
    "image_file_not_found": Text("{says}", "图片已不再保存，请重新发送该请求。"),
    "out_of_memory": Text("{says}", "推理引擎内存不足，请稍后再试。"),
    "server_error": Text("{says}", "推理引擎出错：{says}"),
    "internal_error": Text("{says}", "服务内部出错：{says}"),
    "generation_failed": Text("{says}", "推理引擎未能完成回答，请稍后再试。"),
    "context_length_exceeded": Text("{says}", "对话超出模型的上下文长度：{says}"),
    "too_many_images": Text("{says}", "图片数量过多：{says}"),
    "model_not_found": Text("{says}", "没有所请求的模型或适配器：{says}"),
    "invalid_request": Text("{says}", "推理引擎无法接受该请求：{says}"),
    "invalid_value": Text("{says}", "推理引擎无法接受该请求中的某个值：{says}"),
}
OF_ENGINE_OTHER: Final = Text("{says}", "{says}")
PATTERN_NOT_KEPT: Final = Text(
    "the 'pattern' at {place} of the JSON Schema is not kept; its 'format' is",
    "无法保证 JSON Schema 中 {place} 的 'pattern'，只保证其 'format'",
)
TOP: Final = Text("the top", "顶层")

# Notes: what of an answer is not as it was asked for.

NOT_ENDED: Final = Text(
    "the end of the answer could not be stored, because redis does not answer: it may be written again, and then read "
    "differently",
    "redis 没有响应，未能保存回答的结尾：系统可能会重新生成，之后读取的内容可能不同",
)
NOT_STORED: Final = Text(
    "the answer could not be stored, because redis does not answer: it cannot be read again",
    "redis 没有响应，未能保存该回答：之后无法再读取",
)
NO_THINKING: Final = Text(
    "no engine thinks before it answers on this route, though that was asked for",
    "该路径上没有引擎会先思考再回答，尽管请求了思考",
)
NOT_CACHED: Final = Text(
    "No cached answer fits this request, and 'Cache-Control: only-if-cached' wants no other; leave it out to have one "
    "made. Answers of requests that are not stored are cached only with 'hybrid.cache': true.",
    "缓存中没有符合该请求的答案，而 'Cache-Control: only-if-cached' 不接受其他答案；去掉它即可生成新答案。"
    "未存储的请求只有带 'hybrid.cache': true 时才会缓存答案。",
)
# They take the place of the policy's "glm is down", which is not true of a GLM that answers.
GLM_LATE: Final = Text("glm did not answer in time", "glm 未能及时作答")
GLM_FULL: Final = Text("glm is full", "glm 已满负荷")
GLM_UNREADABLE: Final = Text("glm gave no answer that can be read", "glm 没有给出可读的回答")
NO_FIELDS: Final = Text(
    "what is found in groups of pictures has no fields to compare: glm writes the JSON from it",
    "分组分析的结果没有可逐项比较的字段：由 glm 据此写出 JSON",
)
NO_DRAFT: Final = Text(
    "there is no draft: {model} takes at most {most} pictures, and {number} were sent",
    "没有草稿：{model} 最多接受 {most} 张图片，而发送了 {number} 张",
)
