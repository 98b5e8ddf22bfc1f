"""What deliveries say of attempts that failed, in English and Chinese.

In: nothing. Out: `Text`s with places for values.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

ATTEMPT_LOST: Final = Text(
    "the worker was lost during this attempt; whether the receiver got it is not known",
    "投递进程在本次尝试中丢失；对方是否收到未知",
)
ADDRESS_REFUSED: Final = Text("the URL leads to an address that is not posted to", "该 URL 指向不允许投递的地址")
RECEIVER_ANSWERED: Final = Text("the receiver answered {status}", "对方返回 {status}")
