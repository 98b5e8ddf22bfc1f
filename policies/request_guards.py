"""Cheap tests before the costly patterns of `policies.request_words`: what a text needs for one to match at all.

In: a sentence or a clause. Out: what the patterns alone would say, in a tenth of the time. Most clauses are no courtesy
and no wish about form, and their first character shows it. The sets are those with which a match can begin or end; a
test reads them off the patterns, so that a pattern with a further beginning fails it.
"""

import re
from typing import Final

from policies import request_words as words
from policies.finder import Finder

# A pattern that begins with a class, not with a repeat of one, is searched for by that class.
_HAN_RUN: Final = re.compile(f"{words.HAN.pattern}{words.HAN.pattern}*")
_SENTENCE_MARK: Final = re.compile(r"[!?。;](?![!?。;)\"”」])")
# Likewise; what ends a clause is kept.
_CLAUSE_MARK: Final = re.compile(r"([,;:!?~。()【】][,;:!?~。()【】]*)")
_CLAUSE: Final = re.compile(f"({words.CLAUSE.pattern})")
_SPACE: Final = re.compile(r"\s")
_AFTER_ENDING: Final = "?!。."
# English patterns begin with letters, digits or a blank; those and all of their case variants are below this.
_FIRST_CJK: Final = "\u2e80"

COURTESY_STARTS: Final = frozenset(
    "368aghlostAGHLOST万上下不专中也了亲仔作你俺兄先再冒加助劳医十午即厉原又友叔另可各同吗吧呀呗呢周呵咨哈哟哥哦啊啦喂喔喽嗨"
    "嗯嘛嘻嘿噢在坐外多大天太女好如姐学完宝客家对尊小就尽帅师希帮很律快怎急恭您想感愿懂成我打抱拜挺换接提收救教敬新早明是晚智最有朋本机"
    "来棒楼此比求没然版牛特的看真着知祝立等管终继网美老能节菜萌行衷要见观认话请诸谢谨费赞赶跪身辛还这速那问阿非顺领马高麻"
)
# Nor does a courtesy end with another character, unless it holds a slot for any words.
COURTESY_ENDS: Final = frozenset(
    ",~ıİſ\u212a68AIKLMOPQSUXYaiklmopqsuxy上下不个主么乐了事亲人以们件位你佬侠便候傅儿冰利到刻功助劳升"
    "单友叔句可合吉名后吗吧启呀呗员呢呵命哈哒哟哥哦啊啦啰喂喔喽嗨嗯嘛嘞嘻嘿噢回图在士复外夫女好如妈妹姐姨子学安宝害家"
    "察对导小尽工师帮幅度康弟张强心忙快怀思急恩您情想意懂我户手才托扰拜持授救教新族早昧是智服机来板枚样案棒歉此步气求"
    "满滴激点烦照爱父爸片牛理生用白的看瞧礼祝神祺福等答紧练给罗美者致艺苦行要见解计询说请谢谱贝财赞起辑过这速道那铁错"
    "长问附隆需颂题驾鸟"
)
COURTESY_SLOT: Final = re.compile("冒昧|[顺即敬谨][颂祝请候]")
REQUEST_STARTS: Final = frozenset(
    "介仔仿估你依修先再写准分列创判制化另可同告回填对将尽帮并归念总您我扩找把抽拜指按排接推描提撰改数整替最朗查标校根"
    "检概比求润然生用看确简算纠结给统续编缩翻能规解计认讲设证评识译试详说请读辨选逐那阐预首麻"
)
POINTS_STARTS: Final = "上下以仿修分前后回如将帮归总扩把抽提摘改整朗校检概此润用简精繁纠续缩翻解评译该语请转这那错麻"
_POINTS: Final = Finder(words.ZH_POINTS, POINTS_STARTS, flags=re.IGNORECASE)
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
FORM_ENDS: Final = frozenset(
    "ıİſ\u212a:!,)"
    "DLNSVXdlnsvx上下业个中了些以件位体供俗像典内再写出列务动化单句可右号后吧哈哦啊回图地块复够好婉子字它"
    "实容对尽并式心总息想意懂成我户括接整文明是晰本条来果样格案楚段求注泼洁流点炼然片现理白的皮目真短确示符答简练组细"
    "绍结考脆节行表要观讲诉词诗话语说貌赅达述速道释里问面项题默"
)
# Slots for any words: a remark about the answer, a prohibition, "only say ...", a role, what is not known.
FORM_SLOT: Final = re.compile(
    "回答|答案|输出|回复|结果|字数|篇幅|语言|语气|格式|长度|文风|风格|措辞|标题|表头|排版|序号|单位|标点"
    "|不|别|无|勿|禁|没|只|仅|直接|就|单|你|您|扮演|充当|作为|知道|确定|清楚|一步"
)
_STARTS: Final = COURTESY_STARTS | FORM_STARTS
# "不要解释", also behind a few words of any kind.
PROHIBITION_STARTS: Final = frozenset("不别无勿禁没切")
MAX_BEFORE_PROHIBITION: Final = 5
PROHIBITION: Final = re.compile(f"[{''.join(sorted(PROHIBITION_STARTS))}]")


def surely_asks_in_chinese(text: str) -> bool:
    """What `words.surely_asks_in_chinese` says of a text that is not empty."""
    if text[0] in REQUEST_STARTS:
        return words.surely_asks_in_chinese(text)
    return text[-1] == "?" or (text[-1] == ":" and words.surely_asks_in_chinese(text))


def points_in_chinese(text: str) -> bool:
    """Whether a Chinese sentence speaks of a text beside it."""
    return _POINTS.search(text) is not None


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


def clauses(sentence: str) -> list[str]:
    """Split a sentence that holds Chinese: a clause, the mark that ends it, the next clause, and so on to a clause."""
    return (_CLAUSE if _SPACE.search(sentence) else _CLAUSE_MARK).split(sentence)


def may_be_kept_out(clause: str, *, has_prohibition: bool) -> bool:
    """Whether a clause, not empty, may be courtesy or a wish about form: most begin with a character of neither.

    Args:
        clause: without marks around it.
        has_prohibition: a character of `PROHIBITION_STARTS` is in the sentence.
    """
    first = clause[0]
    return has_prohibition or first in _STARTS or first < _FIRST_CJK or first.isdecimal()


def is_courtesy(clause: str) -> bool:
    """Whether a clause, not empty, is all courtesy."""
    first, last = clause[0], clause[-1]
    if (
        first in COURTESY_STARTS
        and (last in COURTESY_ENDS or last.isspace() or COURTESY_SLOT.search(clause))
        and words.ZH_COURTESY.fullmatch(clause)
    ):
        return True
    return _may_be_english(first) and words.EN_COURTESY.fullmatch(clause) is not None


def is_form(clause: str) -> bool:
    """Whether a clause, not empty, is a wish about form and no question."""
    first = clause[0]
    is_wish = (
        first in FORM_STARTS
        or first.isdecimal()
        or not PROHIBITION_STARTS.isdisjoint(clause[: MAX_BEFORE_PROHIBITION + 1])
    ) and (clause[-1] in FORM_ENDS or clause[-1].isdecimal() or FORM_SLOT.search(clause) is not None)
    is_wish = is_wish and words.ZH_FORM.fullmatch(clause) is not None
    if not is_wish:
        is_wish = _may_be_english(first) and words.EN_FORM.fullmatch(clause) is not None
    return is_wish and not words.ZH_INTERROGATIVE.search(clause)


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
