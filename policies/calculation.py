"""Whether a Chinese request has to be worked out: prices, shares, times and ages, often in very few words.

In: the request, lower case. Out: the words that say so. Length says nothing here: "会不会迟到" compares two
times.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from policies.finder import Finder

_NUMBER: Final = r"(?<![a-z\d第.:_-])(?:\d+(?:\.\d+)?|[一二两三四五六七八九十百千半]{1,5})"
# What is counted, beside a number. Dates, doors, seats and models are names, not counts.
_UNIT: Final = (
    r"(?:[块元角毛](?!钱?的)|万|瓶|箱|盒|袋|包|桶|杯|片|支|只|[个人件张本页](?!信息|字)|天|周|个月|分钟|小时|秒|厘米"
    r"|公里|千米|平米|平方|米|公斤|千克|斤|吨|克|毫升|升|度|折|%|倍|岁|点(?![击开哪])|字(?!以内|左右|以上|的))"
)
_COUNT: Final = rf"{_NUMBER}\s?{_UNIT}"
_AMOUNT: Final = (
    r"(?:多少(?!人?叫)|几[个件张天点斤块元次瓶桶页本年倍]|几(?=[^\w]|$)|够(?!不着)|多久|多远|多大|多重|来得及|赶得上"
    r"|划算|哪种?[快慢多少]|得[了到完下]吗)"
)
# With which a number begins, beside digits; a test reads them off the pattern.
NUMBER_STARTS: Final = "一二两三四五六七八九十百千半"
_COUNTED: Final = Finder(_COUNT, NUMBER_STARTS, r"\d")
_ASKED: Final = re.compile(_AMOUNT)
# Characters between two counts, and from the second to what is asked.
_MAX_BETWEEN: Final = 40
_MAX_BEHIND: Final = 32
# Each beside the words of which one must be there: most requests have none of them, and are done in some µs.
_PATTERNS: Final = tuple(
    (words.split(), re.compile(pattern))
    for words, pattern in (
        # A count joined to what is asked by an operation.
        (
            "加 减 乘 除 分 剩 晚点 提前 推迟",
            r"(?:加上?|减去?|乘以?|除以|平分|均分|分给|还剩|只剩|晚点|提前|推迟)"
            rf"[^?\n]{{0,6}}{_COUNT}[^?\n]{{0,16}}?{_AMOUNT}",
        ),
        (
            "换 合 等于 相当 够",
            rf"(?:{_COUNT}|\d块)[^?\n]{{0,12}}?(?:能换|换成?|合|等于|相当于|够)[^?\n]{{0,8}}?(?:{_AMOUNT}|吗)",
        ),
        ("元 金 币 镑", r"\d\s?(?:美元|美金|欧元|日元|港币|英镑|人民币)[^?\n]{0,12}(?:多少|几)"),
        # Offers: 满100减20, 买二送一, 七五折
        (
            "满 送 折",
            r"(?:满\s?\d+[元块]?\s?[减送返]|买[一二两三四五\d]{1,3}[^,\n]?送[一二两三四五\d]|[一二三四五六七八九\d]折)"
            r"[^?\n]{0,30}?(?:多少|几|划算|便宜吗|[怎咋](?:么|样)?算|如何算)",
        ),
        # Shares: 三个人AA，每人出多少
        ("aa", r"(?<![a-z])aa(?![a-z])[^?\n]{0,12}(?:多少|几|怎么算)"),
        (
            "每人 人均 平均",
            r"(?:每人|人均|平均(?:下来)?每?[人天个])[^?\n]{0,4}[出付分花摊](?:多少|几[块元个])|平均下来.{0,6}(?:多少|几)",
        ),
        # Whether one amount reaches another.
        (
            "够",
            r"够(?:不够)?(?:我们|咱们)?(?:[\d两三四五六七八九十]+个?人?)?(?:买|付|吃|用|喝|坐|装|住|发|分|跑|开到|走到)"
            r"[^?\n]{1,10}[吗么]|[攒存省]够|够[^?\n]{1,12}(?:每人|每天|一个月)",
        ),
        # What is left of an amount, or its share in another.
        ("扣 除去 减免 叠加", r"(?:扣[完掉除]|除去|减免|叠加|抵扣)[^?\n]{1,14}(?:多少|几)"),
        ("占", r"占(?!地)[^?\n]{1,14}(?:几成|多少|几分之)"),
        # Times: when it comes, and whether that is in time.
        ("迟到 得及 得上 赶", r"会不会迟到|来不来得及|(?:来得及|赶得上|赶得及|会迟到|能赶上)[^?\n]{0,12}[吗么]"),
        ("现在 从", rf"(?:现在|从)[^?\n]{{0,4}}{_NUMBER}点[^?\n]{{0,12}}{_NUMBER}(?:个?半?小时|分钟|刻钟)"),
        ("前 后", rf"{_NUMBER}(?:天|周|个?月|年)[之以]?[后前][^?\n]{{0,4}}(?:周几|星期几|礼拜几|几[号月])"),
        ("速度", r"按[^?\n]{0,8}速度[^?\n]{0,8}[几多]"),
        # From a year to today.
        (
            "今年 现在 至今 如今",
            r"\d{4}年?[^?\n]{0,8}(?:出生|生的|成立|建成?|生产|开业|毕业|买的|结婚)[^?\n]{0,6}(?:今年|现在|至今|如今)"
            r"[^?\n]{0,6}(?:多大|几岁|多少[年岁]|几年|多久)",
        ),
        ("保质期", r"保质期[^?\n]{0,20}(?:生产|出厂)[^?\n]{0,20}(?:过期|到期|能吃|还能)"),
        # The difference of two.
        ("差 隔", r"[两二三四\d][^?\n]{2,12}[差隔]了?(?:几|多少|多远|多久)"),
        ("比", r"比[^?\n]{1,10}[多少高低远近大贵快]了?(?:多少|几|吗)"),
        # What is given, and what follows from it.
        ("已知", r"已知[^\n]{2,80}(?:求|多少|几)"),
        ("和 差 积 商", r"[和差积商](?:是|为|等于)\s?\d+[^\n]{0,30}(?:多少|几)"),
        ("限", r"限[高重宽速载][^?\n]{0,6}?\d[^?\n]{0,20}?能[^?\n]{0,6}吗"),
        ("bmi", r"bmi"),
        # Checked or proved, not read.
        ("算 加 减 除 乘", r"[算加减除乘][错对](?:了|没|吗)|有没有算错"),
        ("证", r"怎么证(?!件)|(?:^|[\n,;。:])(?:请|帮我)?(?:求证|试证明?|证明(?![信书件材文函]))(?::|[^\n])"),
    )
)


def find_calculation(request: str) -> str | None:
    """Return the words of a request that have to be worked out, or None.

    Args:
        request: in Chinese, lower case, with punctuation in its half-width form.
    """
    worked = _find_two_counts(request)
    if worked is not None:
        return worked
    for words, pattern in _PATTERNS:
        for word in words:
            if word in request:
                found = pattern.search(request)
                if found is not None:
                    return found.group().strip()
                break
    return None


def _find_two_counts(request: str) -> str | None:
    """Find two counts and the question about a third: 每箱12瓶，5箱够30个人吗."""
    for (first, first_end), (second, second_end) in pairwise(_COUNTED.spans(request)):
        between = request[first_end:second]
        if len(between) > _MAX_BETWEEN or "?" in between or "\n" in between:
            continue
        asked = _ASKED.search(request, second_end, second_end + _MAX_BEHIND)
        if asked is not None and not {"?", "\n"} & set(request[second_end : asked.start()]):
            return request[first : asked.end()].strip()
    return None
