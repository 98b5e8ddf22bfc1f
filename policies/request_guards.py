"""Cheap tests before the costly patterns of `policies.request_words`: what a text needs for one to match at all.

In: a sentence or a clause. Out: what the patterns alone would say, in a tenth of the time. Most clauses are no courtesy
and no wish about form, and their first character shows it. The sets are those with which a match can begin or end; a
test reads them off the patterns, so that a pattern with a further beginning fails it.
"""

import re
from typing import Final

from policies import request_words as words

# A pattern that begins with a class, not with a repeat of one, is searched for by that class.
_HAN_RUN: Final = re.compile(f"{words.HAN.pattern}{words.HAN.pattern}*")
_SENTENCE_MARK: Final = re.compile(r"[!?。;](?![!?。;)\"”」])")
_CLAUSE_MARK: Final = re.compile(r"[,;:!?~。()【】][,;:!?~。()【】]*")
_SPACE: Final = re.compile(r"\s")
_AFTER_ENDING: Final = "?!。."
# English patterns begin with letters, digits or a blank; those and all of their case variants are below this.
_FIRST_CJK: Final = "\u2e80"

COURTESY_STARTS: Final = frozenset(
    "368aghlostAGHLOST万上下不专中也了亲仔作你俺兄先再冒加助劳医十午即厉原又友叔另可各同吗吧呀呗呢周呵咨哈哟哥哦啊啦喂喔喽嗨"
    "嗯嘛嘻嘿噢在坐外多大天太女好如姐学完宝客家对尊小就尽帅师希帮很律快怎急恭您想感愿懂成我打抱拜挺换接提收救教敬新早明是晚智最有朋本机"
    "来棒楼此比求没然版牛特的看真着知祝立等管终继网美老能节菜萌行衷要见观认话请诸谢谨费赞赶跪身辛还这速那问阿非顺领马高麻"
)
OPENING_STARTS: Final = frozenset(
    "agAG下专为也亲你兄先再助劳医又友叔另可各同告哈哥嗨回大天女姐宝客家对尊小就帅师帮律您想我拜换接教敬智替最有朋机楼求然版看管给继"
    "网美老能话请诸谁还那问阿顺领高麻"
)
ENDING_ENDS: Final = frozenset(
    "im~主么了亲人们位你佬侠傅儿冰友叔吗呀呗哈哥哦啊啦嘛士夫女好妹姐姨子学宝家导师度弟您手才托授智服板爱父理生着神等练艺行谢谱贝铁"
)
FORM_STARTS: Final = frozenset(
    "(cehjlmxyCEHJLMXY一七三不专且两中九也书二五仅从仔代以任会作你使依俏假充先全八六关具再准几分列别务十千半单原参友口只可告四回在基"
    "备大如委字完客对少就尽希帮干并幽序应当必快总您我扮扼拜按换排控措提放数文无日易普最本条来查标根格正汉注活浏清然现生用疑百的直看礼答"
    "简篇精繁约纯结统编能自至英表要观解言认让记诗详语说请越转输返逐通都采针键长问阅限需项须题风麻"
)
# "不要解释", also behind a few words of any kind.
PROHIBITION_STARTS: Final = frozenset("不别无勿禁没切")
MAX_BEFORE_PROHIBITION: Final = 5


def num_han(text: str) -> int:
    """Count the Chinese characters."""
    return sum(map(len, _HAN_RUN.findall(text)))


def sentences(line: str) -> list[str]:
    """Split a line where `SENTENCE` does."""
    if "." in line:
        return words.SENTENCE.split(line)
    found, start = [], 0
    for mark in _SENTENCE_MARK.finditer(line):
        found.append(line[start : mark.end()])
        start = mark.end()
    return [*found, line[start:]]


def clauses(sentence: str) -> list[tuple[str, str]]:
    """Split a sentence that holds Chinese into clauses, each with the mark that ends it."""
    pattern = words.CLAUSE if _SPACE.search(sentence) else _CLAUSE_MARK
    found, start = [], 0
    for mark in pattern.finditer(sentence):
        found.append((sentence[start : mark.start()], mark.group()))
        start = mark.end()
    return [*found, (sentence[start:], "")]


def is_courtesy(clause: str) -> bool:
    """Whether a clause, not empty, is all courtesy."""
    first = clause[0]
    if first in COURTESY_STARTS and words.ZH_COURTESY.fullmatch(clause):
        return True
    return _may_be_english(first) and words.EN_COURTESY.fullmatch(clause) is not None


def is_form(clause: str) -> bool:
    """Whether a clause, not empty, is a wish about form and no question."""
    first = clause[0]
    may_be_chinese = (
        first in FORM_STARTS
        or first.isdecimal()
        or not PROHIBITION_STARTS.isdisjoint(clause[: MAX_BEFORE_PROHIBITION + 1])
    )
    may_be_english = _may_be_english(first)
    if not (may_be_chinese or may_be_english) or words.ZH_INTERROGATIVE.search(clause):
        return False
    if may_be_chinese and words.ZH_FORM.fullmatch(clause):
        return True
    return may_be_english and words.EN_FORM.fullmatch(clause) is not None


def _may_be_english(first: str) -> bool:
    return first < _FIRST_CJK or first.isdecimal()


def without_opening(text: str) -> str:
    """Take off the courtesy that a Chinese request, not empty, begins with."""
    found = words.ZH_OPENING.match(text) if text[0] in OPENING_STARTS else None
    return text if found is None else text[found.end() :]


def without_ending(text: str) -> str:
    """Take off the courtesy that a Chinese request ends with."""
    end = len(text)
    while end and (text[end - 1] in _AFTER_ENDING or text[end - 1].isspace()):
        end -= 1
    return words.ZH_ENDING.sub("", text) if end and text[end - 1] in ENDING_ENDS else text
