"""What `glowl backup` and `glowl restore` say.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    "backup.done": Text(
        "{file} holds {stored}; it is not encrypted, so keep it like a key",
        "{file} 包含 {stored}；文件未加密，请像密钥一样保管",
    ),
    "backup.kept": Text("{file} holds {count} kept answers", "{file} 包含 {count} 个已保存的回答"),
    "backup.kept.left": Text(
        "answers are kept for data sets in {folder}; they are not in the backup. To have them too: --loop FILE",
        "{folder} 中有为数据集保存的回答，不在此备份中。要一并备份，请加上 --loop FILE",
    ),
    "backup.kept.none": Text("nothing is kept in {folder}", "{folder} 中没有保存任何回答"),
    "restore.kept": Text("{count} kept answers are back in {folder}", "{count} 个已保存的回答已恢复到 {folder}"),
    "backup.nothing": Text("nothing that Glowl has stored", "Glowl 未存储任何内容"),
    "backup.exists": Text("{file} is already there; name another file", "{file} 已存在；请指定其他文件名"),
    "backup.terminal": Text(
        "a backup is no text: name a file, or write it into one with >", "备份不是文本：请指定文件名，或用 > 写入文件"
    ),
    "backup.redis": Text("redis could not be started; {log} says why", "无法启动 redis；原因见 {log}"),
    "restore.whole": Text(
        "{file} is whole: {keys} keys, made at {made_at}", "{file} 完整：{keys} 个键，创建于 {made_at}"
    ),
    "restore.done": Text(
        "restored what was stored at {made_at}: {stored}; the service may be started",
        "已恢复 {made_at} 时存储的内容：{stored}；现在可以启动服务",
    ),
}
