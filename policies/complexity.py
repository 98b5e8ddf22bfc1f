"""Second step of a decision: how much a question looks like several questions in one.

In: one text and its language. Out: a score from 0 (one look answers it) to 1 (facts must be chained), with the words
that raised it. It reads wording only: a short question whose answer takes several steps looks simple to it.
"""

import math
import re
from dataclasses import dataclass
from typing import Final

from policies.calculation import find_calculation
from policies.finder import Finder
from policies.language import Language, strip_non_language
from policies.multi_hop_weights import Scored as Scored
from policies.multi_hop_weights import WeightsSet, current
from policies.request import find_request

_CHARS_PER_ZH_WORD = 1.7
# Length stops counting here: a long sentence alone is no chain.
MAX_WORDS: Final[dict[Scored, int]] = {"en": 60, "zh": 10}
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
        r"\b(?:(?!thing|something|anything|nothing|everything|building|ceiling|morning|evening|during|painting"
        r"|clothing|king"
        r"|string|spring|wing|ring)[a-z]{3,}ing|made of|[a-z]{3,}ed by|located in|born in|based on)\b"
    ),
    "comparison": re.compile(
        r"\b(?:than|more|less|fewer|most|least|same|differ(?:ent|ence|ences|s)?|similar(?:ity|ities)?|common"
        r"|compared?|versus|vs"
        r"|equal|as \w+ as|older|younger|taller|shorter|bigger|smaller|larger|longer|higher|lower|earlier|later"
        r"|(?!west\b|forest|test\b|rest\b|guest|request|interest|chest|nest\b|honest|harvest|contest|protest|quest"
        r"|vest\b)[a-z]{3,}est)\b"
    ),
    "conjunction": re.compile(r"\b(?:and|or|both|either|neither|nor|not|also|but|except|besides|other|another|any)\b"),
    "sequence": re.compile(
        r"\b(?:then|before|after|first|last|second|third|finally|followed by|next step|until|once|since)\b"
    ),
    "quantity": re.compile(
        r"\b(?:total|sum|altogether|combined|average|mean of|ratio|percent(?:age)?|number of|amount of|at least"
        r"|at most"
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

_MATH = (
    r"\ufffc|[a-z\d)]\s?[=+*/^<>≤≥×÷±]\s?[a-z\d(\-√]|[a-z\d]\s?-\s?[a-z\d(]|[△∠⊥∥√∫∑π]|三角形|四边形|矩形|正方形"
    r"|平行四边|梯形|阴影"
    r"|方程|函数|导数|向量|概率|面积|体积|周长|中线|垂直|平行|半径|直径|弧长|电阻|电流|电压|加速度|摩尔|整除|正整数"
    r"|定理|公式|不等式|恒等|最大值|最小值"
)
_ZH_ASKS = r"谁|誰|什么|什麼|甚么|哪|多少|几|幾|吗|嗎|呢|怎|何|[？?]|$"
_ZH_PLACE = (
    r"(?:[左右前后後上下旁](?:边|邊|面|侧|側|方)|中间|中間|之间|之間|对面|對面|附近|周围|周圍"
    r"|里面|裡面|外面|身后|身後|背后|背後)"
)
# Who or what one names by its tie to something else: asking on from there is a second step.
_ZH_TIE = (
    r"(?:作者|作家|导演|編劇|编剧|主演|演员|主角|歌手|创始人|创办人|创立者|发明人|发明者|建造者|设计者|设计师"
    r"|发现者|提出者"
    r"|董事长|总裁|校长|总统|首相|国王|皇帝|市长|祖父|儿女|子女|情人|女友|男友|队友|母公司|子公司|出版社|母校|国籍"
    r"|首都|省份"
    r"|故乡|出生地|代表作品?|专辑|乐队|球队|教练|原唱|运动员|那个人|(?<![中里上片面])的人(?![数數物员員口生类類])"
    r"|之父|之母"
    # Everyday words are a tie only behind a 的: 导演的妻子, not 我妈妈 or 公司门口.
    r"|(?<=的)(?:父亲|母亲|父母|爸爸|妈妈|爷爷|儿子|女儿|孩子|妻子|丈夫|老婆|老公|哥哥|弟弟|姐姐|妹妹|兄弟|姐妹"
    r"|老板|同行|对手|老师"
    r"|学生|家族|公司|学校|大学|国家|城市|地区|家乡|作品))"
)
ZH_CUES: Final[dict[str, str]] = {
    # The second and later 的 that ties two things; none that closes the sentence ("是红色的吗"), that a copula and the
    # question word follow, or that ends an adjective.
    "reference_chain": (
        r"的(?<![色大小高矮长短新旧白黑红蓝绿黄灰做制我你您]的)(?![吗嗎呢吧？?，,。、]|话|时候|[是有]?(?:"
        + _ZH_ASKS
        + r")|$)"
        r"|之(?=[父母子女妻夫首都一])"
    ),
    # ... with more behind it than "是谁": 书的作者 | 出生在哪里
    "bridge": (
        _ZH_TIE + r"(?!(?:们|們)?(?:现在|目前|分别|一般|主要|都|又|究竟|到底)?"
        r"(?:是|为|叫|有|在|姓|：|:|，)?(?:指|做|作|个|一个)?(?:"
        + _ZH_ASKS
        + r"))(?!的?(?:名字|名称|姓名)?(?:是|叫|有)(?:"
        + _ZH_ASKS
        + r"))(?=[^，,。？?]{2})"
    ),
    # A place that narrows something down ("左边的人"), not a place that is asked about ("在左边吗", "左边还是右边"), a
    # place in a text ("下面这段话"), or what is written on something ("发票上的日期").
    "relation": (
        _ZH_PLACE
        + r"(?!的?(?:吗|嗎|呢|还是|還是|或|[？?，,。]|$))(?!的?(?:这|那|一)*(?:段|句|行|篇|字|文|内容|问题|小字|表))"
        r"(?<!还是在.{3})(?<!还是.{2})"
        r"|(?<=[^在以之从图圖片面像照哪这那票单证书表告盒幕牌页纸板键信卡网条签标头瓶袋册本历手])[前后上下里旁](?=[有是站坐躺的](?!什么"
        r"|谁|哪|吗))"
        r"|(?:离|靠近|挨着|紧挨).{1,8}(?:最近|的)"
    ),
    "relative_clause": (
        r"(?:[穿戴拿坐站骑騎牵牽抱背玩吃喝拥擁含属屬由被念建帶位处演開靠]|(?<![没不])[看在是用做带写开](?!一下|什么"
        r"|了|不)|(?<![没不])有(?!的))"
        r"(?:着|著|于|在|有)?(?:[^的，,。？?什么麼几幾多谁誰哪]{1,12}|(?<=[穿戴拿坐站骑牵抱背念建演]))"
        r"的(?=[^\W\d_])(?![吗嗎呢吧是有]|什么|啥|话|时候)|[念演建住开]的那|写的(?=[书歌诗小文剧那])"
        r"|所[^\W有以属在示]{1,3}的?"
    ),
    "comparison": (
        r"比(?![赛賽例如重方喻特基亚萨分率]|较)|相比|较(?![好大])|(?<![得要])更(?![新改换衣正])"
        r"|最(?![近后後初终終新早迟多少上下左右前底顶中]|好(?:能|是|不|别|的)?$)|最[多少早新](?=的)|最近的"
        r"|比较(?=[^,]{0,8}(?:[和与跟]|这|那|两|几|各|左|图|一下|不同|它))|比較|对比|對比"
        r"|相同|是否一样|一[样樣](?![的])|同[样樣]|不同|差异|差異|差别|差別|区别|區別|相似|多于|多於|少于|[^不]超过"
        r"|超過"
        r"|高于|低于|大于|小于|(?<=[\d一二三四五六七八九十百千万年月岁分元个])[以]?[上下](?=的)|不少于"
        r"|哪一?[个個只张張](?:更|比较)|共同|同一|矛盾|冲突|划算|够不够|来得及"
    ),
    # A还是B is no part of it: choosing between two values is one look. Nor is a list of things to read off.
    "conjunction": (
        r"[和与與及或且並](?![^,和与的]{1,8}(?:各自?|分别|都)*(?:是|为|叫|有)(?:多少|什么|谁|几|啥))|(?<=的)、"
        r"|[,、](?=(?:是|又|也|很)?[^,、什谁哪真对行可好]{1,5}的吗?$)|并(?!不|非|没)|以及|同时(?!间)|同時|既|又"
        r"|都(?=[是有在不能会]|没)|也(?=[是有在不能会]|没)|除了|除(?=以)|(?<![然反从进])而(?!且)|但|分[别別](?!代表"
        r"|是|叫|表示|指|有|在|写)"
        r"|另(?=一|外一)|不(?=[是在]?[^\W要会能知]{1,6}的)|非(?!常|洲)"
    ),
    "sequence": (
        r"先(?!生|前|进)|然后|然後|接着|接著|再(?!见|次)|之后(?!每|的)|之後|之前|以前|依次|首先|其次|最后(?=[^一]"
        r"|一步)|最後|第[一二三四五六七八九\d](?![名排个页行列层栏格条项段家位])"
    ),
    "quantity": (
        r"总共|總共|总和|總和|平均|百分|比例|占比|比率|相差|差多少|差了|倍|打折|[一二三四五六七八九\d]折|平摊"
        r"|加起来|一共(?=.{0,6}[要得多])|大几|高多少|贵多少|[每各](?!.{0,4}(?:多少|几)|位|项|式|自)"
        r"|所有(?!的?(?:文字|字|内容|信息|题))"
        r"|至少|至多|最[多少]要|最短|预算|(?<![a-z\d.第-])\d+(?![a-z\d年月日号號点-]|字)|[%+*/=<>×÷]"
    ),
    "reasoning": (
        r"为什么|為什麼|为啥|为何|為何|原因|理由|原理|解释(?!一?下?(?:这|该|成语|词|[\ufffcx])|$)|解釋|推断|推斷"
        r"|推理|推测|推測|推导|推算|计算|計算|算一?[下算出]|求(?!助|救|购|职|教|推荐|问|帮|答|大神)|解题|解答|解决"
        r"|解決|(?<![份入产历作业断])证明(?![信书件材文函])|證明|验算"
        r"|步骤|步驟|过程|過程|思路|(?<!使用)(?<!食用)(?<!服用)方法|分析|预测|預測|如果(?!有的话)|假如|假设|若"
        r"|根据(?!.{0,4}(?:图片|照片|图像|截图|图中))|根據|依据|按照?(?=.{0,10}(?:表|图|价|步骤|规律|顺序))|判断"
        r"|判斷|正确答案|的答案|答案[是为选]"
        r"|[这本该此]一?道?题|題|题目(?![是为叫]什么|内容|[和与、及])|选项|选[啥谁哪几项]|选什么|怎么[解做走算]|咋[做解]|规律"
        r"|排[名序列]|策划|创作|創作|撰写|编写|设计|规划|写一?[篇份部则]|广告|演讲|推广|文章(?!的?(?:标题|题目|名[字称]|作者|主题|出处|来源))|故事|方案|创建|评价"
        r"|影响|趋势|关系|關係|逻辑|應該|应该(?!点|按|念|读)|优化|改进|能否推|结论|说明.{0,6}(?:原因|理由|过程"
        r"|影响)|列方程|方程"
    ),
    "further_question": (r"\n(?=.{0,40}[\u4e00-\u9fff])"),
}
# Working something out beside a formula or a figure is more than reading it.
_ZH_PROBLEM: Final = (
    r"(求|证明|计算|算出?|解|化简|推导|验算|展开|因式分解|积分|求导)(?=.{0,80}(?:" + _MATH + r"))"
    r"|(?:" + _MATH + r").{0,80}?(求|证明|计算|化简|推导)"
)
# Courtesy makes a question longer, not harder; so do the small words of the language.
_ZH_COURTESY = re.compile(
    r"请问|請問|麻烦你?|你知道|谁能告诉我|谁知道|我想知道|能不能|可以|请你?帮我|帮我|一下|呀|来着|吗|呢|啊|请"
)
# One piece of work, however long the sentence that asks for it: read out, extract, translate, polish, describe, title.
_ZH_WORK = re.compile(
    r"(?:再|然后|先|全部|详细|完整|逐字|准确|简[要单])*(?:"
    r"(?:(?:把|将|给|为|用|按|从|对|在|以|就|请)[^,]{0,40}?)?(?:翻译|翻成|译[成为]|总结|概括|归纳|摘要|润色|改写"
    r"|改[成为得]|转[成为换写]|提取|抽取|识别|读出|读一[读遍]|念[出一]|认一?下|认出|描述"
    r"|列[出举]|写出来|打成|抄[写下]|整理成|检查|校对|纠正|纠错|续写|缩写|扩写|仿写|造个?句|朗读|简述|概述|标[出注]"
    r"|输出|返回|变成|换成|找出|圈出|配[上一个句]|取[个一]|起[个一]|写(?:一?[个句段首封条]))"
    r"|写(?:一?[个句段首封条])|数一?[数下]|介绍|讲[讲述一])"
)
_ZH_NO_WORK = re.compile(
    r"比较|对比|区别|不同|差异|为什么|为何|原因|理由|计算|分析|推断|推理|预测|证明|先.{1,20}[再然]"
    r"|并(?=[^且,]{1,10})|矛盾|高于|低于|(?<!不)超过|最|排[序列]|占"
)
_ZH_BORDER = re.compile(r"([,;:。?!\n]+)")
# A、B、C和D: one list.
_ZH_LIST = re.compile(
    r"[^\s,。?:、的是有把和与]{1,10}(?:、[^\s,。?、的是有和与]{1,12})+(?:(?:和|与|及|以及|或"
    r"|还有)[^\s,。?、的]{1,10})?"
)
_ZH_LIST_BORDER = re.compile(r"、|和|与|及|或|还有")
_ZH_ENDS = re.compile(r"[?。.!;,\s]+(?=\n|$)")
# A name is one reference, however long: titles and quotes in Chinese, runs of capitalised words in English.
_ZH_NAME = re.compile(r"《[^《》]{1,60}》|“[^“”]{1,60}”|\"[^\"]{1,60}\"|「[^「」]{1,60}」|[（(][^（）()]{1,60}[）)]")
_EN_NAME = re.compile(
    r"(?<=[^.?!\s] )(?:[A-Z][\w.'\u2019-]{0,30})(?: (?:(?:of|the|de|von|and|&) )?[A-Z0-9][\w.'\u2019-]{0,30}){1,8}"
)
# --- Where to look for them -------------------------------------------------------------------------------------------
# The characters with which a match can begin; a test reads them off the patterns.
ZH_STARTS: Final = {
    "bridge": (
        "丈专主之乐代作儿兄公出创原发同哥国地城大女妈妹妻姐子学孩家对导市建弟总情提故教校歌母演父爷爸球男的皇省祖"
        "編编老董设运那队首"
    ),
    "relation": "上下中之前右后周外对對左後挨旁离紧背裡身里附靠",
    "relative_clause": "位住做写吃含喝在坐处属屬带帶建开念戴所抱拥拿擁是有演牵牽玩用由看穿站背被開靠騎骑",
    "comparison": "一上下不以低共冲划区區同哪多够大对對小少差是更最来比相矛超较高",
    "conjunction": ",、不与且並也以但分又及另同和并或既而與都除非",
    "sequence": "之以依先其再接最然第首",
    "quantity": "%*+/<=>×÷一七三九二五倍八六加占各四大差平总所打最每比百相總至贵预高",
    "reasoning": (
        "为优依假关写分列创判創原咋如广应影怎思應按排推撰改故文方本根正此步求演為理的答策算结编能若规解計證计设证"
        "评该说趋过这选逻過關預題预题验"
    ),
}
PROBLEM_STARTS: Final = (
    ")abcdefghijklmnopqrstuvwxyzπ∑√∠∥∫⊥△三不中体公函加化半向周四因垂定导展"
    "平弧恒推摩整方最梯概正求电直矩积算解计证阴面验"
    "\ufffc"
)
WORK_STARTS: Final = frozenset(
    "为介从以仿先全再写准列取变圈在完对将就归念总打扩找抄把抽按换描提摘改数整朗标校检概润然用简纠给续缩翻认讲识译详请读起转输返逐造配"
)
_DIGIT: Final = {"quantity": r"\d"}
# Counted in one clause at a time: facts are chained inside a clause, not over a list of remarks. Each clause stands
# on a line of its own; what a pattern may pass over ends with the line.
_ZH_CHAIN_CUES: Final = ("reference_chain", "bridge", "relation", "relative_clause")
_ZH_CHAINS: Final = {
    name: Finder(ZH_CUES[name].replace("[^", r"[^\n"), ZH_STARTS[name], flags=re.MULTILINE)
    for name in _ZH_CHAIN_CUES[1:]
}
_ZH_REFERENCE: Final = re.compile(ZH_CUES["reference_chain"].replace("[^", r"[^\n"), re.MULTILINE)
# Any character may stand before 超过; without that word the pattern is tried without it.
_EXCEEDS: Final = "超过"
_ZH_STEPS: Final = {
    name: Finder(pattern.replace("|[^不]超过", ""), ZH_STARTS[name], _DIGIT.get(name, ""))
    for name, pattern in ZH_CUES.items()
    if name in ZH_STARTS and name not in _ZH_CHAIN_CUES
}
_ZH_COMPARISON: Final = re.compile(ZH_CUES["comparison"])
_ZH_FURTHER: Final = re.compile(ZH_CUES["further_question"])
_ZH_PROBLEMS: Final = Finder(_ZH_PROBLEM, PROBLEM_STARTS, r"\d", re.DOTALL)
# Without one of these words nothing is to be worked out.
_ZH_TASK: Final = re.compile("求|证明|计算|算|解|化简|推导|验算|展开|因式分解|积分")

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
    "problem": "解题",
    "further_question": "追加提问",
}
_LABELS: Final = {name: name.replace("_", " ") for name in _NAMES_ZH}
_LABELS_ZH: Final = {_LABELS[name]: zh for name, zh in _NAMES_ZH.items()}


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


