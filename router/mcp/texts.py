"""What agents and models read: what tools do, what came of a call, why a call was refused.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

INSTRUCTIONS: Final = Text(
    "Glowl looks at pictures. A first answer (the draft) is there within seconds; a deeper model may refine it. A "
    "result says whether it is final. If it is not, go on with the draft, or call `refined` with its id later. "
    "Pictures are paths of files, http(s) URLs or data URLs.",
    "Glowl 用于看图。初步回答（草稿）数秒内给出，随后可能由更深入的模型完善。结果会说明是否为最终回答；若不是，"
    "可先使用草稿，稍后用其 id 调用 `refined`。图片可以是文件路径、http(s) 地址或 data URL。",
)

# Tools.
LOOK: Final = Text(
    "Answer a question about one or more pictures. Use it for anything that no other tool names.",
    "回答关于一张或多张图片的问题。其他工具都不适用时使用它。",
)
REFINED: Final = Text(
    "Get the final answer of an earlier call that returned a draft and an id. Waits for it, and returns the draft "
    "again if it is still not there.",
    "获取先前调用（返回了草稿和 id）的最终回答。会等待其完成；若仍未完成，则再次返回草稿。",
)
READ_FIELDS: Final = Text(
    "Read data out of pictures as JSON: by a JSON Schema of your own, or by a template for receipts, price tags or "
    "tables. Send one of both.",
    "从图片中读取数据并以 JSON 返回：使用自定义的 JSON Schema，或用于小票、价签、表格的模板，二者择一。",
)
COMPARE: Final = Text(
    "Compare two or more pictures: what is the same, what differs, which one fits a description.",
    "比较两张或更多图片：哪些相同、哪些不同、哪一张符合描述。",
)
READ_DOCUMENT: Final = Text(
    "Read the text of document pages that are pictures (scans, photos, screenshots), as Markdown in reading order; or "
    "answer a question about them.",
    "读取文档页面图片（扫描件、照片、截图）中的文字，按阅读顺序输出 Markdown；也可回答关于它们的问题。",
)
UI_TO_ARTIFACT: Final = Text(
    "Turn a screenshot of a user interface into code, a prompt, a design specification or a description.",
    "将用户界面截图转换为代码、提示词、设计规范或文字描述。",
)
EXTRACT_TEXT: Final = Text(
    "Read the text in a screenshot: code, terminal output, logs, documents.",
    "读取截图中的文字：代码、终端输出、日志、文档。",
)
DIAGNOSE_ERROR: Final = Text(
    "Explain an error message or a stack trace in a screenshot, and how to mend it.",
    "解释截图中的错误信息或调用栈，并说明如何修复。",
)
UNDERSTAND_DIAGRAM: Final = Text(
    "Explain a technical diagram: architecture, flowchart, UML, entity relations, sequence.",
    "解释技术图：架构图、流程图、UML 图、实体关系图、时序图。",
)
ANALYZE_CHART: Final = Text(
    "Read a chart, graph or dashboard: values, trends, outliers.", "解读图表或仪表盘：数值、趋势、异常值。"
)
UI_DIFF: Final = Text(
    "Compare a screenshot of a user interface with the expected one, and list the differences.",
    "将界面截图与预期截图比较，列出差异。",
)
ANALYZE_IMAGE: Final = Text("Answer a question about one picture.", "回答关于一张图片的问题。")

# Their parameters.
PARAM_PICTURES: Final = Text(
    "The pictures, in order: paths of files, http(s) URLs or data URLs.",
    "图片，按顺序排列：文件路径、http(s) 地址或 data URL。",
)
PARAM_PICTURE: Final = Text(
    "The picture: the path of a file, an http(s) URL or a data URL.", "图片：文件路径、http(s) 地址或 data URL。"
)
PARAM_EXPECTED: Final = Text(
    "The picture of what is expected: a path, an http(s) URL or a data URL.",
    "预期的图片：文件路径、http(s) 地址或 data URL。",
)
PARAM_ACTUAL: Final = Text(
    "The picture of what there is: a path, an http(s) URL or a data URL.",
    "实际的图片：文件路径、http(s) 地址或 data URL。",
)
PARAM_PAGES: Final = Text(
    "The pages, in order, one picture each: paths of files, http(s) URLs or data URLs.",
    "页面，按顺序排列，每页一张图片：文件路径、http(s) 地址或 data URL。",
)
PARAM_QUESTION: Final = Text("What you want to know.", "想知道的内容。")
PARAM_PROMPT: Final = Text("What you want, as exactly as you can say it.", "具体需求，越明确越好。")
PARAM_FOCUS_QUESTION: Final = Text("What to look for; left out: everything.", "需要关注的内容；省略则为全部内容。")
PARAM_ROUTE: Final = Text(
    "`fast`: only the first model, no refinement; `deep`: both models; `auto` chooses.",
    "`fast`：仅用第一个模型，不再完善；`deep`：两个模型都用；`auto`：自动选择。",
)
PARAM_PATIENCE: Final = Text(
    "Seconds to wait for the final answer. After that the draft and an id are returned.",
    "等待最终回答的秒数；超过后返回草稿和 id。",
)
PARAM_WAIT: Final = Text("Seconds to wait for the final answer.", "等待最终回答的秒数。")
PARAM_ID: Final = Text("The id that an earlier call returned, such as resp_...", "先前调用返回的 id，例如 resp_...")
PARAM_SCHEMA: Final = Text("A JSON Schema of an object.", "描述对象的 JSON Schema。")
PARAM_TEMPLATE: Final = Text(
    "The name of a shipped schema, instead of your own.", "内置 schema 的名称，代替自定义 schema。"
)
PARAM_OUTPUT_TYPE: Final = Text(
    "`code`: front-end code; `prompt`: a prompt that would recreate it; `spec`: a design specification; "
    "`description`: words.",
    "`code`：前端代码；`prompt`：可用于重现界面的提示词；`spec`：设计规范；`description`：文字描述。",
)
PARAM_PROGRAMMING: Final = Text(
    "The programming language of the code in it, if you know it.", "其中代码的编程语言（如已知）。"
)
PARAM_CONTEXT: Final = Text("When the error occurred, if you know it.", "错误发生的时机（如已知）。")
PARAM_DIAGRAM: Final = Text("The kind of diagram, if you know it.", "图的类型（如已知）。")
PARAM_CHART_FOCUS: Final = Text(
    "What to look at first, such as trends or outliers.", "重点关注的内容，例如趋势或异常值。"
)

# What the models are told, in the question's language.
TELL_DOCUMENT: Final = Text(
    "The pictures are pages of a document, in order. Keep to what is printed on them. Write text in reading order as "
    "Markdown and tables as Markdown tables.",
    "图片为文档的各页，按顺序排列。以页面上印刷的内容为准。文字按阅读顺序写成 Markdown，表格写成 Markdown 表格。",
)
TELL_TEXT: Final = Text(
    "Write down the text in the picture exactly as it is, with its line breaks and indentation, and add nothing.",
    "逐字写出图片中的文字，保留换行和缩进，不要添加任何内容。",
)
TELL_LANGUAGE: Final = Text(" The code in it is {name}.", "其中的代码为 {name}。")
TELL_ERROR: Final = Text(
    "The picture shows an error. Name the error, its most likely cause, and the steps that mend it.",
    "图片显示一个错误。请指出错误、最可能的原因以及修复步骤。",
)
TELL_CONTEXT: Final = Text(" It occurred like this: {context}", "发生时机：{context}")
TELL_DIAGRAM: Final = Text(
    "The picture is a technical diagram. Name its parts, how they are connected, and what that means.",
    "图片为技术图。请说明其组成部分、相互关系及含义。",
)
TELL_KIND: Final = Text(" Its kind: {kind}.", "类型：{kind}。")
TELL_CHART: Final = Text(
    "The picture is a chart or a dashboard. Read its values off the axes and labels before you judge them.",
    "图片为图表或仪表盘。请先根据坐标轴和标签读出数值，再作判断。",
)
TELL_FOCUS: Final = Text(" Look at this first: {focus}", "重点关注：{focus}")
TELL_DIFF: Final = Text(
    "The first picture is the expected user interface, the second the actual one. List each difference: where, what "
    "was expected, what there is, and how bad it is.",
    "第一张图片为预期界面，第二张为实际界面。请逐条列出差异：位置、预期内容、实际内容及严重程度。",
)
TELL_CODE: Final = Text(
    "Write complete front-end code that shows the user interface in the picture. Answer with the code alone.",
    "编写完整的前端代码以呈现图片中的界面。只输出代码。",
)
TELL_PROMPT: Final = Text(
    "Write a prompt from which another model could build the user interface in the picture.",
    "编写一段提示词，使其他模型可据此构建图片中的界面。",
)
TELL_SPEC: Final = Text(
    "Write the design specification of the user interface in the picture: layout, sizes, colours, type, components and "
    "their states.",
    "编写图片中界面的设计规范：布局、尺寸、颜色、字体、组件及其状态。",
)
TELL_DESCRIPTION: Final = Text(
    "Describe the user interface in the picture: its parts, where they are, and what they are for.",
    "描述图片中的界面：组成部分、位置和用途。",
)
ASK_COMPARE: Final = Text(
    "Compare the pictures: what is the same, and what differs?", "比较这些图片：哪些相同，哪些不同？"
)
ASK_FIELDS: Final = Text("Read the data in the picture.", "读取图片中的数据。")
ASK_DOCUMENT: Final = Text("Write down the text of these pages.", "写出这些页面的文字。")

# What came of a call.
DRAFT: Final = Text("Draft by {model}, not final:", "{model} 的草稿（非最终回答）：")
SO_FAR: Final = Text("The answer so far, not yet whole:", "目前已生成的部分回答：")
NOTHING_YET: Final = Text("There is no answer yet.", "尚无回答。")
MORE_LATER: Final = Text(
    "A refined answer is on its way{eta}. Get it with `refined`, id {id}; or go on with what is here.",
    "完善后的回答正在生成{eta}。可用 `refined` 获取，id 为 {id}；也可先使用以上内容。",
)
ETA: Final = Text(" (about {seconds} s)", "（约 {seconds} 秒）")
NO_ID: Final = Text(
    "The service cannot store answers now, so there is no id to ask for the rest. Ask again with more patience_s.",
    "服务目前无法保存回答，因此没有可用于获取其余内容的 id。请增大 patience_s 后重新提问。",
)
CUT: Final = Text("The answer is cut short: {reason}.", "回答不完整：{reason}。")
DEGRADED: Final = Text("Note: {reason}", "注意：{reason}")
DIFFER: Final = Text(
    "The models differ about: {conflicts}. Check it before you rely on it.",
    "两个模型的回答在以下方面不一致：{conflicts}。使用前请核实。",
)
CONFLICT: Final = Text("{what} (GLM: {first}, Owl2: {second})", "{what}（GLM：{first}，Owl2：{second}）")
PROGRESS_SENT: Final = Text("sent", "已发送")
PROGRESS_QUEUED: Final = Text("queued", "已排队")
PROGRESS_DRAFT: Final = Text("the draft is being written", "正在生成草稿")
PROGRESS_REFINING: Final = Text("the draft is there; it is being refined", "草稿已完成，正在完善")
PROGRESS_ANSWER: Final = Text("the answer is being written", "正在生成回答")
PROGRESS_OF: Final = Text("{id}: {what}", "{id}：{what}")

# Why a call was refused.
UNREACHABLE: Final = Text(
    "No Glowl answers at {url}. Start it there with `glowl up`, or give the address of a running one as --url or "
    "GLOWL_URL.",
    "{url} 没有 Glowl 响应。请在该处用 `glowl up` 启动，或通过 --url 或 GLOWL_URL 指定正在运行的服务。",
)
NO_KEY: Final = Text(
    "{message} Give `glowl mcp` the key as GLOWL_API_KEY in the agent's configuration.",
    "{message} 请在代理的配置中通过 GLOWL_API_KEY 为 `glowl mcp` 提供密钥。",
)
BROKEN: Final = Text(
    "The connection to {url} broke before the question was accepted. Ask again.",
    "与 {url} 的连接在问题被接受之前中断。请重新提问。",
)
TOO_SLOW: Final = Text(
    "{url} did not accept the question within {seconds} s. Ask again with more patience_s, or see `glowl jobs list`.",
    "{url} 在 {seconds} 秒内没有接受问题。请增大 patience_s 后重新提问，或查看 `glowl jobs list`。",
)
FAILED: Final = Text("The question failed: {message}", "提问失败：{message}")
CANCELLED: Final = Text("The job was cancelled.", "任务已被取消。")
NO_OBJECT: Final = Text("The answer is no JSON object; ask again.", "回答不是 JSON 对象；请重新提问。")
UNKNOWN_TOOL: Final = Text("There is no tool '{name}'; there are {known}.", "没有名为 '{name}' 的工具；可用：{known}。")
MISSING: Final = Text("'{name}' is missing: {about}", "缺少 '{name}'：{about}")
UNKNOWN_ARGUMENT: Final = Text(
    "'{tool}' takes no '{name}'; it takes {known}.", "'{tool}' 没有参数 '{name}'；可用参数：{known}。"
)
WRONG_ARGUMENT: Final = Text("'{name}' must be {wanted}: {about}", "'{name}' 必须是{wanted}：{about}")
WANTED_TEXT: Final = Text("a text", "文本")
WANTED_TEXTS: Final = Text("a list of {least} or more texts", "至少包含 {least} 个文本的列表")
WANTED_NUMBER: Final = Text("a number from {least} to {most}", "{least} 到 {most} 之间的数")
WANTED_CHOICE: Final = Text("one of {choices}", "以下之一：{choices}，")
WANTED_OBJECT: Final = Text("an object", "对象")
ONE_OF_BOTH: Final = Text("Send 'schema' or 'template', one of both.", "请发送 'schema' 或 'template'，二者择一。")
NO_OBJECT_SCHEMA: Final = Text(
    "'schema' must be of type object. Put a list or a single value into an object: "
    '{"type": "object", "properties": {"items": ...}, "required": ["items"]}.',
    "'schema' 的类型必须是 object。请将列表或单个值放入对象中："
    '{"type": "object", "properties": {"items": ...}, "required": ["items"]}。',
)
NOT_ALLOWED: Final = Text(
    "{path} is not below an allowed folder ({folders}). Put the picture there, send an http(s) or data URL, or have "
    "the user start `glowl mcp` with --allow for its folder.",
    "{path} 不在允许的文件夹中（{folders}）。请将图片放入其中，或发送 http(s) 地址或 data URL，"
    "或请用户以 --allow 允许其所在文件夹后启动 `glowl mcp`。",
)
NO_FOLDER: Final = Text(
    "No folder is allowed, so {path} cannot be read. Send an http(s) or data URL, or have the user start `glowl mcp` "
    "with --allow.",
    "未允许任何文件夹，无法读取 {path}。请发送 http(s) 地址或 data URL，或请用户以 --allow 启动 `glowl mcp`。",
)
FILE_MISSING: Final = Text(
    "There is no file {path}; paths are looked for in {folders}.", "找不到文件 {path}；查找范围：{folders}。"
)
NO_FILE: Final = Text(
    "{path} is not a file; send the path of a picture, an http(s) URL, or the picture as data:image/png;base64,...",
    "{path} 不是文件；请发送图片的路径、http(s) 地址，或以 data:image/png;base64,... 发送图片本身。",
)
FILE_UNREADABLE: Final = Text("{path} cannot be read: {reason}.", "无法读取 {path}：{reason}。")
FILE_TOO_LARGE: Final = Text(
    "{path} has {size:.1f} MB, more than the {most} MB that can be sent. Send a smaller copy.",
    "{path} 大小为 {size:.1f} MB，超过可发送的 {most} MB。请发送较小的副本。",
)
FILES_TOO_LARGE: Final = Text(
    "The pictures are together larger than the {most} MB that one call can send. Send fewer, or smaller copies.",
    "图片总大小超过单次调用可发送的 {most} MB。请减少图片数量，或发送较小的副本。",
)
NO_PICTURE: Final = Text(
    "{path} is no picture that Glowl knows. Send PNG, JPEG, WebP, GIF or BMP.",
    "{path} 不是 Glowl 可识别的图片。请发送 PNG、JPEG、WebP、GIF 或 BMP。",
)
IS_PDF: Final = Text(
    "{path} is a PDF. Make pictures of its pages first (such as `pdftoppm -r 150 -png FILE page`), and send these.",
    "{path} 是 PDF。请先将页面转换为图片（例如 `pdftoppm -r 150 -png FILE page`），再发送这些图片。",
)
