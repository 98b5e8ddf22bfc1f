"""What is said of a backup that cannot be made or read, in English and Chinese.

In: nothing. Out: `Text`s.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

NO_BACKUP: Final = Text("this is no backup of Glowl", "这不是 Glowl 的备份")
CUT: Final = Text(
    "the backup ends in the middle: it was not copied as a whole, or its disk was full",
    "备份不完整：文件未完整复制，或写入时磁盘已满",
)
CHANGED: Final = Text(
    "the backup is damaged: what is in it does not fit the sum at its end",
    "备份已损坏：内容与文件末尾的校验值不符",
)
NEWER: Final = Text(
    "the backup was made by a newer Glowl ({what} {found}, this one knows {known}); restore it with that one",
    "备份由更新版本的 Glowl 创建（{what} {found}，当前版本支持到 {known}）；请用该版本恢复",
)
NOT_EMPTY: Final = Text(
    "redis already has {stored}; nothing was changed. To replace all of it: --replace",
    "redis 中已有 {stored}；未做任何更改。要全部替换，请加上 --replace",
)
IN_USE: Final = Text(
    "{number} processes of Glowl use this redis; stop them first: they would mix what they know with what is restored",
    "有 {number} 个 Glowl 进程正在使用此 redis；请先停止它们：否则它们会把已知的数据与恢复的数据混在一起",
)
KEPT_IN_USE: Final = Text(
    "answers are kept in {folder} already; nothing was changed there. To replace all of them: --replace",
    "{folder} 中已有保存的回答；未作任何更改。要全部替换，请加上 --replace",
)
EMPTIED: Final = Text("redis was emptied while it was read; no backup was made", "读取期间 redis 被清空；未生成备份")
BUSY: Final = Text(
    "redis changes faster than it can be read; no backup was made. Try again when less goes on",
    "redis 的变化快于读取速度；未生成备份。请在较空闲时重试",
)
NO_RIGHT: Final = Text(
    "the user of REDIS_URL lacks a right that a backup needs (docs/high-availability.md has them all): {reason}",
    "REDIS_URL 的用户缺少备份所需的权限（全部权限见 docs/high-availability.zh.md）：{reason}",
)
