"""Second step of a decision: how much a question looks like several questions in one.

In: one text and its language. Out: a score from 0 (one look answers it) to 1 (facts must be chained), with the words
that raised it. It reads wording only: a short question whose answer takes several steps looks simple to it.
"""

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final, Literal

from policies.language import Language, strip_non_language
from policies.request import find_request

Scored = Literal["en", "zh"]

_CHARS_PER_ZH_WORD = 1.7
_MAX_WORDS = 60
# Length alone is past every threshold long before this; more text would only cost time. The head only: with a window at
# the end, a further cue could push another one out of sight.
_MAX_CHARS: Final[dict[Scored, int]] = {"en": 480, "zh": 160}
_MAX_CUES_SHOWN = 8

_EN_WORD = re.compile(r"[A-Za-z0-9\u00c0-\u024f]+(?:['\u2019-][A-Za-z0-9\u00c0-\u024f]+)*")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")

_EN_CUES: Final[dict[str, re.Pattern[str]]] = {
    # The second and later "of" and "'s": "the mother of the director of ..."
    "reference_chain": re.compile(
        r"\b(?:of|in|by|for|from|with|at|on)\b(?=.{1,60}?\b(?:of|by|for|from|with|at)\b)"
        r"|\w's\b(?=.{0,60}?(?:'s\b| of ))"
    ),
    "relation": re.compile(
        r"\b(?:left|right) (?:side )?of\b|\bto the (?:left|right)\b|\bon the (?:left|right)\b|\bin front of\b"
        r"|\bnext to\b|\bon top of\b"
        r"|\b(?:behind|beside|between|above|below|beneath|underneath|under|near|closest|nearest|farthest)\b"
    ),
    "relative_clause": re.compile(
        r"(?<=\w )(?:who|whose|whom|which)\b(?! (?:of|one|ones|color|colour|kind|type|side)\b)"
        r"|(?<=\w )where (?:the|a|an|he|she|it|they|is|are|was|were)\b"
        r"|\bthat(?:'s| is| are| was| were| has| have| had| can| do| does| did| [a-z]{3,}(?:s|ed)\b)"
        r"|(?<=\w )when (?:the|a|an|he|she|it|they)\b"
    ),
    "participle": re.compile(
        r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )"
        r"\b(?:(?!thing|something|anything|nothing|everything|building|ceiling|morning|evening|during|painting|clothing|king"
        r"|string|spring|wing|ring)[a-z]{3,}ing|made of|[a-z]{3,}ed by|located in|born in|based on)\b"
    ),
    "comparison": re.compile(
        r"\b(?:than|more|less|fewer|most|least|same|differ(?:ent|ence|ences|s)?|similar(?:ity|ities)?|common|compared?|versus|vs"
        r"|equal|as \w+ as|older|younger|taller|shorter|bigger|smaller|larger|longer|higher|lower|earlier|later"
        r"|(?!west\b|forest|test\b|rest\b|guest|request|interest|chest|nest\b|honest|harvest|contest|protest|quest|vest\b)[a-z]{3,}est)\b"
    ),
    "conjunction": re.compile(r"\b(?:and|or|both|either|neither|nor|not|also|but|except|besides|other|another|any)\b"),
    "sequence": re.compile(
        r"\b(?:then|before|after|first|last|second|third|finally|followed by|next step|until|once|since)\b"
    ),
    "quantity": re.compile(
        r"\b(?:total|sum|altogether|combined|average|mean of|ratio|percent(?:age)?|number of|amount of|at least|at most"
        r"|each|every|all|per|twice|half|double|exactly|over \d|under \d"
        r"|(?<=how many )\w+ (?:are|were|did|do|does|have|had) \w+ \w+)\b|[%+*/=<>]"
    ),
    "reasoning": re.compile(
        r"\b(?:why|explain|reasons?|infer|deduce|conclude|calculate|compute|solve|prove|derive|step by step|steps"
        r"|analy[sz]e|predict|what would|what will|if|suppose|assuming"
        r"|relationship|relate|implies|cause[sd]?|because|how does|how do)\b"
    ),
    "further_question": re.compile(r"[?;](?=\W{0,20}\w)|[.!] (?=\w{2})"),
}