def score(text: str, language: Language) -> float:
    """Score one text; see `examine`.

    Args:
        text: any string.
        language: what `policies.language.detect` says of it.
    """
    return examine(text, language).score


def examine(text: str, language: Language, weights: WeightsSet | None = None) -> Complexity:
    """Score how many facts a question chains, from its wording alone.

    Args:
        text: any string.
        language: zh and en are scored. Other languages and text without any are 0: no cue list speaks for them.
        weights: what the words weigh; None for those in use.
    """
    if language not in ("zh", "en"):
        return Complexity(0.0, ())
    scored: Scored = language
    of_language = (weights or current())[scored]
    num_words, cues = find_cues(text, scored)
    if not num_words:
        return Complexity(0.0, ())
    total = of_language.bias + of_language.length * math.log(min(num_words, MAX_WORDS[scored]))
    raised = 0.0
    shown = []
    for name, found in cues.items():
        if found:
            weight, cap = of_language.cues[name]
            raised += weight * min(len(found), cap)
            shown.append(_show(name, found))
    total += raised
    # Never quite 1: at the latency end of the dial, where the threshold is 1, no wording is a job.
    return Complexity(min(0.9999, round(1 / (1 + math.exp(-total)), 4)), tuple(shown[:_MAX_CUES_SHOWN]))


