"""What there is to say about a download of a model; the English is that of the engines' own logs.

In: nothing. Out: `Text`s by key, ``hub.`` before the code of `engines.hub.words`.
"""

from __future__ import annotations

from typing import Final

from engines.hub.words import WORDS
from policies.text import Text

_CHINESE: Final[dict[str, str]] = {
    "gated": "{repo} 需要授权：请在 {page} 接受其条款，然后把 {variable} 设为该账号的令牌（{endpoint} 返回 {status}）",
    "unknown": "{endpoint} 上没有 {repo}，或它是私有的：请检查名称以及 {variable} 中的令牌（状态码 {status}）",
    "token": "{endpoint} 拒绝了 {variable} 中的令牌（状态码 {status}）：请新建一个，或取消设置",
    "token_form": "{variable}（或 `hf auth login` 保存的令牌）含有空格、换行等令牌不会有的字符：请重设或取消设置",
    "endpoint": "{variable} 的值 {endpoint} 不是地址：请写成 https://HOST",
    "forbidden": "{endpoint} 禁止访问 {repo}（状态码 {status}）：{reason}",
    "revision": "{endpoint} 上的 {repo} 没有版本 {revision}",
    "missing": "{endpoint} 上 {repo} 的 {revision} 不完整：没有 {file}",
    "contents": (
        "{repo} 的 {file} 两次收到的内容都与 {endpoint} 所述不符（sha256 为 {got}，应为 {wanted}）："
        "中间的代理或镜像改动了它"
    ),
    "disk": "需要下载 {need_gb:.1f} GB 到 {folder}，而剩余空间为 {free_gb:.1f} GB：请清理空间",
    "unwritable": "无法写入 {folder}：{reason}",
    "offline": "{folder} 中的 {repo} 不完整（缺少：{missing}），而 {variable} 禁止下载",
    "foreign": "{endpoint} 的响应不像模型库（{reason}）：请检查 {variable} 以及中间的代理",
    "package": "从 Hugging Face 下载需要 huggingface_hub：`pip install 'glowl[engines]'`",
    "away": "无法连接 {endpoint}（{reason}）",
    "busy": "{endpoint} 返回 {status}：它过载、故障，或限制了访问频率",
    "cut": "{endpoint} 一再中断 {file} 的传输；已收到的部分会保留",
    "retry": "{why}；{delay_s:.0f} 秒后重试",
    "resumed": "{file} 从 {have_gb:.2f} GB 处继续，共 {size_gb:.2f} GB",
    "restarted": "{endpoint} 只能从头发送 {file}：需重新下载 {have_gb:.2f} GB",
    "again": "{file} 的内容与 {endpoint} 所述不符：正在重新下载",
    "damaged": "{folder} 中的 {file} 已损坏（sha256 不是 {wanted}）：正在重新下载",
    "orphans": "已从 {folder} 清除 {size_gb:.2f} GB 未完成的下载",
    "waiting": "另一个进程正在下载 {repo}；等待其完成",
    "checking": "正在校验 {repo} 的内容（仅此一次）",
}

TEXTS: Final[dict[str, Text]] = {f"hub.{code}": Text(english, _CHINESE[code]) for code, english in WORDS.items()}