_ZH_ASKS = r"谁|誰|什么|什麼|甚么|哪|多少|几|幾|吗|嗎|呢|怎|何|[？?]|$"
_ZH_PLACE = (
    r"(?:[左右前后後上下旁](?:边|邊|面|侧|側|方)|中间|中間|之间|之間|对面|對面|附近|周围|周圍"
    r"|里面|裡面|外面|身后|身後|背后|背後)"
)
# Who or what one names by its tie to something else: asking on from there is a second step.
_ZH_TIE = (
    r"(?:作者|作家|导演|編劇|编剧|主演|演员|主角|歌手|创始人|创办人|创立者|发明人|发明者|建造者|设计者|设计师|发现者|提出者"
    r"|老板|董事长|总裁|校长|总统|首相|国王|皇帝|市长|父亲|母亲|父母|爸爸|妈妈|爷爷|祖父|儿子|女儿|儿女|子女|孩子|妻子|丈夫|老婆|老公"
    r"|哥哥|弟弟|姐姐|妹妹|兄弟|姐妹|情人|女友|男友|队友|同行|对手|老师|学生|家族|母公司|子公司|公司|出版社|母校|学校|大学"
    r"|国家|国籍|首都|城市|省份|地区|家乡|故乡|出生地|代表作品?|作品|专辑|乐队|球队|那个人|的人(?![数數物员員口生类類])|之父|之母)"
)
_ZH_CUES: Final[dict[str, re.Pattern[str]]] = {
    # The second and later 的 that ties two things; none that closes the sentence ("是红色的吗"), that a copula and the
    # question word follow, or that ends an adjective.
    "reference_chain": re.compile(
        r"(?<=(?<![色大小高矮长短新旧白黑红蓝绿黄灰做制])的)(?![吗嗎呢吧？?，,。、]|[是有](?:" + _ZH_ASKS + r")|$)"
        r"|(?<=之)(?=[父母子女妻夫首都一])"
    ),
    # ... with more behind it than "是谁": 书的作者 | 出生在哪里
    "bridge": re.compile(
        _ZH_TIE + r"(?!(?:们|們)?(?:现在|目前|分别|一般|主要|都|又|究竟|到底)?"
        r"(?:是|为|叫|有|在|姓|：|:|，)?(?:指|做|作|个|一个)?(?:"
        + _ZH_ASKS
        + r"))(?!的?(?:名字|名称|姓名)?(?:是|叫|有)(?:"
        + _ZH_ASKS
        + r"))(?=[^，,。？?]{2})"
    ),
    # A place that narrows something down ("左边的人"), not a place that is asked about ("在左边吗", "左边还是右边").
    "relation": re.compile(
        _ZH_PLACE + r"(?!的?(?:吗|嗎|呢|还是|還是|或|[？?，,。]|$))(?<!还是在.{3})(?<!还是.{2})"
        r"|(?<=[^在以之从图圖片面像照])[前后上下里旁](?=[有是站坐躺的](?!什么|谁|哪|吗))"
    ),
    "relative_clause": re.compile(
        r"(?:[穿戴拿坐站骑騎牵牽抱背看玩吃喝拥擁含属屬由被在有是用做念建带帶位处写寫演開开靠](?:着|著|于|在|有)?[^的，,。？?什么麼几幾多谁誰哪]{0,12})"
        r"的(?=[^\W\d_])(?![吗嗎呢吧])|[念写演建住开]的那|所[^\W有以属在示]{1,3}的?"
    ),
    "comparison": re.compile(
        r"[比较較][^赛賽例如重]|更|最|相同|一样|一樣|同样|同樣|不同|差异|差異|差别|差別|区别|區別|相似|多于|多於|少于|超过|超過"
        r"|高于|低于|大于|小于|以上|以下|不少于|哪一?[个個只张張](?:更|比较)|共同|同一"
    ),
    # "A还是B" is no part of it: choosing between two values is one look.
    "conjunction": re.compile(
        r"[和与與及或且并並]|以及|同时|同時|既|又|都|也|、|，|,|除了|除|(?<!然)而|但|分别|分別|另"
        r"|不(?=[是在]?[^\W]{1,6}的)|非(?!常|洲)"
    ),
    "sequence": re.compile(
        r"先|然后|然後|接着|接著|再|之后|之後|之前|以后|以前|依次|首先|其次|最后|最後|第[一二三四五六七八九十\d]"
    ),
    "quantity": re.compile(
        r"总共|總共|合计|合計|总和|總和|平均|百分|比例|占比|比率|相差|差多少|倍|[之到多]少[^？?]{4,}|几[^？?]{8,}|[每各]|所有|全部|至少|至多"
        r"|(?<![a-z\d.-])\d+(?![a-z\d年月日号號-])|[%+*/=<>×÷]"
    ),
    "reasoning": re.compile(
        r"为什么|為什麼|为何|為何|原因|解释|解釋|推断|推斷|推理|推测|推測|推导|计算|計算|求|解题|解答|解决|解決|证明|證明|步骤|步驟"
        r"|过程|過程|思路|方法|分析|预测|預測|如果|假如|假设|根据|根據|判断|判斷|正确答案|答案|这道题|該题|该题|题目|排名|策划|创作|創作|撰写"
        r"|编写|设计|写一|寫一|创建|生成|建议|评价|影响|趋势|关系|關係|逻辑|对比|應該|应该怎"
    ),
    "further_question": re.compile(r"[？?；;。](?=[^？?。；;]{0,20}[\u4e00-\u9fff])"),
}
# Courtesy makes a question longer, not harder.
_ZH_COURTESY = re.compile(
    r"请问|請問|麻烦你?|你知道|谁能告诉我|谁知道|我想知道|能不能|可以|请你?帮我|帮我|一下|呀|来着|吗|呢|啊|请"
)
# A name is one reference, however long: titles and quotes in Chinese, runs of capitalised words in English.
_ZH_NAME = re.compile(r"《[^《》]{1,60}》|“[^“”]{1,60}”|\"[^\"]{1,60}\"|「[^「」]{1,60}」|[（(][^（）()]{1,60}[）)]")
_EN_NAME = re.compile(
    r"(?<=[^.?!\s] )(?:[A-Z][\w.'\u2019-]{0,30})(?: (?:(?:of|the|de|von|and|&) )?[A-Z0-9][\w.'\u2019-]{0,30}){1,8}"
)
_CUES: Final[dict[Scored, dict[str, re.Pattern[str]]]] = {"en": _EN_CUES, "zh": _ZH_CUES}
_NAMES_ZH: Final = {
    "reference_chain": "层层指代",
    "bridge": "中间环节",
    "relation": "位置关系",
    "relative_clause": "定语从句",
    "participle": "分词短语",
    "comparison": "比较",
    "conjunction": "并列",
    "sequence": "先后顺序",
    "quantity": "数量",
    "reasoning": "推理",
    "further_question": "追加提问",
}