def find_cues(text: str, language: Scored) -> tuple[float, dict[str, list[str]]]:
    """Read off a text what is weighed: its length and, per cue, the words found.

    Args:
        text: any string.
        language: whose cue list is used.

    Returns:
        The number of words (a name counts as one, courtesies as none, a Chinese word is 1.7 characters), and the cues.
    """
    request = find_request(text).text
    cleaned = strip_non_language(request).strip()[: _MAX_CHARS[language]]
    if language == "zh":
        return _find_zh(cleaned, request[: _MAX_CHARS["zh"]].lower())
    return float(len(_EN_WORD.findall(_EN_NAME.sub("x", cleaned)))), _find(_EN_CUES, cleaned.lower())


def _find_zh(cleaned: str, request: str) -> tuple[float, dict[str, list[str]]]:
    """Length and chains are those of the clause that has most of them; steps add up over the request."""
    searched = _ZH_ENDS.sub("", _ZH_NAME.sub("x", cleaned).lower())
    parts = _ZH_BORDER.split(searched)  # clauses, and between them what parts them
    told = []
    for index in range(0, len(parts), 2):
        clause = parts[index]
        if _is_one_work(clause):
            # The one piece of work: what it lists and where it is found are no steps.
            parts[index] = "x"
            continue
        if "、" in clause:
            # A list outside of such work is one joint condition, however long.
            parts[index] = _ZH_LIST.sub(lambda found: _to_condition(found.group(), clause), clause)  # noqa: B023
        told.append(parts[index])
    lines, steps = "\n".join(told), "".join(parts)
    found = _find_chains(lines)
    for name, finder in _ZH_STEPS.items():
        found[name] = [word.strip() for word in finder.findall(steps)]
    if _EXCEEDS in steps:
        found["comparison"] = _find_all(_ZH_COMPARISON, steps)
    found["further_question"] = _find_all(_ZH_FURTHER, steps)
    problem = _ZH_PROBLEMS.search(request) if _ZH_TASK.search(request) else None
    worked = find_calculation(request) if problem is None else problem[2] or problem[3]
    found["problem"] = [worked] if worked else []
    return _count_zh_words(lines) or float(bool(searched)), found


