"""What a request's ``Cache-Control`` wants, in all the forms that clients write it in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.api.begin import heed_cache_control
from router.call import CacheUse

ALL = CacheUse(reads=True, writes=True, joins=True)
NEW = replace(ALL, reads=False, joins=False)
NONE = CacheUse()


@pytest.mark.parametrize(
    ("headers", "use"),
    [
        ([], ALL),
        (["only-if-cached", ""], replace(ALL, is_all=True)),
        (["max-age=60", "Only-If-Cached"], replace(ALL, max_age_s=60, is_all=True)),
        (["only-if-cached, no-cache"], replace(NEW, is_all=True)),
        (["no-store, only-if-cached"], replace(NONE, is_all=True)),
        (["no-cache"], NEW),
        (["NO-CACHE, foo"], NEW),
        (['no-cache="set-cookie, age"'], NEW),
        ([", ,no-cache"], NEW),
        (["max-age=0"], NEW),
        (['max-age="0"'], NEW),
        (["max-age = 00"], NEW),
        (["max-age=-1"], NEW),
        (["max-age"], NEW),
        (["max-age=1.5"], NEW),
        (["max-age=²"], NEW),
        (["max-age=60, max-age=0"], NEW),
        (["max-age=60"], replace(ALL, max_age_s=60)),
        (['Max-Age="60"', "max-age=070"], replace(ALL, max_age_s=60)),
        ([f"max-age={'9' * 5000}"], replace(ALL, max_age_s=9_999_999_999)),
        (["no-store"], NONE),
        (["max-age=60", "No-Store"], NONE),
        (['foo="a, no-store"'], ALL),
    ],
)
def test_every_way_to_ask_for_a_new_answer_is_heeded(headers: list[str], use: CacheUse) -> None:
    assert heed_cache_control(headers, ALL) == use
