"""What a check of the audit log says.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

CHANGED: Final = Text("this line was changed", "此行被改动")
MISSING: Final = Text("{number} lines are missing before this one", "此行之前缺少 {number} 行")
MOVED: Final = Text("this line is not in its place: one after it comes before", "此行位置不对：其后的行出现在它之前")
OTHER_BEFORE: Final = Text(
    "this line was written after another one than stands before it", "写入此行时，其前一行与现在的不同"
)
END_MISSING: Final = Text("the last {number} lines are missing", "末尾缺少 {number} 行")
OTHER_END: Final = Text("its last lines are not those that its head file names", "末尾的行与 head 文件所记录的不同")
OTHER_CHAIN: Final = Text("this line was written into another file", "此行原本写在另一个文件中")
FILE_MISSING: Final = Text(
    "this file is missing: a process that began later had seen it", "此文件缺失：之后启动的进程曾见过它"
)
REWRITTEN: Final = Text(
    "this file does not have the lines that a process that began later had seen", "此文件与之后启动的进程所见的内容不同"
)
CUT_LINE: Final = Text(
    "line {line}, the last, is cut: the process was killed while it wrote",
    "第 {line} 行（最后一行）不完整：进程在写入时被终止",
)
NOT_ENDED: Final = Text("no end: the process runs, or was killed", "没有结束行：进程仍在运行，或已被终止")
NO_HEAD: Final = Text(
    "{file} is not there, so lines missing at the end would not show", "缺少 {file}，无法发现末尾是否缺行"
)
HEAD_UNREADABLE: Final = Text(
    "{file} cannot be read ({why}), so lines missing at the end would not show",
    "无法读取 {file}（{why}），因而无法发现末尾是否缺行",
)
BEGINS_LATER: Final = Text("begins with line {number}: earlier days are gone", "从第 {number} 行开始：更早的日期已删除")
