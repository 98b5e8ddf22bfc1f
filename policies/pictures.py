"""Part of measuring a question: whether its wording speaks of several pictures, or refers back and compares.

In: the text. Out: the words that say so, none if it doesn't. How many came is counted by their hashes, elsewhere.
"""

import re
from typing import Final

from policies.finder import Finder
from policies.request import find_request

_MAX_SHOWN = 3

_EN_NOUN = r"(?:images?|pictures?|photos?|photographs?|pics?|screenshots?|snapshots?|slides?|panels?|scans?|frames?)"
_EN_NOUNS = r"(?:images|pictures|photos|photographs|pics|screenshots|snapshots|slides|panels|scans|frames)"
_EN_SIDE = r"(?:left|right|left[- ]hand|right[- ]hand|leftmost|rightmost)"
_EN_ORDER = r"(?:second|third|fourth|fifth|last|previous|earlier|next|other|latter|former|2nd|3rd|4th)"
_EN: Final = re.compile(
    rf"\b(?:both|these|those|all|two|three|four|five|six|several|multiple|different|[2-9]|1\d)(?: of)?"
    rf"(?: the| these| those| my)?(?: two| three| four| uploaded| attached)? {_EN_NOUNS}\b"
    rf"|\b(?:each|every|either|neither|another)(?: one)?(?: of)?(?: the| these| those)?(?: two)? {_EN_NOUN}\b"
    rf"|\b(?:one|none|some|most|only one|at least one|any)(?: of)?(?: the| these| those)?(?: two)? {_EN_NOUNS}\b"
    rf"|\b(?:in|from|of|only|exactly|least|and) one {_EN_NOUN}\b"
    rf"|\bone {_EN_NOUN} (?:shows?|has|have|contains?|features?|depicts?|is|includes?)\b"
    rf"|\b{_EN_SIDE} {_EN_NOUN}\b|\b{_EN_SIDE} and {_EN_SIDE} {_EN_NOUN}\b"
    rf"|\b{_EN_NOUN} (?:on|to) the (?:left|right)\b(?! (?:wall|side|hand|page|door|shelf))"
    rf"|\b(?:first|{_EN_ORDER}) (?:two |three )?{_EN_NOUN}\b(?! (?:of the|in the) (?:menu|list))"
    rf"|\b(?:pair|set|series|collection|group) of {_EN_NOUNS}\b|\b{_EN_NOUN} pair\b"
    rf"|\b(?:between|across|among|compare|combine|match)(?: the| these| those| all)?(?: two| three)? {_EN_NOUNS}\b"
    rf"|\b(?:image|picture|photo|pic|figure|fig\.) ?(?:#|no\. ?)?(?:[2-9]| [b-d])\b"
    rf"|\bdo (?:the|these|those) {_EN_NOUNS}\b",
    re.IGNORECASE,
)

_EN_ANY: Final = Finder(rf"{_EN_NOUN}|fig", "fips", flags=re.IGNORECASE)

# The characters with which what is found can begin; a test reads them off the patterns.
SEVERAL_STARTS: Final = (
    "23456789一七三上下两九二五仅任全兩八六其几前十另只右各后哪四图圖多左幾影後恰截所数數正每照画畫相第组至这這那"
)
BACK_STARTS: Final = "一三上不与两之二先兩共几刚前区區原变另同和哪对對差幾方更最有比相第變跟这這那都"
EN_BACK_STARTS: Final = "abcdefilnopstvw"

_ZH_NUM = r"[两兩二三四五六七八九十几幾多数數2-9]"
_ZH_MEASURE = r"[张張幅个個副帧幀份页頁]"
_ZH_NOUN = r"(?:图片|圖片|图像|圖像|照片|相片|截图|截圖|画面|畫面|影像|[图圖](?![形案书書标標框])|照)"
_ZH: Final = Finder(
    rf"{_ZH_NUM}{_ZH_MEASURE}(?:不同的?|上传的?|上傳的?)?{_ZH_NOUN}"
    rf"|[这這那哪]{_ZH_NUM}[张張幅](?=[，。？?里裡中上的有是之]|{_ZH_NOUN}|$)"
    rf"|[这這那]些{_ZH_NOUN}"
    rf"|[每各](?:一)?{_ZH_MEASURE}?{_ZH_NOUN}"
    r"|(?:另外?|其它|其他|其中|前|后|後|上|下|仅在|至少|只有|恰好|正好|至少有|只有|仅有|恰好有"
    rf"|正好有)一{_ZH_MEASURE}{_ZH_NOUN}"
    rf"|(?:另外?|前|后|後|上|下)一[张張幅](?![桌床椅纸])"
    rf"|(?<![\d一-十])一[张張幅个個]{_ZH_NOUN}(?:中|里|裡|上|显示|顯示|包含|有|展示|描绘)"
    rf"|第[一二三四五六七八九十两1-9](?:[张張幅]|个图|個圖)(?![桌床椅纸])"
    rf"|[左右][边邊侧側]?的?(?:那|这|這)?(?:[一]?[张張幅])?{_ZH_NOUN}(?!案|书|書|形|表|标|框|家|板)"
    rf"|左右(?:两|兩)?{_ZH_MEASURE}?{_ZH_NOUN}"
    rf"|{_ZH_NOUN}对(?:中|里|显示|包含)|图像对|圖像對|组合(?:的)?{_ZH_NOUN}|任[何一](?:一)?{_ZH_MEASURE}?{_ZH_NOUN}"
    rf"|其中一[张張幅]|(?:两|兩|二)者(?:之间|之間)?(?:的)?{_ZH_NOUN}"
    rf"|一[张張幅](?![桌床椅纸紙]).{{1,30}}另(?:外)?一[张張幅](?![桌床椅纸紙])"
    rf"|[图圖]\s?[二三四五2-9](?![\d.])"
    rf"|(?:两|兩)者?图|(?:两|兩)[图圖]|多[图圖]|{_ZH_NOUN}之间|{_ZH_NOUN}之間"
    rf"|(?:所有|全部|几|幾)(?:的)?(?:图片|图像|照片|圖片|圖像)",
    SEVERAL_STARTS,
)

