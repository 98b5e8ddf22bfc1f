"""What the commands that ask a service, or read files of questions, say.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    # ask
    "ask.question.missing": Text(
        "the last argument is the question, but {value} is a file; write the question after it: glowl ask "
        '{value} "What is this?"',
        '最后一个参数应为问题，但 {value} 是一个文件；请把问题写在后面：glowl ask {value} "这是什么？"',
    ),
    "ask.sample": Text('sample {name}: {pictures} "{question}"', '示例 {name}：{pictures} "{question}"'),
    "ask.sample.truth": Text("the true answer: {answer}", "正确答案：{answer}"),
    "ask.sample.unknown": Text(
        "no sample is named {value!r}; there are: {names}", "没有名为 {value!r} 的示例；可用：{names}"
    ),
    "ask.sample.both": Text(
        "--sample brings its own pictures and question; leave yours out",
        "--sample 自带图片和问题；请不要再给出图片或问题",
    ),
    "ask.sample.none": Text(
        'a question is missing, and no sample pictures are installed: glowl ask PICTURE.png "What is this?"',
        '缺少问题，且未安装示例图片：glowl ask 图片.png "这是什么？"',
    ),
    "ask.question.empty": Text("the question is empty", "问题为空"),
    "ask.file.missing": Text(
        "no such picture: {path} (pictures come first, the question last and in quotes)",
        "找不到图片：{path}（图片在前，问题在最后并加引号）",
    ),
    "ask.file.unreadable": Text("cannot read {path}: {reason}", "无法读取 {path}：{reason}"),
    "ask.file.type": Text(
        "{path} is not a picture this service knows (PNG, JPEG, WebP, GIF, BMP)",
        "{path} 不是可识别的图片（PNG、JPEG、WebP、GIF、BMP）",
    ),
    "ask.file.large": Text(
        "{path} has more than {most} MB, the most that fits a request; send a smaller picture",
        "{path} 超过 {most} MB，放不进一次请求；请使用更小的图片",
    ),
    "ask.unreachable": Text(
        "nothing answers at {url}; start it with `glowl up`, or point --url at a running one",
        "{url} 没有响应；请用 `glowl up` 启动，或用 --url 指向已运行的服务",
    ),
    "ask.http": Text("the service answered {status}: {message}", "服务返回 {status}：{message}"),
    "ask.route": Text("route {route} · engine {engine} · rule {rule}", "路由 {route} · 引擎 {engine} · 规则 {rule}"),
    "ask.draft": Text("draft:", "草稿："),
    "ask.final": Text("answer:", "回答："),
    "ask.waiting": Text("waiting for the deep answer", "正在等待深度回答"),
    "ask.queued": Text("queued as {id}", "已排队：{id}"),
    "ask.resumed": Text("the stream broke; asking for the result every second", "数据流中断；改为每秒查询结果"),
    "ask.failed": Text("failed: {message}", "失败：{message}"),
    "ask.restarted": Text("(cut off; an engine starts it again)", "（中断；引擎重新开始）"),
    "ask.cancelled": Text("the job was cancelled", "任务已被取消"),
    "ask.incomplete": Text("the answer is cut short: {reason}", "回答不完整：{reason}"),
    "ask.degraded": Text("degraded: {reason}", "已降级：{reason}"),
    "ask.model": Text("answered by {model}", "回答来自 {model}"),
    # mcp
    "mcp.missing": Text(
        "the MCP SDK is not installed; install it with: {python} -m pip install 'glowl[mcp]'",
        "未安装 MCP SDK；请安装：{python} -m pip install 'glowl[mcp]'",
    ),
    "mcp.folder": Text(
        "{path} is not a folder; --allow takes folders with pictures",
        "{path} 不是文件夹；--allow 的值应为存放图片的文件夹",
    ),
    "mcp.by_hand": Text(
        "this speaks MCP on stdin and stdout, for an agent that starts it: claude mcp add glowl -- {command}",
        "此命令通过标准输入和输出使用 MCP 协议，由代理启动，例如：claude mcp add glowl -- {command}",
    ),
    "mcp.serving": Text("serving MCP at {url}", "MCP 服务地址：{url}"),
    "mcp.port": Text("port {port} cannot be used: {reason}", "端口 {port} 不可用：{reason}"),
    # batch
    "batch.usage": Text(
        "give a FILE to start a batch, or --resume BATCH to continue one, not both",
        "请提供 FILE 以开始新的批次，或用 --resume BATCH 继续已有的批次，二者择一",
    ),
    "batch.file.missing": Text("no such file: {path}", "找不到文件：{path}"),
    "batch.created": Text("the batch is {id}", "批次为 {id}"),
    "batch.left": Text(
        "the batch keeps running; to see it later: {command}",
        "批次会继续运行；稍后可用以下命令查看：{command}",
    ),
    "batch.away": Text("waiting for the service", "等待服务恢复"),
    "batch.failed": Text("{count} failed", "失败 {count}"),
    "batch.rate": Text("{rate:.1f}/s", "{rate:.1f}/秒"),
    "batch.error": Text("the batch failed: {message}", "批次失败：{message}"),
    "batch.saved": Text("{count} answers in {path}", "{count} 个回答已写入 {path}"),
    "batch.errors": Text("{count} errors in {path}", "{count} 个错误已写入 {path}"),
    "batch.ended": Text("the batch is {status}", "批次状态：{status}"),
    "batch.out": Text(
        "cannot write answers to {path}; name a file in a writable folder with --out",
        "无法将回答写入 {path}；请用 --out 指定您可写目录中的文件",
    ),
    "batch.out.exists": Text(
        "{path} already exists, perhaps with the answers of an earlier batch; name another file with --out, or "
        "use --overwrite",
        "{path} 已存在，可能是之前批次的回答；请用 --out 指定另一个文件，或加上 --overwrite",
    ),
    "batch.out.same": Text(
        "the answers would overwrite the questions in {path}; name another file with --out",
        "回答会覆盖 {path} 中的问题；请用 --out 指定另一个文件",
    ),
    "batch.encoding": Text(
        "{file} was read as {encoding}; if that is wrong, save it as UTF-8 or name its encoding: --encoding",
        "已按 {encoding} 读取 {file}；如果不对，请另存为 UTF-8，或用 --encoding 指定编码",
    ),
    "batch.empty": Text("{file} has no questions", "{file} 中没有问题"),
    "batch.array": Text(
        "{file} is one JSON array; write one object per line, as `jq -c '.[]' FILE` does",
        "{file} 是一个 JSON 数组；请每行写一个对象，例如用 `jq -c '.[]' FILE` 转换",
    ),
    "batch.head": Text(
        '{file}: the first line must name the columns, "question" among them (known: {columns}), but it is: {found}',
        '{file}：第一行必须是列名，其中要有 "question"（可用列名：{columns}），但实际为：{found}',
    ),
    "batch.columns": Text(
        "{file}: unknown columns: {names}; rename or remove them (known: {columns}; several pictures: several `image`)",
        "{file}：未知的列：{names}；请改名或删除（可用列名：{columns}；多张图片请用多个 image 列）",
    ),
    "batch.column.twice": Text("{file}: two columns are named {name}", "{file}：有两列都叫 {name}"),
    "batch.row.cells": Text(
        "{file}, line {number}: {cells} cells where the first line names {columns} columns; put texts that hold "
        "a separator in double quotes, and write a separator for each empty cell",
        "{file}，第 {number} 行：有 {cells} 个单元格，而第一行有 {columns} 列；含分隔符的文字请加双引号，"
        "空单元格也要写分隔符",
    ),
    "batch.row.unnamed": Text(
        "{file}, line {number}: {value!r} is in a column without a name; name the column in the first line",
        "{file}，第 {number} 行：{value!r} 所在的列没有列名；请在第一行写上列名",
    ),
    "batch.row.question": Text("{file}, line {number}: the question is empty", "{file}，第 {number} 行：问题为空"),
    "batch.row.json": Text(
        "{file}, line {number}: not valid JSON: {why}; write one object per line",
        "{file}，第 {number} 行：不是有效的 JSON：{why}；请每行写一个对象",
    ),
    "batch.row.keys": Text(
        "{file}, line {number}: unknown keys: {names} (known: {keys})",
        "{file}，第 {number} 行：未知的键：{names}（可用：{keys}）",
    ),
    "batch.row.key.twice": Text(
        "{file}, line {number}: '{name}' is there twice in one object; write it once",
        "{file}，第 {number} 行：同一个对象中出现了两个 '{name}'；请只写一个",
    ),
    "batch.row.both": Text(
        '{file}, line {number}: has "image" and "images"; put all pictures into "images"',
        '{file}，第 {number} 行：同时有 "image" 和 "images"；请把全部图片写入 "images"',
    ),
    "batch.row.id": Text(
        '{file}, line {number}: "id" is a text or a whole number, "model" a text',
        '{file}，第 {number} 行："id" 应为字符串或整数，"model" 应为字符串',
    ),
    "batch.row.twice": Text(
        "{file}, line {number}: the id {id} is that of line {first} already",
        "{file}，第 {number} 行：ID {id} 已用于第 {first} 行",
    ),
    "batch.row": Text(
        '{file}, line {number}: needs an object with a "question", and may have "images", a list of files or URLs',
        '{file}，第 {number} 行：需要带 "question" 的对象，可带 "images"（文件或 URL 的列表）',
    ),
    "batch.row.picture": Text("{file}, line {number}: {why}", "{file}，第 {number} 行：{why}"),
    # files of text
    "text.unreadable": Text("cannot read {path}: {reason}", "无法读取 {path}：{reason}"),
    "text.spreadsheet": Text(
        "{path} is a spreadsheet or an archive ({kind}), not text; save the sheet as CSV in UTF-8 and give that",
        "{path} 是电子表格或压缩包（{kind}），不是文本；请将工作表另存为 UTF-8 编码的 CSV 后再使用",
    ),
    "text.packed": Text("{path} is compressed ({kind}); unpack it first", "{path} 是压缩文件（{kind}）；请先解压"),
    "text.other": Text(
        "{path} is not a text file ({kind}); give a text file in UTF-8",
        "{path} 不是文本文件（{kind}）；请提供 UTF-8 编码的文本文件",
    ),
    "text.encoding.unknown": Text(
        "the encoding of {path} is not certain; save it as UTF-8, and name it: --encoding utf-8",
        "无法确定 {path} 的编码；请另存为 UTF-8，并注明 --encoding utf-8",
    ),
    "text.encoding.maybe": Text(
        "the encoding of {path} is not certain: it may be {encodings}; name it, as in --encoding {first}, or save it "
        "as UTF-8, and name it: --encoding utf-8",
        "无法确定 {path} 的编码，可能是 {encodings}；请注明编码（如 --encoding {first}），或另存为 UTF-8 并注明 "
        "--encoding utf-8",
    ),
    "text.encoding.shifted": Text(
        "{path} looks like {encoding}; save it as UTF-8, or name the encoding: --encoding {encoding} if it is, "
        "--encoding utf-8 if it is not",
        "{path} 看似 {encoding} 编码；请另存为 UTF-8，或注明编码：确为该编码用 --encoding {encoding}，否则用 "
        "--encoding utf-8",
    ),
    "text.encoding.wrong": Text(
        "{path} is not in {encoding}; save it as UTF-8, or name its encoding",
        "{path} 不是 {encoding} 编码；请另存为 UTF-8，或指定正确的编码",
    ),
    "text.encoding.name": Text(
        "no encoding is named {encoding!r}; common ones: utf-8, utf-16, gbk, big5, latin-1",
        "没有名为 {encoding!r} 的编码；常用编码：utf-8、utf-16、gbk、big5、latin-1",
    ),
    # webhooks
    "webhooks.none": Text("none", "无"),
    "webhooks.created": Text(
        "created {id}; this is its signing secret, shown only now:", "已创建 {id}；以下为其签名密钥，仅显示这一次："
    ),
    "webhooks.rotated": Text(
        "{id} signs with this new secret, shown only now:", "{id} 已改用以下新密钥签名，仅显示这一次："
    ),
    "webhooks.kept": Text("the old one signs too for 24 hours", "旧密钥在 24 小时内仍同时签名"),
    "webhooks.updated": Text("changed {id}", "已修改 {id}"),
    "webhooks.deleted": Text("deleted {id}", "已删除 {id}"),
    "webhooks.tested": Text("the receiver answered {status}", "对方返回 {status}"),
    "webhooks.nothing": Text("nothing to change; see --help", "没有要修改的内容；请查看 --help"),
    "webhooks.redelivered": Text("{id} is sent again", "正在重新投递 {id}"),
    "webhooks.attempt": Text(
        "attempt {number} at {at}: {outcome} after {duration_ms} ms",
        "第 {number} 次尝试，{at}：{outcome}，耗时 {duration_ms} 毫秒",
    ),
    "webhooks.next": Text("next attempt at {at}", "下次尝试：{at}"),
    "webhooks.failure": Text("given up: {why}", "已放弃：{why}"),
    # jobs
    "jobs.none": Text("none", "无"),
    "jobs.batch.none": Text(
        "no such job of {id}, which is {status} ({completed} of {total} answered, {failed} failed): a line's job "
        "is deleted once its answer is in a file",
        "{id} 没有符合条件的任务，其状态为 {status}（共 {total} 行，已回答 {completed} 行，失败 {failed} 行）："
        "回答写入文件后，该行的任务即被删除",
    ),
    "jobs.batch.answers": Text("answers: file {file}", "回答：文件 {file}"),
    "jobs.batch.errors": Text("errors: file {file}", "错误：文件 {file}"),
    "jobs.batch.fetch": Text("to fetch them: {command}", "获取方法：{command}"),
    "jobs.more": Text("more: --after {id}", "还有更多：--after {id}"),
    "jobs.column.id": Text("id", "ID"),
    "jobs.column.state": Text("state", "状态"),
    "jobs.column.created": Text("accepted", "接受时间"),
    "jobs.column.took": Text("took", "用时"),
    "jobs.column.engines": Text("engines", "引擎"),
    "jobs.column.question": Text("question", "问题"),
    "jobs.column.reason": Text("reason", "原因"),
    "jobs.column.unit": Text("unit", "单元"),
    "jobs.column.runs": Text("begun", "开始次数"),
    "jobs.column.failures": Text("failures", "失败次数"),
    "jobs.column.said": Text("said", "内容"),
    "jobs.seconds": Text("{seconds:.1f} s", "{seconds:.1f} 秒"),
    "jobs.final": Text("final answer, by {model}, merged by {merge}:", "最终回答（{model}，合并方式 {merge}）："),
    "jobs.failure": Text("{code}: {message}", "{code}：{message}"),
    "jobs.ended": Text("{id}: {state}", "{id}：{state}"),
    "jobs.draft": Text("draft:", "草稿："),
    "jobs.answer": Text("answer:", "回答："),
    "jobs.broken": Text(
        "the stream of {id} broke and could not be resumed within {seconds:.0f} s",
        "{id} 的事件流中断，{seconds:.0f} 秒内未能恢复",
    ),
    "jobs.timeout": Text("{id} has not ended within {seconds:g} s", "{id} 在 {seconds:g} 秒内未结束"),
    "jobs.retried": Text("{id} is queued again", "{id} 已重新排队"),
    # policy
    "policy.valid": Text("{file}: valid, preset {name}, {count} rules", "{file}：有效，预设 {name}，共 {count} 条规则"),
    "policy.case.wrong": Text(
        "wrong: {text}: {differences} (rule {rule})", "不符：{text}：{differences}（规则 {rule}）"
    ),
    "policy.cases": Text("{right} of {count} cases as expected", "{count} 个用例中 {right} 个符合预期"),
    "policy.changed": Text(
        "{changed} of {count} questions change their route", "{count} 个问题中 {changed} 个改变路径"
    ),
    "policy.empty": Text("{file} has no rows", "{file} 中没有数据行"),
    "policy.unwritable": Text("{file}: cannot be written: {why}", "{file}：无法写入：{why}"),
    "policy.row": Text("{file}, line {line}: {why}", "{file}，第 {line} 行：{why}"),
    "policy.unlabelled": Text(
        "{file}: no row has a label (label_hops, label_multi_image, or language with length_words)",
        "{file}：没有带标签的行（label_hops、label_multi_image，或 language 与 length_words）",
    ),
    "policy.fault.object": Text("an object with a string `text` is expected", "应为带字符串 `text` 的对象"),
    "policy.fault.images": Text(
        "`n_images`: a whole number from 0 to 1000 is expected", "`n_images`：应为 0 到 1000 的整数"
    ),
    "policy.fault.labels": Text("a labelled row needs the strings {names}", "带标签的行需要字符串字段 {names}"),
}