@dataclass(frozen=True, slots=True)
class Complexity:
    """How far a question's wording asks for chained facts.

    Attributes:
        score: 0 to 1, calibrated to a mix in which one question in seven (English: in four) chains facts.
            Wording is all it knows.
        cues: "name: words" for what raised it, at most eight, in a fixed order.
    """

    score: float
    cues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Weights:
    bias: float
    length: float
    cues: dict[str, tuple[float, int]]


def score(text: str, language: Language) -> float:
    """Score one text; see `examine`.

    Args:
        text: any string.
        language: what `policies.language.detect` says of it.
    """
    return examine(text, language).score


def examine(text: str, language: Language) -> Complexity:
    """Score how many facts a question chains, from its wording alone.

    Args:
        text: any string.
        language: zh and en are scored. Other languages and text without any are 0: no cue list speaks for them.
    """
    if language not in ("zh", "en"):
        return Complexity(0.0, ())
    scored: Scored = language
    weights = _weights()[scored]
    num_words, cues = find_cues(text, scored)
    if not num_words:
        return Complexity(0.0, ())
    total = weights.bias + weights.length * math.log(min(num_words, _MAX_WORDS))
    total += sum(weights.cues[name][0] * min(len(found), weights.cues[name][1]) for name, found in cues.items())
    shown = tuple(_show(name, found) for name, found in cues.items() if found)
    return Complexity(round(1 / (1 + math.exp(-total)), 4), shown[:_MAX_CUES_SHOWN])


def find_cues(text: str, language: Scored) -> tuple[float, dict[str, list[str]]]:
    """Read off a text what is weighed: its length and, per cue, the words found.

    Args:
        text: any string.
        language: whose cue list is used.

    Returns:
        The number of words (a name counts as one, courtesies as none, a Chinese word is 1.7 characters), and the cues.
    """
    cleaned = strip_non_language(find_request(text).text).strip()[: _MAX_CHARS[language]]
    if language == "en":
        num_words: float = len(_EN_WORD.findall(_EN_NAME.sub("x", cleaned)))
        searched = cleaned.lower()
    else:
        searched = _ZH_NAME.sub("x", cleaned).lower()
        num_words = len(_EN_WORD.findall(searched))
        num_words += len(_HAN.findall(_ZH_COURTESY.sub("", searched))) / _CHARS_PER_ZH_WORD
    found = {
        name: [match.group().strip() for match in pattern.finditer(searched)]
        for name, pattern in _CUES[language].items()
    }
    if language == "zh":
        found["reference_chain"] = found["reference_chain"][1:]
    return num_words, found


def _show(name: str, found: list[str]) -> str:
    shown = list(dict.fromkeys(word[:16] for word in found if word))[:3]
    label = _to_label(name)
    return f"{label}: {', '.join(shown)}" if shown else f"{label} x{len(found)}"


def to_chinese(cue: str) -> str:
    """Return one of `Complexity.cues` with its name in Chinese; the words that were found stay as they are."""
    return next(
        (zh + cue.removeprefix(label) for name, zh in _NAMES_ZH.items() if cue.startswith(label := _to_label(name))),
        cue,
    )


def _to_label(name: str) -> str:
    return name.replace("_", " ")


@cache
def _weights() -> dict[Scored, _Weights]:
    stored = json.loads(resources.files("policies").joinpath("weights/multi_hop.json").read_text(encoding="utf-8"))
    languages: tuple[Scored, ...] = ("en", "zh")
    return {
        language: _Weights(
            bias=float(stored[language]["bias"]),
            length=float(stored[language]["length"]),
            cues={name: (float(cue["weight"]), int(cue["cap"])) for name, cue in stored[language]["cues"].items()},
        )
        for language in languages
    }