def _is_one_work(clause: str) -> bool:
    return clause[:1] in WORK_STARTS and _ZH_WORK.match(clause) is not None and not _ZH_NO_WORK.search(clause)


def _find_chains(lines: str) -> dict[str, list[str]]:
    """Find the cues of a chain in the clause, one a line, that has most of each."""
    spans = {name: finder.spans(lines) for name, finder in _ZH_CHAINS.items()}
    if spans["bridge"] and spans["relative_clause"]:
        # Who is shown by what they wear or do is one step: 穿校服的孩子 is no one's child.
        shown_by = {end for _, end in spans["relative_clause"]}
        spans["bridge"] = [
            (start, end) for start, end in spans["bridge"] if start + lines.startswith("的", start) not in shown_by
        ]
    # How many there are says something, which words say it does not.
    references = [(match.end(), match.end()) for match in _ZH_REFERENCE.finditer(lines)]
    found = {"reference_chain": _of_fullest(references, lines, skipped=1)}
    for name in _ZH_CHAIN_CUES[1:]:
        found[name] = _of_fullest(spans[name], lines)
    return found


def _of_fullest(spans: list[tuple[int, int]], lines: str, skipped: int = 0) -> list[str]:
    """Return what was found in the first line that holds most, but for the first so many of it."""
    fullest: list[str] = []
    words: list[str] = []
    num_passed, line_end = 0, -1
    for start, end in spans:
        if start > line_end:
            num_passed, words = 0, []
            line_end = lines.find("\n", start)
            if line_end < 0:
                line_end = len(lines)
        num_passed += 1
        if num_passed > skipped:
            words.append(lines[start:end].strip())
        if len(words) > len(fullest):
            fullest = words
    return fullest