_ZH_ANY: Final = re.compile(r"[图圖照片画畫影像截张張幅頁页]")

# What a picture shows is no second picture: "the photo shows two pictures", "two paintings on the wall".
_EN_SHOWN_BEFORE: Final = re.compile(
    rf"\b(?:{_EN_NOUN}|it|wall|room|page|screen|museum|gallery|poster|album)\b.{{0,12}}"
    r"\b(?:shows?|showing|has|have|contains?|depicts?|displays?|with|of)(?: the| a)? ?$",
    re.IGNORECASE,
)
_EN_SHOWN_AFTER: Final = re.compile(
    r"^(?: that| which)?(?: are| is)?(?: hung| hanging| hang)? (?:on|in|inside) (?:the|this|that|a|his|her|their"
    r"|my) ?"
    r"(?:wall|walls|shelf|desk|table|background|gallery|museum|album|book|newspaper|page|frame|photo|picture"
    r"|image)\b",
    re.IGNORECASE,
)
_ZH_SHOWN_BEFORE: Final = re.compile(
    rf"(?:{_ZH_NOUN}|画|墙|桌|屋|房间|书|报纸?|屏幕|手机|相册|海报|展厅)(?:面|子|上面"
    r"|里面)?[里中上裡内](?:面)?(?:的|一共|总共|共|还)*"
    r"(?:有|挂着?|贴着?|摆着?|放着?|展示|显示|出现|画着?)?了?(?:的)?$"
    rf"|{_ZH_NOUN}(?:里|中)?(?:展示|显示|拍到?|包含|画|出现)了?(?:的|有|是)?$"
)

_EN_BACK: Final = Finder(
    r"\b(?:previous|earlier|former|prior|preceding|last|first|second|third|fourth|other|another|original|before"
    r"|above)"
    rf" (?:one|{_EN_NOUN})s?\b"
    r"|\b(?:both|compare[ds]?|comparison|compared|differences?|differ(?:s|ent)?|the same|similar(?:ity|ities)?"
    r"|in common|versus"
    r"|vs\.?|changed?|than|between (?:them|the two)|(?:two|all|each|which|either|neither|none) of (?:them|these"
    r"|those)"
    rf"|which (?:one|{_EN_NOUN}))\b",
    EN_BACK_STARTS,
    flags=re.IGNORECASE,
)
_ZH_BACK: Final = Finder(
    r"(?:上|前|另)(?:一|两|几|外一)?[张張幅](?![床桌椅])|(?:之前|刚才|刚刚|先前|方才|最初|最开始|一开始|前面|上面"
    r"|原来|上次)(?:的|那|这|一|几|两|个|发|传|给|你|我|过)*"
    rf"(?:[张張幅]|{_ZH_NOUN})|第[一二三四五六1-9][张張幅](?![床桌椅])"
    r"|[和与跟同比](?:刚才|刚刚|之前|上面|前面|先前|上一|前一|上次|原来|最初|第[一二三四五1-9])"
    r"|[这這那]?[两兩二三几幾][张張幅](?![床桌椅纸])|[两兩]者|(?:这|那)(?:两|几)个"
    r"|区别|區別|不同|差别|差別|差异|差異|变化|變化|变了|有变|相同|一样|一樣|相似|对比|對比|比较|比較|相比|共同"
    r"|[哪][一]?[张張幅]|哪一?[个個].{0,6}[更最]|[更最].{1,6}的?是哪|比[这那它]|都是同一",
    BACK_STARTS,
)


def find_several_pictures(text: str) -> tuple[str, ...]:
    """Return the words by which a text refers to more than one picture.

    Args:
        text: the question, English, Chinese or both.

    Returns:
        Up to three distinct phrases in the order found. Empty: the wording does not tell.
    """
    asked = find_request(text).text
    found: list[str] = []
    # Most questions hold no word for a picture; looking for one is ten times cheaper than the whole pattern.
    if _EN_ANY.search(asked):
        found += [
            match.group().lower()
            for match in _EN.finditer(asked)
            if not _EN_SHOWN_BEFORE.search(asked, max(0, match.start() - 40), match.start())
            and not _EN_SHOWN_AFTER.search(asked[match.end() : match.end() + 40])
        ]
    if _ZH_ANY.search(asked):
        found += [
            asked[start:end]
            for start, end in _ZH.spans(asked)
            if not _ZH_SHOWN_BEFORE.search(asked[max(0, start - 16) : start])
        ]
    return tuple(dict.fromkeys(found))[:_MAX_SHOWN]


def find_references_back(text: str) -> tuple[str, ...]:
    """Return the words by which a text refers to an earlier picture of the conversation, or compares.

    Args:
        text: the question, English, Chinese or both.

    Returns:
        Up to three distinct phrases, those of `find_several_pictures` first. Empty: it speaks of its own turn.
    """
    asked = find_request(text).text
    found = [words.lower() for finder in (_EN_BACK, _ZH_BACK) for words in finder.findall(asked)]
    return tuple(dict.fromkeys((*find_several_pictures(text), *found)))[:_MAX_SHOWN]
