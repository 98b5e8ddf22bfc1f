"""What the modules of router/api/ say to callers: refusals and notes, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

EMPTY_CONVERSATION: Final = Text("The conversation is empty; send a message.", "对话为空；请发送消息。")
EMPTY_MESSAGE: Final = Text(
    "The last message is empty; send a question, a picture, or both.", "最后一条消息为空；请发送问题、图片或两者。"
)
NOTHING_TO_READ: Final = Text(
    "There is nothing to read in the last message, only control or invisible characters; send a question, a picture, "
    "or both.",
    "最后一条消息中没有可读的内容，只有控制字符或不可见字符；请发送问题、图片或两者。",
)
NOT_CAPTURED: Final = Text(
    "The answer '{response_id}' is not kept for data sets, so it takes no feedback. To keep those that follow, the "
    "operator runs: glowl owners set NAME --capture pictures (without keys: GLOWL_CAPTURE=local=pictures). Answers to "
    "requests with store: false are never kept.",
    "回答 '{response_id}' 没有为数据集保存，因此不接受反馈。要保存此后的回答，请运维人员运行：glowl owners set NAME "
    "--capture pictures（不用密钥时：GLOWL_CAPTURE=local=pictures）。store: false 的请求从不保存。",
)
NOT_ENDED: Final = Text(
    "The answer '{response_id}' is still being made; send feedback when it has ended.",
    "回答 '{response_id}' 仍在生成；请在它结束后再发送反馈。",
)
NO_FEEDBACK: Final = Text("Nothing was said of '{response_id}' yet.", "'{response_id}' 还没有反馈。")
NO_REVIEW_AFTER: Final = Text(
    "No answer '{after}' is kept; send the 'last_id' of the page before as 'after'.",
    "没有保存回答 '{after}'；'after' 应为上一页的 'last_id'。",
)
NO_KEPT_PICTURE: Final = Text(
    "No picture with SHA-256 '{sha256}' is kept here.", "此处没有保存 SHA-256 为 '{sha256}' 的图片。"
)
LOOP_UNAVAILABLE: Final = Text(
    "What is kept for data sets cannot be read or written now; the api's log says why.",
    "为数据集保存的内容暂时无法读写；原因见 api 的日志。",
)
EMPTY_FEEDBACK: Final = Text(
    "Send a 'rating' (up or down), a 'correction', 'fields' or a 'comment'.",
    "请发送 'rating'（up 或 down）、'correction'、'fields' 或 'comment'。",
)
FEEDBACK_TOO_LONG: Final = Text("'{param}' may have at most {limit} characters.", "'{param}' 最多 {limit} 个字符。")
SERVER_FAILED: Final = Text("Something went wrong in the server; the log says more.", "服务器内部出错，详情见日志。")
INVALID_JSON: Final = Text("The request body is not valid JSON: {why}.", "请求体不是有效的 JSON（{why}）。")
HALF_PAIR: Final = Text(
    "half of a surrogate pair was sent, such as \\ud83d without \\ude00, which is no character; {why}",
    "含有半个代理对（如只有 \\ud83d 而没有 \\ude00），不构成字符；{why}",
)
BODY_TOO_LARGE: Final = Text("The request body is larger than {limit} bytes.", "请求体超过 {limit} 字节的上限。")
NO_SCHEMA_OF_OWL2: Final = Text(
    "mplug-owl2 cannot hold its answers to a JSON Schema: leave '{param}' out, or send model '{auto_model}' "
    "or 'glm-4.6v-flash'.",
    "mplug-owl2 不能按 JSON Schema 回答：请去掉 '{param}'，或使用模型 '{auto_model}'、'glm-4.6v-flash'。",
)
NO_SCHEMA_FOR_MERGE: Final = Text(
    "With '{param}' the final answer is not mplug-owl2's, which cannot hold it to a JSON Schema: leave "
    "'hybrid.merge' out or send 'compose' or 'fields'.",
    "使用 '{param}' 时最终回答不能由 mplug-owl2 给出（它不能按 JSON Schema 回答）：请去掉 'hybrid.merge' "
    "或改为 'compose'、'fields'。",
)
IDEMPOTENCY_KEY_LENGTH: Final = Text(
    "An Idempotency-Key has 1 to {max_key} characters.", "Idempotency-Key 的长度应为 1 到 {max_key} 个字符。"
)
FIELDS_NEED_FORMAT: Final = Text(
    "Only JSON answers have fields: send '{param}' or 'hybrid.template' with hybrid.merge 'fields'.",
    "只有 JSON 回答才有字段：使用 hybrid.merge 'fields' 时，请同时发送 '{param}' 或 'hybrid.template'。",
)
UNKNOWN_PRESET: Final = Text(
    "No preset is named '{name}'; there are: {known}.", "没有名为 '{name}' 的预设；可用：{known}。"
)
UNKNOWN_MODEL: Final = Text(
    "The model '{name}' does not exist here; use '{auto_model}', 'glm-4.6v-flash' or 'mplug-owl2'.",
    "模型 '{name}' 不存在；可用 '{auto_model}'、'glm-4.6v-flash' 或 'mplug-owl2'。",
)
TOO_MANY_READERS: Final = Text(
    "Too many readers: at most {max_of_job} may read one stream at a time, and one key at most "
    "{max_of_owner} streams; poll the response instead, or try again later.",
    "读取者过多：同一个流最多 {max_of_job} 个读取者，同一密钥最多同时读取 {max_of_owner} 个流；"
    "请改为轮询该响应，或稍后重试。",
)
NO_BATCH: Final = Text("No batch with id '{batch_id}'.", "没有 id 为 '{batch_id}' 的批次。")
WRONG_PURPOSE: Final = Text(
    "The file '{id}' has the purpose '{purpose}'; upload the input with 'batch'.",
    "文件 '{id}' 的用途为 '{purpose}'；请以用途 'batch' 上传输入文件。",
)
TOO_MANY_BATCHES: Final = Text(
    "There are {max_open} batches under way already; wait for one of them, or cancel one.",
    "已有 {max_open} 个批次正在进行；请等待其中一个完成，或取消一个。",
)
BATCH_STREAM: Final = Text(
    "A line of a batch cannot be streamed; leave 'stream' out.", "批次中的请求不支持流式输出；请去掉 'stream'。"
)
NO_ANSWER_YET: Final = Text(
    "No answer within {waited_s:.0f} s. The job goes on; its answer will be at /v1/responses/{id}.",
    "{waited_s:.0f} 秒内没有得到回答。任务仍在进行，完成后可通过 /v1/responses/{id} 读取。",
)
REDIS_SILENT: Final = Text(
    "After {waited_s:.0f} s redis does not answer, so the answer cannot be read now. The job goes on; its answer will "
    "be at /v1/responses/{id} once redis answers.",
    "等待 {waited_s:.0f} 秒后 redis 没有响应，暂时无法读取回答。任务仍在进行，"
    "redis 恢复后可通过 /v1/responses/{id} 读取。",
)
CANCELLED: Final = Text("The response {id} was cancelled.", "响应 {id} 已被取消。")
NO_FILE: Final = Text("No file with id '{file_id}'.", "没有 id 为 '{file_id}' 的文件。")
UNKNOWN_PURPOSE: Final = Text(
    "The purpose '{purpose}' is not supported; send 'batch' for a file of requests, 'vision' for a picture.",
    "不支持用途 '{purpose}'；请求文件请使用 'batch'，图片请使用 'vision'。",
)
NO_PICTURE_FILE: Final = Text(
    "The file '{id}' has the purpose '{purpose}'; upload the picture with 'vision'.",
    "文件 '{id}' 的用途为 '{purpose}'；请以用途 'vision' 上传图片。",
)
INVALID_EXPIRY: Final = Text(
    "'expires_after' needs the anchor 'created_at' and from {min_ttl_s} to {max_ttl_s} seconds.",
    "'expires_after' 的 anchor 必须为 'created_at'，seconds 应在 {min_ttl_s} 到 {max_ttl_s} 之间。",
)
NO_RESPONSE_AFTER: Final = Text(
    "There is no response '{after}' in the list; send the 'last_id' of the page before as 'after'.",
    "列表中没有响应 '{after}'；'after' 应为上一页的 'last_id'。",
)
NO_JOB_AFTER: Final = Text(
    "There is no job '{after}' in the list; send the 'last_id' of the page before as 'after'.",
    "列表中没有任务 '{after}'；'after' 应为上一页的 'last_id'。",
)
JOB_PICTURES_GONE: Final = Text(
    "The pictures of '{job_id}' are no longer stored; send the request again.",
    "'{job_id}' 的图片已过期；请重新发送请求。",
)
NOT_FAILED: Final = Text(
    "Only a failed job can be begun again; '{job_id}' is {state}.",
    "只有失败的任务可以重试；'{job_id}' 的状态是 {state}。",
)
NOTHING_TO_CONTINUE: Final = Text(
    "The response '{response_id}' has no answer to continue from (it is {state}).",
    "响应 '{response_id}' 还没有可以继续的答案（状态：{state}）。",
)
NO_ITEM_AFTER: Final = Text(
    "There is no input item '{after}'; send an id of this list as 'after'.",
    "没有 id 为 '{after}' 的输入项；'after' 应为此列表中的 id。",
)
NO_PREVIOUS_RESPONSE: Final = Text(
    "Previous response with id '{response_id}' not found; send the whole conversation as 'input' instead.",
    "没有 id 为 '{response_id}' 的响应；请改为在 'input' 中发送整个对话。",
)
RESPONSE_PICTURES_GONE: Final = Text(
    "The pictures of the response '{response_id}' are no longer stored; send the conversation again.",
    "响应 '{response_id}' 的图片已过期；请重新发送整个对话。",
)
NO_ITEM: Final = Text(
    "Item with id '{id}' not found: it belongs to no stored response; send its text instead.",
    "没有 id 为 '{id}' 的项：它不属于任何已保存的响应；请改为发送其文本。",
)
NO_ENDPOINT: Final = Text(
    "No webhook endpoint with id '{endpoint_id}'.", "没有 id 为 '{endpoint_id}' 的 webhook 端点。"
)
NO_DELIVERY: Final = Text(
    "No webhook delivery with id '{delivery_id}' here.", "这里没有 id 为 '{delivery_id}' 的投递。"
)
TOO_MANY_ENDPOINTS: Final = Text(
    "There are {max_endpoints} webhook endpoints already; delete one first.",
    "已有 {max_endpoints} 个 webhook 端点；请先删除一个。",
)
ENDPOINT_DISABLED: Final = Text(
    "The endpoint of this delivery is disabled or deleted; enable it first.", "该投递的端点已停用或已删除；请先启用。"
)
SECRET_IS_SET: Final = Text(
    "This secret is set by GLOWL_WEBHOOK_SECRET; put the new one before it there, separated by a comma.",
    "该密钥由 GLOWL_WEBHOOK_SECRET 设定；请在其中将新密钥写在旧密钥之前，以逗号分隔。",
)
MISSING_PARAMETER: Final = Text("Missing required parameter: '{param}'.", "缺少必需的参数 '{param}'。")
UNKNOWN_TEMPLATE: Final = Text(
    "There is no template '{template}'; there are {known}, see /v1/templates.",
    "没有名为 '{template}' 的模板；可用：{known}，详见 /v1/templates。",
)
METADATA_NOT_TEXT: Final = Text(
    "Invalid 'metadata.{key}': Input should be a valid string.", "参数 'metadata.{key}' 无效：值必须是字符串。"
)
UNKNOWN_OPTION: Final = Text(
    "Unknown parameter: '{param}'. Accepted here: {accepted}.",
    "未知参数：'{param}'。此处可用的有 {accepted}。",
)
ANSWER_CHANGED: Final = Text(
    "The answer changed while it was written; read it as /v1/responses/{job_id}.",
    "回答在生成过程中发生了变化；请通过 /v1/responses/{job_id} 读取。",
)
CONVERSATION_ROLES: Final = Text(
    "only system, developer, user, assistant and tool turns are accepted, and calls as 'tool_calls'",
    "只接受 system、developer、user、assistant、tool 消息，调用请写为 'tool_calls'",
)
ONLY_ITS_TURN: Final = Text(
    "calls are part of an assistant's turn, and 'tool_call_id' of a tool's",
    "调用属于 assistant 消息，'tool_call_id' 属于 tool 消息",
)
SEND_IMAGE_URL: Final = Text(
    "send the picture as image_url (a data URL or an http(s) URL) or as file_id (a file uploaded for vision)",
    "请以 image_url（data URL 或 http(s) 地址）或 file_id（以用途 vision 上传的文件）发送图片",
)
FORM_TWICE: Final = Text(
    "The form has the field '{name}' twice; send it once, and one file a request.",
    "表单中字段 '{name}' 出现了两次；请只发送一次，每个请求只传一个文件。",
)
FORM_FIELDS: Final = Text("The form has too many fields.", "表单字段过多。")
FORM_TYPE: Final = Text("Send the file as multipart/form-data.", "请以 multipart/form-data 形式上传文件。")
FORM_FIELD_LONG: Final = Text("A field of the form is too long.", "表单字段过长。")
FORM_CUT: Final = Text("The form breaks off.", "表单不完整。")
SEND_REASONING_EFFORT: Final = Text("send reasoning_effort", "请使用 reasoning_effort")
OWL2_DOES_NOT_THINK: Final = Text(
    "mplug-owl2 does not think before it answers; leave it out, or send model '{thinker}'",
    "mplug-owl2 没有思考过程；请去掉，或使用模型 '{thinker}'",
)
SEND_ONE_OF: Final = Text("send one of {names}", "{names} 只能使用其中一个")
SEND_SCHEMA: Final = Text("send a JSON Schema: an object, or its text", "请发送 JSON Schema：对象或其文本")
SEND_JSON_SCHEMA: Final = Text("with a schema send 'json_schema'", "提供 schema 时请使用 'json_schema'")
NO_ANSWER: Final = Text("no engine gave an answer", "没有引擎给出回答")
INVALID_BODY: Final = Text("Invalid body: {says}.", "请求体无效：{says}。")
INVALID_PARAMETER: Final = Text("Invalid '{param}': {says}.", "参数 '{param}' 无效：{says}。")
# By pydantic's name of what is wrong. Bodies are validated as Python objects; who sent JSON is told of JSON.
SHAPES: Final[dict[str, Text]] = {
    **dict.fromkeys(
        ("model_type", "model_attributes_type", "dict_type"), Text("Input should be an object", "值必须是对象")
    ),
    **dict.fromkeys(
        ("int_type", "int_from_float", "int_parsing"), Text("Input should be a valid integer", "值必须是整数")
    ),
    "list_type": Text("Input should be a valid array", "值必须是数组"),
    "string_type": Text("Input should be a valid string", "值必须是字符串"),
    "float_type": Text("Input should be a valid number", "值必须是数字"),
    "bool_type": Text("Input should be a valid boolean", "值必须是布尔值（true 或 false）"),
    "literal_error": Text("Input should be {expected}", "值必须是 {expected}"),
    "greater_than_equal": Text("Input should be greater than or equal to {ge}", "值不得小于 {ge}"),
    "less_than_equal": Text("Input should be less than or equal to {le}", "值不得大于 {le}"),
    "string_too_short": Text(
        "String should have at least {min_length} characters", "字符串不得少于 {min_length} 个字符"
    ),
    "string_too_long": Text("String should have at most {max_length} characters", "字符串不得超过 {max_length} 个字符"),
    "too_short": Text("Array should have at least {min_length} items", "数组不得少于 {min_length} 项"),
    "too_long": Text("Array should have at most {max_length} items", "数组不得超过 {max_length} 项"),
    "string_pattern_mismatch": Text("String should match {pattern}", "字符串必须符合 {pattern}"),
    "unknown_event": Text("no such event is sent; choose from {accepted}", "没有这种事件；可用的有：{accepted}"),
    "union_tag_invalid": Text("Input should be one of {expected_tags}", "值必须是以下之一：{expected_tags}"),
    "refused_part": Text(
        "a content part of type '{kind}' is not supported; send text and pictures",
        "不支持类型为 '{kind}' 的内容；请发送文本和图片",
    ),
}
UNKNOWN_TYPE: Final = Text(
    "Unsupported value: '{param}' is '{kind}'. Accepted are: {accepted}.",
    "不支持的取值：'{param}' 为 '{kind}'。可用的有：{accepted}。",
)
# Of a field that may be several things.
KINDS: Final[dict[str, Text]] = {
    "string_type": Text("a string", "字符串"),
    "list_type": Text("an array", "数组"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), Text("an object", "对象")),
    "int_type": Text("an integer", "整数"),
    "float_type": Text("a number", "数字"),
    "bool_type": Text("a boolean", "布尔值（true 或 false）"),
}
ONE_OF_KINDS: Final = Text("Input should be {kinds}", "值必须是{kinds}")
OR_KIND: Final = Text(" or ", "或")
NO_PATH: Final = Text("There is no {path} here; see /docs.", "没有 {path} 这个地址；请查看 /docs。")
NO_METHOD: Final = Text("{method} is not allowed on {path}; see /docs.", "{path} 不支持 {method} 方法；请查看 /docs。")
TOO_LARGE: Final = Text("The request body is too large.", "请求体过大。")
WRONG_ENCODING: Final = Text(
    "The request body is {what}; JSON is sent in UTF-8.", "请求体的编码{what}；JSON 须使用 UTF-8 编码。"
)
NOT_UTF8: Final = Text("not valid UTF-8", "不是有效的 UTF-8")
ENCODED_AS: Final = Text("{encoding}", "为 {encoding}")
INVALID_WEBHOOK_URL: Final = Text(
    "'{param}' must be an http(s) URL{where}, without a user name or password inside, such as "
    "https://example.com/hooks.{hint}",
    "'{param}' 必须是{where} http(s) 地址，且不含用户名或密码，例如 https://example.com/hooks。{hint}",
)
PUBLIC: Final = Text(" to a public host", "公网")
PRIVATE_HINT: Final = Text(
    " GLOWL_ALLOW_PRIVATE_URLS=true lets in addresses of your own network.",
    "如需使用内网地址，请设置 GLOWL_ALLOW_PRIVATE_URLS=true。",
)
UNKNOWN_ADAPTER: Final = Text("{says}", "模型 '{name}' 不存在；{known}。")
ADAPTERS: Final = Text("adapters are: {adapters}", "可用的适配器：{adapters}")
NO_ADAPTERS: Final = Text("there are no adapters", "没有可用的适配器")
TEST_FAILED: Final = Text("The test event did not reach the endpoint: {why}", "测试事件未能送达：{why}")
URL_NOT_POSTED_TO: Final = Text("the URL leads to an address that is not posted to", "该 URL 指向不允许投递的地址")
UNSUPPORTED_VALUE: Final = Text(
    "Unsupported value for '{param}': {advice}.", "不支持参数 '{param}' 的这个取值：{advice}。"
)
JSON_SCHEMA_ONLY: Final = Text(
    "answers can be held to a JSON Schema only; send response_format of type 'json_schema', for a choice with an enum",
    "回答只能按 JSON Schema 约束；请使用 response_format 的 'json_schema'，限定选项请用 enum",
)
SEND_TOOLS: Final = Text("send them as 'tools' of type 'function'", "请改用 type 为 'function' 的 'tools'")
FUNCTIONS_ONLY: Final = Text(
    "tools of type 'function' are accepted, which you run yourself; there is no tool '{kind}' here",
    "只接受 type 为 'function' 的工具，由调用方自己执行；这里没有 '{kind}' 工具",
)
TOO_MANY_TOOLS: Final = Text("at most {most} functions are accepted", "最多接受 {most} 个函数")
ONE_OF_EACH_NAME: Final = Text("every function needs a name of its own", "每个函数的名称必须不同")
TOOL_CHOICES: Final = Text(
    "send none, auto, required, one of the functions of 'tools', or allowed_tools with some of them",
    "请设为 none、auto、required、'tools' 中的一个函数，或列出其中若干函数的 allowed_tools",
)
ALLOWED_TOOLS: Final = Text(
    "allowed_tools needs mode auto or required, and in 'tools' the functions that may be called",
    "allowed_tools 需要 mode（auto 或 required），并在 'tools' 中列出可以调用的函数",
)
NOT_AMONG_TOOLS: Final = Text("'{name}' is not among 'tools'", "'{name}' 不在 'tools' 中")
CHOICE_NEEDS_TOOLS: Final = Text("send the functions that may be called as 'tools'", "请用 'tools' 给出可以调用的函数")
TOOLS_OR_FORMAT: Final = Text(
    "an answer that may call functions is in no format; leave it out, or send tool_choice 'none'",
    "可以调用函数的回答不能同时指定格式；请去掉格式，或将 tool_choice 设为 'none'",
)
NO_OBJECT_SCHEMA: Final = Text(
    '\'{param}\' must be the JSON Schema of an object: {{"type": "object", "properties": ...}}.',
    '\'{param}\' 必须是对象的 JSON Schema：{{"type": "object", "properties": ...}}。',
)
NO_ARGUMENTS: Final = Text(
    "'{param}' must be the arguments of a call: the JSON text of an object.",
    "'{param}' 必须是调用的参数：一个对象的 JSON 文本。",
)
NO_CALL: Final = Text(
    "There is a result for the call '{id}', but before it no such call that is still without one.",
    "有调用 '{id}' 的结果，但之前没有这个尚无结果的调用。",
)
NO_RESULT: Final = Text(
    "The call '{id}' has no result: send one for every call of an answer, right behind it.",
    "调用 '{id}' 没有结果：回答中的每个调用之后都要紧跟它的结果。",
)
CALL_IDS: Final = Text(
    "Every call of an answer needs an id of its own; '{id}' is empty or comes twice.",
    "回答中的每个调用都要有自己的 id；'{id}' 为空或重复。",
)
OWL2_CALLS_NOTHING: Final = Text(
    "mplug-owl2 neither calls functions nor reads their results; ask '{auto_model}' or '{caller}', or send none",
    "mplug-owl2 不会调用函数，也不读取函数结果；请将 model 设为 '{auto_model}' 或 '{caller}'，或不带函数",
)
ONE_CHOICE: Final = Text("only one choice per request is generated; send n=1", "每个请求只生成一个回答；请设 n=1")
SEND_LOGPROBS: Final = Text("send logprobs=true with it", "请同时设 logprobs=true")
FOUR_STOPS: Final = Text("at most 4 stop strings are accepted", "最多接受 4 个停止字符串")
STOP_CUTS_JSON: Final = Text(
    "a stop string could cut the JSON in half; leave it out, or response_format",
    "停止字符串可能截断 JSON；请去掉它，或去掉 response_format",
)
NO_CONVERSATIONS: Final = Text(
    "send previous_response_id or the whole conversation as input",
    "请使用 previous_response_id，或在 input 中发送整个对话",
)
BACKGROUND_IS_STORED: Final = Text(
    "a background response must be stored; leave store out", "后台响应必须保存；请去掉 store"
)
TEMPLATE_IS_FORMAT: Final = Text(
    "a template is a format by itself; send it or {param}, not both",
    "模板本身就是一种格式；请只发送模板或 {param} 之一",
)
METADATA_PAIRS: Final = Text("at most {most} pairs are accepted", "最多接受 {most} 个键值对")
METADATA_LENGTHS: Final = Text(
    "keys hold at most 64 characters, values at most 512", "键最多 64 个字符，值最多 512 个字符"
)
SEND_SYSTEM_MESSAGE: Final = Text(
    "send it as a message of role 'system' or 'user'", "请作为 role 为 'system' 或 'user' 的消息发送"
)
SEND_STOP: Final = Text("send stop strings as 'stop'", "请用 'stop' 发送停止字符串")
SEND_MAX_TOKENS_OF_EITHER: Final = Text(
    "send max_completion_tokens, or max_output_tokens in a response",
    "请使用 max_completion_tokens，在 responses 中使用 max_output_tokens",
)
NAME_ADAPTER: Final = Text("name an adapter behind a colon of 'model'", "请在 'model' 的冒号后指定适配器")
SEND_OPTIONS_APART: Final = Text("send each option as a field of its own", "请把各选项作为单独的字段发送")
NO_WEB_SEARCH: Final = Text("there is no web search; leave it out", "不支持联网搜索；请去掉")
OWN_TEMPLATE: Final = Text("the model's own template is used", "只使用模型自带的模板")
NO_TOOL_FIELDS: Final = Text(
    "functions are offered as 'tools'; no other tools are available; leave it out",
    "函数请用 'tools' 给出；没有其他工具；请去掉",
)
LEAVE_IT_OUT: Final = Text("leave it out", "请去掉")
TEXT_MODALITY: Final = Text("answers are text; leave it out or send ['text']", "只支持文本；请去掉或设为 ['text']")
TEXT_ONLY: Final = Text("answers are text; leave it out", "只支持文本；请去掉")
NO_TRUNCATION: Final = Text(
    "a chat is never cut; leave it out or send 'disabled', and shorten the input, or ask at /v1/responses",
    "chat 对话不会被自动截断；请去掉或设为 'disabled' 并自行缩短输入，或改用 /v1/responses",
)
TRUNCATED: Final = Text(
    "the {num} oldest turns were left out, since the conversation is longer than the model's context ('truncation': "
    "'auto')",
    "对话超出模型的上下文长度，已略去最早的 {num} 轮（'truncation': 'auto'）",
)
NO_VERBOSITY: Final = Text(
    "leave it out or send 'medium', and say in the question how long the answer is to be",
    "请去掉或设为 'medium'，并在问题中说明需要的篇幅",
)
NO_STORED_PROMPTS: Final = Text(
    "stored prompts are not available; send messages or input", "不支持已存储的 prompt；请发送 messages 或 input"
)
SAMPLE_BY_TEMPERATURE: Final = Text(
    "leave it out, and send a temperature above 0 to sample", "请去掉；需要采样时请将 temperature 设为大于 0"
)
SEND_TOP_P: Final = Text("send top_p", "请使用 top_p")
CHOOSE_BY_TOP_P: Final = Text(
    "leave it out, and send top_p to choose among fewer tokens", "请去掉；需要缩小候选范围时请使用 top_p"
)
SEND_LOGPROBS_OF_ANSWER: Final = Text(
    "send logprobs for the tokens of the answer", "请用 logprobs 获取回答中各 token 的概率"
)
SHORTEN_MESSAGES: Final = Text("shorten the messages yourself", "请自行缩短消息")
OWN_CONTEXT: Final = Text("the context is the model's own; leave it out", "上下文长度由模型决定；请去掉")
SEND_SEED: Final = Text("send seed", "请使用 seed")
SEND_IMAGE_PARTS: Final = Text("send pictures as image_url parts of a message", "请在消息中以 image_url 发送图片")
PICTURE_BESIDE: Final = Text(
    "it is not read here; send the picture as a part of the content, of type '{kind}'",
    "此处不读取；请把图片作为 content 中类型为 '{kind}' 的一项发送",
)
TEXT_BESIDE: Final = Text(
    "it is not read beside a picture; send it as a part of its own",
    "与图片写在同一项中的文字不会被读取；请作为单独的一项发送",
)
SEND_IMAGE: Final = Text(
    "send the picture as 'image': base64, a data URL or an http(s) URL",
    "请把图片写在 'image' 中：base64、data URL 或 http(s) 地址",
)
SEND_AS: Final = Text("it is not read under this name; send it as '{name}'", "不识别此名称；请写作 '{name}'")
SEND_TURNS: Final = Text(
    "send the whole conversation as messages, or as input of a response",
    "请在 messages 中发送整个对话，在 responses 中使用 input",
)
SET_UP_WEBHOOK: Final = Text(
    "webhooks are not set per request; leave it out, and set up an endpoint with POST /v1/webhook_endpoints",
    "webhook 不能按请求设置；请去掉，并用 POST /v1/webhook_endpoints 创建端点",
)
ONE_MODEL: Final = Text("one 'model' is asked", "只接受一个 'model'")
SEND_MAX_COMPLETION_TOKENS: Final = Text("send max_completion_tokens", "请使用 max_completion_tokens")
SEND_MESSAGES: Final = Text("send messages", "请使用 messages")
SEND_RESPONSE_FORMAT: Final = Text("send response_format", "请使用 response_format")
SEND_WHOLE_CONVERSATION: Final = Text("send the whole conversation as messages", "请在 messages 中发送整个对话")
SEND_MAX_OUTPUT_TOKENS: Final = Text("send max_output_tokens", "请使用 max_output_tokens")
SEND_INPUT: Final = Text("send input", "请使用 input")
SEND_TEXT_FORMAT: Final = Text("send text.format", "请使用 text.format")
SEND_TOP_LOGPROBS: Final = Text("send top_logprobs", "请使用 top_logprobs")
STOP_IS_OF_CHAT: Final = Text("stop strings are part of chat completions", "停止字符串请用于 chat completions")
OR: Final = Text(" or ", " 或 ")
NOT_AVAILABLE: Final = Text("it is not available; leave it out or send {shown}", "不支持该功能；请去掉，或设为 {shown}")
SCOPE_MISSING: Final = Text(
    "This API key may not be used for this: it lacks the scope '{scope}'.",
    "此 API 密钥不能用于该操作：缺少权限范围 '{scope}'。",
)
NO_METRICS: Final = Text(
    "Metrics are off: they are counted unless GLOWL_METRICS is false.",
    "指标已关闭：除非 GLOWL_METRICS 为 false，否则会进行统计。",
)
# Why a job ended without an answer, by its code: the English comes with the job.
FOREIGN_COMPACTION: Final = Text(
    "'{param}' was not made here: send a compaction item as /v1/responses/compact returned it, or the conversation.",
    "'{param}' 不是由本服务生成的：请原样发送 /v1/responses/compact 返回的 compaction 项，或发送整个对话。",
)
UNKNOWN_INCLUDE: Final = Text(
    "'include' has no value '{value}'; there are: {known}.", "'include' 没有取值 '{value}'；可用的有：{known}。"
)