def _to_condition(listed: str, clause: str) -> str:
    """Write a list as what it asks: "which ... A, B and C" has to hold for each of them."""
    is_joint = "哪" in clause and len(_ZH_LIST_BORDER.findall(listed)) > 1
    return "x和x和x" if is_joint else "x和x"


def _count_zh_words(lines: str) -> float:
    """Count the words of the clause, one a line, that has most of them."""
    spoken = _ZH_COURTESY.sub("", lines).split("\n")
    if _EN_WORD.search(lines):
        return max(
            len(_EN_WORD.findall(clause)) + len(_HAN.findall(rest)) / _CHARS_PER_ZH_WORD
            for clause, rest in zip(lines.split("\n"), spoken, strict=True)
        )
    most = 0
    for clause in sorted(spoken, key=len, reverse=True):
        if len(clause) <= most:
            break
        most = max(most, len(_HAN.findall(clause)))
    return most / _CHARS_PER_ZH_WORD


def _find(cues: dict[str, re.Pattern[str]], text: str) -> dict[str, list[str]]:
    return {name: _find_all(pattern, text) for name, pattern in cues.items()}


def _find_all(pattern: re.Pattern[str], text: str) -> list[str]:
    return [match.group().strip() for match in pattern.finditer(text)]


def _show(name: str, found: list[str]) -> str:
    shown = list(dict.fromkeys(word[:16] for word in found if word))[:3]
    label = _LABELS[name]
    return f"{label}: {', '.join(shown)}" if shown else f"{label} x{len(found)}"


def to_chinese(cue: str) -> str:
    """Return one of `Complexity.cues` with its name in Chinese; the words that were found stay as they are."""
    label, colon, words = cue.partition(":")
    if label in _LABELS_ZH:
        return _LABELS_ZH[label] + colon + words
    return next((zh + cue.removeprefix(label) for label, zh in _LABELS_ZH.items() if cue.startswith(label)), cue)
