"""What the modules of router/jobs/ say to callers: refusals and notes, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

NO_RESPONSE: Final = Text("No response with id '{response_id}'.", "没有 id 为 '{response_id}' 的响应。")
TOO_MANY_JOBS: Final = Text(
    "You have {limit} unfinished jobs already; wait until some of them have ended.",
    "您已有 {limit} 个未完成的任务，请等待其中一些结束后再试。",
)
JOBS_TOO_LARGE: Final = Text(
    "The pictures of your unfinished jobs would have more than {limit} bytes; wait until some of them have ended.",
    "您未完成任务的图片合计将超过 {limit} 字节，请等待其中一些结束后再试。",
)
NEWER_RECORD: Final = Text(
    "A newer version of Glowl wrote this job (schema {found}; this one reads up to {known}). Processes of that version "
    "finish it; try again when the upgrade is over.",
    "此任务由更新版本的 Glowl 写入（schema {found}；本版本最多读取 {known}），将由该版本的进程完成；"
    "请在升级完成后再试。",
)
LOST_MERGE: Final = Text("the merge could not be finished", "合并未能完成")
LOST_BRANCH: Final = Text(
    "the worker was lost {max_attempts} times while this branch ran", "执行此部分的 worker 已 {max_attempts} 次异常退出"
)
DEADLINE_PASSED: Final = Text("the deadline of {deadline_ms} ms passed", "已超过 {deadline_ms} 毫秒的期限")
JOB_EXPIRED: Final = Text("no worker finished it in the time that a job has", "没有 worker 在任务允许的时间内完成")
NOT_AWAITED: Final = Text(
    "it did not answer in time, and the other answer was there", "未能及时作答，而另一份回答已经完成"
)
