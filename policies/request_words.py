"""The words and shapes by which `policies.request` knows courtesy, wishes about form, frames, and what is no prose.

In: nothing. Out: compiled patterns, for text whose width variants are folded (so that a Chinese comma is an ASCII one).
They are slots that combine (who is addressed, a greeting, thanks, a hurry), not a list of whole sentences.
"""

import re
from typing import Final

_I: Final = re.IGNORECASE
_HAN_CLASS: Final = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
HAN: Final = re.compile(f"[{_HAN_CLASS}]")
LATIN_WORD: Final = re.compile(r"[A-Za-z\u00c0-\u024f]+(?:['\u2019-][A-Za-z\u00c0-\u024f]+)*")
LETTER: Final = re.compile(r"[^\W\d_]")
_EMOJI_CLASS: Final = r"[\U0001f000-\U0001faff\u2600-\u27bf\ufe0f\u200d\U000e0020-\U000e007f]"
EMOJI: Final = re.compile(f"{_EMOJI_CLASS}{_EMOJI_CLASS}*")
# What may stand around a clause and means nothing.
EDGE: Final = " \t\n,.。!?;:、~…()[]【】-—_*\"'“”·^"

# --- What has marks around it -----------------------------------------------------------------------------------------
FENCED: Final = re.compile(r"(```|~~~).*?(?:\1)|^[ \t]*(?:```|~~~)[\w+-]*[ \t]*\n.*\Z", re.DOTALL | re.MULTILINE)
INLINE_CODE: Final = re.compile(r"`[^`\n]{1,300}`")
FORMULA_BLOCK: Final = re.compile(
    r"\$\$.{1,400}?\$\$|\$(?=[^$\n]{0,80}[\\^_=+])[^$\n]{1,200}\$"
    r"|\\begin\{\w{1,20}\*?\}.{1,800}?\\end\{\w{1,20}\*?\}|\\\[.{1,400}?\\\]|\\\(.{1,400}?\\\)",
    re.DOTALL,
)
MARKUP_BLOCK: Final = re.compile(r"<([A-Za-z][\w-]{0,20})\b[^<>\n]{0,200}>.{0,800}?</\1>", re.DOTALL)
JSON_BLOCK: Final = re.compile(
    r"\{\s*[\"'][^{}]{0,800}(?:\{[^{}]{0,400}(?:\{[^{}]{0,200}(?:\{[^{}]{0,200}\}[^{}]{0,200}){0,8}\}[^{}]{0,200}){0,8}\}"
    r"[^{}]{0,400}){0,8}\}"
)
QUOTE: Final = re.compile(r"[\"“「『«]")
LONG_QUOTATION: Final = re.compile(
    r"\"[^\"\n]{25,400}\"|“[^”\n]{15,400}”|「[^」\n]{15,400}」|『[^』\n]{15,400}』|«[^»\n]{25,400}»"
)

# --- What stands around a whole turn ----------------------------------------------------------------------------------
# Marks that a model's own template puts around a turn.
TURN_MARK: Final = re.compile(
    r"(?:<s>\s*)?\[/?INST\](?:\s*</s>)?|<</?SYS>>|<\|\w{1,20}\|>(?:[ \t]*(?:user|assistant|system)[ \t]*(?:\n|$))?", _I
)
# No power and no product: those have letters or digits beside the stars.
EMPHASIS: Final = re.compile(r"(?<![A-Za-z\d*~])(\*{1,3}|~~)(?=[^\s*~])([^*~\n]{1,400})(?<=\S)\1(?![A-Za-z\d*~])")
WHOLE_UNDERLINED: Final = re.compile(r"(_{1,3})(?=\S)([^\n]*[^\s_])\1")
HEADING: Final = re.compile(r"#{1,6}[ \t]+([^\n]*)")
# A quotation that is the whole turn is the request.
WHOLE_QUOTATION: Final = re.compile(
    r"\"([^\"]+)\"|'([^']+)'|“([^“”]+)”|‘([^‘’]+)’|「([^「」]+)」|『([^『』]+)』|«([^«»]+)»|《([^《》]+)》|【([^【】]+)】"
)
_TAG_WORD: Final = (
    r"(?:(?:紧|加|特|十万火|非常|很|着|求)?急+(?:件|用|需|求|问|!)*|求助|求救|求解答?|求教|求问|提问|问题|疑问|请教|咨询"
    r"|在线等|重要|新手(?:提问|求助)?|小白(?:提问|求助)?|每日一问|每日提问|question|help|urgent)"
)
TAG: Final = re.compile(rf"(?:【{_TAG_WORD}】|\[{_TAG_WORD}\]|\({_TAG_WORD}\)|#{_TAG_WORD}(?:#|(?=\s)))[ \t,:!]*", _I)
TAG_AT_END: Final = re.compile(rf"(?:【{_TAG_WORD}】|\[{_TAG_WORD}\]|#{_TAG_WORD}#?)\s*$", _I)
# On a line of its own "@name" may be code, unless the name is Chinese.
MENTION: Final = re.compile(rf"@(?:[\w·-]{{1,20}}[ \t,:]+|[\w·-]{{0,20}}[{_HAN_CLASS}]\s+)(?=\S)")
_DEVICE: Final = r"(?:手机|客户端|平板|电脑|邮箱|iphone|ipad|android|小米|华为|荣耀|微信|qq|网页版|app)"
TAG_MARK: Final = re.compile(r"[【\[#]")  # with which it begins
SENT_FROM: Final = re.compile(
    r"(?:\n[ \t]*[—–―─-]{0,6}|(?<![—–―─-])[—–―─-]{2,6})[ \t]*(?:(?:发送自|发自)[^\n?。]{1,24}"
    rf"|(?:本邮件|本消息)?来自(?:我的)?[^\n?。]{{0,14}}{_DEVICE}[^\n?。]{{0,8}}"
    r"|sent (?:from|via|with) [^\n?]{1,30}|get outlook for \w+)[。.\s]*$",
    _I,
)
SENDER_MARK: Final = re.compile(r"[\n—–―─-]")  # likewise
LETTER_END: Final = re.compile(
    r"\n[ \t]*(?:此致[\s,]*敬礼|此致|敬礼|祝好|(?:顺|即|敬|谨)[颂祝请候]\w{2,4})[ \t]*[!。,.~]*"
    r"(?:\s*\n[ \t]*(?P<name>[^\n?。!:]{1,12}))?"
    r"(?:\s*\n[ \t]*(?:\d{4}[-./年])?\d{1,2}[-./月]\d{1,2}日?)?\s*$"
)

# --- Lines that are not speech ----------------------------------------------------------------------------------------
QUOTED_LINE: Final = re.compile(r">\s*\S")
RULE_LINE: Final = re.compile(r"[-=*_#~+\s]{3,}")
LOG_LINE: Final = re.compile(
    r"\[?\d{4}[-/]\d{1,2}[-/]\d{1,2}[T ]\d{1,2}:\d{2}|\[?\d{1,2}:\d{2}:\d{2}[.,\]\s]"
    r"|(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\s+\d{1,2} \d{2}:\d{2}"
    r"|\d{1,3}(?:\.\d{1,3}){3}\b|\[?(?:ERROR|WARN(?:ING)?|INFO|DEBUG|FATAL|TRACE|CRITICAL)\b"
    r"|Traceback \(|File \"|at [\w.$<>]+\(|Caused by:|[\w.]*(?:Error|Exception|Warning): |\.\.\. \d+ more|npm ERR!"
)
TABLE_LINE: Final = re.compile(r"\|.*\|$|[^\t]*\t[^\t]*\t|[+|][-=+|]+$")
CELL_BORDER: Final = re.compile(r"\s*[,;\t|、]\s*|\s{2,}")
CELL_TEXT: Final = re.compile(f"[{_HAN_CLASS}]|\\d")
SENTENCE_END: Final = re.compile(r"[。?!]|\.(?:\s|$)")
CODE_LINE: Final = re.compile(
    r"^(?:(?:async )?def \w+|class \w+\s*[:({]|import [\w.{]+;?$|import [\w.,{} *]+ from|from [\w.]+ import"
    r"|(?:const|let|var)\s+\w+\s*="
    r"|(?:async )?function\b.*\(|(?:public|private|protected|static|final)\s+\w+|#include|using [\w.]+;"
    r"|package [\w.]+;|namespace \w+"
    r"|(?:fn|func) \w+\(|(?:if|for|while|switch|catch|elif) ?\(|\}?\s*else\s*[:{]|try\s*[:{]|except\b.*:|print\("
    r"|console\.|>>> |\$ \w"
    r"|(?:sudo|pip3?|npm|git|docker|kubectl|curl|apt(?:-get)?) (?:-|install|run|commit|push|pull|clone|get|exec|ps"
    r"|build|http)"
    r"|//|/\*|\*/|@\w+\(|</?[A-Za-z][^<>]*>"
    r"|(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|FROM|WHERE|GROUP BY|ORDER BY|(?:LEFT |RIGHT "
    r"|INNER )?JOIN|VALUES|LIMIT"
    r"|HAVING|UNION)\b|select\b.+\bfrom\b|insert into\b|update \w+ set\b|delete from\b|create table\b|alter table\b)"
    r"|[;{}]$|^[}\])]+[;,]?$|^[\"']?[\w.-]+[\"']?\s*[:=]\s*[\"'{\[]|^[\w.]+ = \S|=>|==|!=|&&|\|\|"
    r"|^[\w.]+\(.*\)[:;]?$|^for \w+ in .+:$"
    r"|^(?:if|while|with) .+:$|^[\w-]+: [\w./-]+$"
)
# Comments and strings in code may be Chinese.
NOT_PROSE_HAN: Final = re.compile(r"(?:#|//|--|/\*).*$|\"[^\"]{0,200}\"|'[^']{0,200}'")
FORMULA_LINE: Final = re.compile(
    r"(?=.*[=+*/^<>≤≥])(?:[\W\d_]|(?<![A-Za-z])[A-Za-z]{1,2}(?![A-Za-z])|sin|cos|tan|log|ln|lim|sqrt|frac|max|min)+"
)
MAIL_HEADER: Final = re.compile(
    r"(?:From|To|Cc|Bcc|Subject|Date|Sent|Reply-To|发件人|收件人|抄送|主题|日期|发送时间)\s*:\s*\S", _I
)
MAIL_SALUTATION: Final = re.compile(r"(?:Dear|Hi|Hello) [A-Z][\w. ]{0,30},?$|尊敬的.{1,20}[:,]$")
MAIL_CLOSING: Final = re.compile(
    r"^(?:Best(?: regards| wishes)?|(?:Kind|Warm) regards|Regards|Sincerely|Yours(?: \w+)?|Cheers|Many thanks|此致"
    r"|敬礼|祝好|顺颂\w{2,4})"
    r"[,.!]?$",
    re.MULTILINE,
)

# --- Frames -----------------------------------------------------------------------------------------------------------
QUESTION_LABEL: Final = re.compile(
    r"(?:^|\n)[^\S\n]*(?:(?:the |user(?:'s)? |my |current |new )?(?:question|query|user|human|input|q)"
    r"|(?:用户|我|当前)?的?(?:问题|提问|输入)|用户|问)[^\S\n]*:[^\S\n]*",
    _I,
)
ANSWER_LABEL: Final = re.compile(
    r"\n[^\S\n]*(?:(?:(?:helpful|final|your|short) )?(?:answer|response|output)|ai|assistant|bot|a|thought|答案"
    r"|回答|答|助手|输出)[^\S\n]*:",
    _I,
)

# --- Sentences and clauses --------------------------------------------------------------------------------------------
SENTENCE: Final = re.compile(r"(?<=[!?。;])(?![!?。;)\"”」])|(?<=[A-Za-z)\]\"][.])\s+|(?<=\.\.\.)\s*")
CLAUSE: Final = re.compile(rf"[,;:!?~。()【】]+|\s+(?=[{_HAN_CLASS}])|(?<=[{_HAN_CLASS}])\s+")
_ZH_IMPERATIVE: Final = (
    r"(?:请|麻烦|拜托|帮|替我|告诉|翻译|译成|总结|概括|归纳|描述|介绍|解释|说明|说说|讲讲|讲述|阐述|分析|比较|对比"
    r"|提取|抽取|识别|辨认"
    r"|列出|列举|写[出一个段篇首封]?|读出|念|找出?|数[一出数]|统计|计算|算|求|证明|解[方不出]|判断|推断|推测|预测"
    r"|推荐|润色|改写|改成|修改|修正|纠正"
    r"|检查|校对|生成|设计|制定|规划|创作|编写|撰写|给(?:这|我|出|它|图|照|以下|下面|上面)|把|将(?:这|以下|下|上|图"
    r"|文|表|该|其|它|此)|用.{1,8}(?:写|说|回答|描述)"
    r"|根据|依据|结合|按照|看图|回答|填[写空]|选[出择]|续写|扩写|缩写|仿写|标出|指出|评价|说出|认[一出]|查[一出找]"
    r"|确认|估[计算]|排[列出]|整理|简述|概述|朗读|推导|化简)"
)
ZH_STARTS: Final = re.compile(
    rf"(?:那|再|然后|接着|最后|并且?|先|首先|同时|另外|你|您|能否|可以|能不能|我(?:想|要|需要)|试着"
    rf"|分别|依次|逐[一个]|详细|简要|简单|尽量|认真|仔细|准确)*{_ZH_IMPERATIVE}"
)
ZH_INTERROGATIVE: Final = re.compile(
    r"什么|甚么|什麼|啥|谁|誰|哪|多少|怎|咋|如何|为何|是否|有没有|是不是|会不会"
    r"|几[个個只隻张張条條岁点點种位次号層层页本]|吗(?:[?!]|$)|嗎(?:[?!]|$)|么(?:[?!]|$)|呢\??$"
)


# A problem tells what is given first and its task last: "已知AB=AC,求证:" and then a formula.
_ZH_TASK_COLON: Final = re.compile(r"(?:求证?|证明|计算|化简|解答?|解方程组?|解不等式组?|问)\s*:$")


def surely_asks_in_chinese(text: str) -> bool:
    """Whether a sentence ends as a question or with a task, or begins as a request."""
    if text.endswith("?") or ZH_STARTS.match(text) is not None:
        return True
    return text.endswith(":") and _ZH_TASK_COLON.search(text) is not None


def may_ask_in_chinese(text: str) -> bool:
    """Whether a sentence holds a question word; in a long one it may be part of a story."""
    return len(text) <= 60 and ZH_INTERROGATIVE.search(text) is not None


def asks_in_chinese(text: str) -> bool:
    """Whether a sentence asks or asks for something."""
    return surely_asks_in_chinese(text) or may_ask_in_chinese(text)


_EN_STARTS: Final = re.compile(
    r"(?:(?:please|kindly|can you|could you|would you|will you|then|and|also|now|just|so|first|finally|next)[ ,]+)*"
    r"(?:what|how|why|who|whose|where|which|when|is|are|was|were|does|did|do (?:you|the|they|we|i|these|those)"
    r"|can (?:you|i|we)|could|would"
    r"|translate|summari[sz]e|describe|explain|compare|count|list|find|name|identify|tell|give|show|write|read"
    r"|extract|convert|rewrite"
    r"|rephrase|paraphrase|polish|proofread|correct|fix|analy[sz]e|calculate|compute|solve|prove|estimate|classify"
    r"|suggest|recommend"
    r"|create|generate|make|draw|look|select|choose|pick|determine|predict|point|locate|transcribe|caption|answer"
    r"|return|provide|state"
    r"|evaluate|review|check|debug|help|let me know|i (?:want|need|would like|wonder)|i'd like)\b",
    _I,
)


def asks_in_latin(text: str) -> bool:
    """Whether a sentence without Chinese asks or asks for something."""
    return text.endswith("?") or _EN_STARTS.match(text) is not None


_ZH_WORK_ON_TEXT: Final = (
    r"(?:翻译|翻成|译成|译为|总结|概括|归纳|摘要|润色|改写|改成|改为|修改|转换|转成|转为|提取|抽取|续写|扩写|缩写"
    r"|仿写|纠错|校对|检查|朗读|精简|缩短|整理"
    r"|繁体|简体|错别字|语病|解释|回复|评价|分析)"
)
_ZH_TEXT_NOUN: Final = (
    r"(?:段|句|篇|封|首|条|份|行|话|文|内容|代码|日志|报错|邮件|新闻|数据|材料|对话|句子|段落|文本|信息|表|诗|短信"
    r"|评论|sql|log|json)"
)
ZH_POINTS: Final = (
    rf"(?:下面|以下|如下|下列|上面|以上|上述|前面|后面)(?:的|这|那|一)*{_ZH_TEXT_NOUN}|(?:这|那|此|该)(?:一|几"
    rf"|些)?{_ZH_TEXT_NOUN}(?!片|图|书)"
    rf"|{_ZH_WORK_ON_TEXT}.{{0,12}}(?:下面|以下|如下|下列|上面|以上|上述)"
    rf"|^(?:请|帮我?|麻烦|把|将|用.{{1,6}})*{_ZH_WORK_ON_TEXT}(?:一下|下|成.{{1,4}}|为.{{1,4}})?[:。!]?$"
)
EN_POINTS: Final = re.compile(
    r"\b(?:translate|summari[sz]e|proofread|polish|rewrite|rephrase|paraphrase|fix|correct|explain|analy[sz]e"
    r"|extract|classify|convert"
    r"|shorten|reply|improve|review|debug)\b.{0,60}\b(?:this|following|below|above|these|it|text|paragraph|passage"
    r"|article|e-?mail|code|log"
    r"|sentences?|letter|query|message|document)\b|\bthe following\b|\b(?:text|passage|paragraph|article|code"
    r"|e-?mail) (?:above|below)\b",
    _I,
)
WORKS_OUT: Final = re.compile(
    r"(?:先|再|请|帮我)*(?:试?证明?|求|计算|解(?!释)|化简|推导|已知|prove|solve|calculate|compute|find|evaluate"
    r"|simplify)",
    _I,
)
# Before a colon: words after which something is handed over, or a label.
INTRODUCES: Final = re.compile(
    rf"^{_ZH_IMPERATIVE}|{_ZH_WORK_ON_TEXT}|回答|问题|提问|要求|格式|请问|下面|以下|如下|下列|已知|题目"
    r"|\b(?:translate|summari[sz]e|proofread|polish|rewrite|rephrase|paraphrase|fix|correct|explain|analy[sz]e"
    r"|extract|classify|convert"
    r"|shorten|reply|answer|question|following|describe|respond|context|schema|format|example|note)\b",
    _I,
)
FURTHER_STEP: Final = re.compile(
    r"(?:再|然后|接着|最后|并且?|另外|同时|之后|其次|还要|then\b|also\b|and\b|finally\b|after(?:wards| that)\b"
    r"|next\b)",
    _I,
)

# Atomic groups: with one way to read each slot, no text takes long.
# --- Courtesy, Chinese ------------------------------------------------------------------------------------------------
_ADDRESS: Final = (
    r"(?>(?:各位|诸位|尊敬的|亲爱的|敬爱的|我的)?(?:老师|师傅|师父|同学|朋友|大神|大佬|大侠|高手|专家|医生|大夫|律师"
    r"|教练|教授|先生|女士|小姐姐|小姐|小哥哥?"
    r"|哥哥|姐姐|叔叔|阿姨|大哥|大姐|兄弟|姐妹|哥们|宝子|宝宝|宝贝|宝|亲|客服|小助手|助手|助理|小助理|机器人|管家"
    r"|版主|楼主|老板|家人|老铁|友友|网友|美女|帅哥"
    r"|领导|大家|各位|ai|glm|智谱|小[智爱度艺冰]|天才)(?:们|儿)?)"
)
_GREET: Final = (
    r"(?>(?:你|您|大家|各位|你们)好|好|(?:早上|上午|中午|下午|晚上|周末|新年|节日)(?:好|快乐)|早安|午安|早|嗨+|嘿"
    r"|哈喽|哈啰|哈罗|喂|hello|hi|hey|在吗|在么|在不在|在嘛"
    r"|有人(?:在)?吗|打扰(?:一下|了|您|你|大家|啦|下)*|不好意思|抱歉|对不起|劳驾|冒昧.{0,6}|请多关照|好久不见)"
)
_THANK: Final = (
    r"(?>(?:先|提前|非常|十分|万分|真的|太|多|真心|衷心|这里)*(?:谢谢|感谢|多谢|谢过|感激|感恩|辛苦|麻烦|拜托|有劳"
    r"|劳烦|费心|求求|跪谢|谢)"
    rf"(?:不尽|一下|了|啦|哈|你们?|您|的?帮[助忙]|的?[回解]答|支持|配合|理解|{_ADDRESS})*|thx|thanks|3q"
    r"|thank you|tks)"
)
_HURRY: Final = (
    r"(?>(?:很|非常|特别|十万火|万分|真的|挺|有点|比较|加|着)?急+(?:用|需|求|死了|着呢|的|等)?|(?:在线|坐"
    r"|急)等(?:回复|答案|回答|解答|挺?急的?|你|您)*|求助+|求救|跪求"
    r"|求解答?|求回[答复]|求帮忙|求指[点教]|求教|(?:请|麻烦|希望)?(?:你|您)?(?:尽快|快点|快|赶紧|赶快|马上|立刻"
    r"|速)(?:回复?|回答|答复|解答|处理|帮我|点|一下|吧|啊)*"
    r"|等(?:着|你|您)?(?:回复|回答|用)|救命|help|sos)"
)
_LEAD: Final = (
    r"(?>我?(?:就|也)?(?:想要?|要|来|有事)?(?:请教|请问|问|咨询|求教|求问)(?:一?下|个|一个|几个|大家|你们?|您|各位"
    r"|老师|师傅)*(?:小|简单的?|的)?(?:问题|事情?|件事)?"
    r"|我?(?:这里|这边)?有(?:一?[个些点])?小?(?:问题|疑问|事)(?:想|要|需要)?(?:请教|问|咨询)?(?:一下|你|您|大家)*"
    r"|(?:请|麻烦|能|能不能|可以|可不可以|能否|希望|求)*(?:你|您|大家|各位)?(?:帮|帮帮|帮个|帮忙)(?:我|忙|一?下"
    r"|看看?|瞧瞧?|解答|回答|个)*"
    r"|(?:小白|新手|新人|萌新|菜鸟|外行)(?:一[个枚])?(?:求问|请教|求助)?|如题|(?:请)?(?:你|您)?(?:先|仔细"
    r"|认真)?(?:看|见|观察|看看|看一?下|如)(?:一?下)?"
    r"(?:这(?:张|幅|个)?|下|上|附|所?给的?)?(?:图片?|照片|截图|附件|这个|下)?|你看)"
)
# What leads over to the next question.
_NEXT: Final = (
    r"(?>(?:那么?|另外|顺便|然后|接下来|下面|最后|对了|还有)?(?:我)?(?:就|再|还|又|也|顺便|接着|继续|最后|另外)+(?:想|要|想要)?(?:请教|请问|问|咨询)"
    r"(?:你|您|大家)?(?:一?下|一句)?(?:最后|另外)?(?:一?个)?(?:小)?(?:问题|事)?"
    r"|(?:还有|另外|最后|下|再来|再)(?:最后)?(?:一个|个|一)?(?:小)?(?:问题|疑问)|(?:我)?换一?个(?:问题|话题)"
    r"|(?:我的)?问题(?:是这样|是|如下)(?:的)?|那么?|接下来|话说|对了|顺便)"
)
# A character of no question, and of nothing to write.
_PLAIN_HAN: Final = rf"(?:(?![的什哪谁几多怎吗呢何写是比])[{_HAN_CLASS}])"
# Who asks, told by trade or by how new they are to it.
_SELF: Final = (
    rf"(?>(?:(?:我|俺|本人)(?:就|也)?(?:是|乃)?|作为|身为)(?:一)?[名个位枚]?"
    rf"(?:(?:新来|刚来|刚入职|刚毕业|刚入门|在读|退休|普通)的?)?{_PLAIN_HAN}{{0,6}}?"
    r"(?:实习生|大学生|研究生|博士生?|硕士生?|[高初]中生|小学生|留学生|学生|新人|新手|小白|员工|萌新|菜鸟|外行|初学者|老师"
    r"|教师|家长|宝妈|宝爸|程序员|设计师|工程师|会计|护士|医生|记者|编辑|店主|上班族|经理|志愿者|爱好者|新用户|老用户"
    r"|文员|助理|司机|厨师|律师)(?:一[枚个名])?)"
)
_FAREWELL: Final = (
    r"(?>(?:最后|在此|也|先|衷心|提前)*(?:恭)?(?:祝愿?|愿)(?:你|您|你们|大家|各位|贵公司|老师|阖家|全家)*"
    rf"{_PLAIN_HAN}{{0,8}}(?:顺利|愉快|快乐|健康|安康|如意|幸福|平安|发财|兴隆|大吉|开心|成功|好|安|祺|进步|高升|开怀|美满)"
    r"|此致|敬礼|(?:顺|即|敬|谨)[颂祝请候][一-龥]{2,4}|敬上|谨启|敬启)"
)
_ACK: Final = (
    r"(?>好(?:的|嘞|滴|哒|吧)?|行|可以|嗯+|哦+|噢|喔|ok(?:ay)?|收到|明白|知道|懂|了解|原来如此|原来是这样|没事"
    r"|没问题|不客气|不用谢|哈{2,}|呵{2,}|嘿嘿|嘻嘻|厉害|牛|真?棒|太[棒好强]|赞|不错"
    r"|6{2,}|对|是的|没错|再见|拜拜|88|晚安|真厉害|学到|终于懂|完美|lol|haha)"
)
_TAGS: Final = (
    r"(?:好吗|好么|行吗|可以吗|对吗|行不行|好不好|可不可以|怎么样|吗|了|的|啦|呀|啊|哦|噢|哈|吧|呢|嘛|呗|喽|哟)"
)
ZH_COURTESY: Final = re.compile(
    rf"(?:(?:{_GREET}|{_THANK}|{_HURRY}|{_LEAD}|{_NEXT}|{_SELF}|{_FAREWELL}|{_ACK}|{_ADDRESS}){_TAGS}{{0,3}}[\s,~]*){{1,5}}|(?:好|行|可以|对|是"
    rf"|成)(?:吗|么|不[好行可]?|嘛)|{_TAGS}",
    _I,
)
ZH_OPENING: Final = re.compile(
    rf"^(?:(?:{_NEXT}(?=[,:])|那么(?![多大高少长小远好贵快慢重])|那(?=请|帮|这|图|看|我)|(?:你|您|大家)好|哈喽|嗨|{_ADDRESS}(?=,|\s|你好|您好|请|麻烦|帮|能|可以|我想|这|图|看|问)"
    r"|请问(?:一?下)?|(?:我|就)*想(?:要)?(?:请教|请问|问|知道|了解|咨询|确认)(?:一?下|的是)?"
    r"|问一?下|麻烦(?:你|您|大家|老师|师傅|各位)?|劳驾|拜托|求问|谁(?:能|可以)?(?:告诉我|知道)|有(?:谁|没有人)知道"
    r"|(?:你|您)?(?:能不能|能否|可不可以|可否|可以|能)(?:请|麻烦)?(?:你|您)?(?=帮|给我|替我|为我|告诉|请|看出|讲|说"
    r"|介绍|描述|翻译|解释|总结|写|念|读)"
    r"|帮(?:忙|帮|我)*(?:看看|看一下|看下(?!面|方|边|列)|看(?=这|那|图|一眼)|瞧瞧?|查一?下|查查)?"
    r"|(?:给|替|为)我(?=看|讲|说|翻|总|列|介|描|解|找|出|读|写|念|推|生|做|来|算|认|查)|看(?:一下|看)(?=这|那|图"
    r"|我)|看下(?=这|那|图|我)|告诉(?:我|一下)+|请教|请(?:你|您)?|你知道|回答我)[,:\s]*)+"
    r"(?=.*[^\W_])",
    _I,
)
ZH_ENDING: Final = re.compile(
    rf"(?:[,\s]*(?:(?:非常|十分|万分|多|先)?(?:谢谢|感谢)(?:你|您|大家|了|啦|{_ADDRESS})*|好吗|好么|行吗|可以吗"
    r"|行不行|好不好|拜托了?|麻烦(?:了|你了|您了)|谢了|辛苦了|在线等"
    r"|[呀啊哦哈啦呗嘛~]|来着))++(?=[?!。.\s]*$)"
)

# --- Wishes about form and length, Chinese ----------------------------------------------------------------------------
_WISH: Final = (
    r"(?:请|麻烦|拜托|希望|最好|务必|一定|记得|需要|要求|注意|你|您|能否|可以|能不能|帮我|尽量|尽可能|只|仅|都"
    r"|也|再|并且?|最后|全部|全程|统一|应|应该|要|须|必须|语言|回答|输出|且)*"
)
_ANSWER_VERB: Final = (
    r"(?:回答|作答|回复|答复|答|说|讲|输出|返回|给出|表示|表达|呈现|列出|概括|写|写出来?|展示|解释|说明|描述|表述"
    r"|汇总|整理|交流|告诉|提供|打出来|生成|来)"
)
_N: Final = r"(?:\d+|[一二两三四五六七八九十百千几半]+)"
_LENGTH: Final = (
    rf"(?:不超过|不要超过|别超过|不多于|不少于|少于|控制在|限制?在?|大约|大概|约|至多|最多|至少|在)*{_N}(?:到{_N}"
    rf"|-{_N})?个?(?:汉字|字|词|句话?|行|段|点|条|句子|字符|单词|words?|tokens?)"
    r"(?:以内|之内|左右|内|以下|上下|以上)?"
)
_DONE: Final = (
    r"(?:我|它|给我|一下|即可|就行|就好|就可以|就够|问题|这个问题|出来|结果|答案|吧|了|下|些|一点|点|的?内容|内|哦"
    r"|啊|哈|!)*"
)
_FORM_NOUN: Final = (
    r"(?:json|markdown|md|xml|yaml|csv|html|latex|excel|表格|列表|纯文本|文本|要点|分点|条目|代码块|字典|数组"
    r"|键值对|项目符号|编号|一句话|一段话|大白话|口语|书面语|文言文|诗)"
)
_MANNER: Final = (
    r"(?:简单|简短|简洁|简要|简明|精简|精炼|简练|扼要|言简意赅|详细|详尽|具体|准确|精确|如实|客观|认真|仔细|完整"
    r"|清楚|清晰|通俗|易懂|口语化|幽默|活泼|俏皮|正式|专业|友好|委婉|自然|生动"
    r"|礼貌|直接|干脆|一步到位|快速|逐字|原样|如实|放心)"
)
_PICTURE: Final = (
    r"(?:这|该|此|上|下|所|给|给出|提供|上传|张|幅|个|面|以下|上述|我|用户|的|一)*(?:图片?|照片|图像|截图|画面|附件"
    r"|上下文)"
)
# What may be wished for. The wishing words stand before all of it, so that they are read once.
_WISHED: Final = (
    r"(?:根据|依据|结合|阅读|基于|参考|按照?).{1,14}?(?:来|,)?(?:回答|作答|答题)(?:我|下面|以下|下列|后面"
    r"|的)*(?:问题|提问)?"
    rf"|(?:用|以|使用|按照?|采用|换成|转成|通过).{{1,14}}?{_ANSWER_VERB}{_DONE}"
    rf"|(?:用|以|使用|按照?|采用)?(?:简体|繁体)?(?:中文|汉语|普通话|英文|英语|日[文语]"
    rf"|{_FORM_NOUN})(?:的?格式|的?形式|的?方式)?{_ANSWER_VERB}?{_DONE}"
    r"|(?:回答|答案|输出|回复|结果|字数|篇幅|语言|语气|格式|长度|总?字数|输出格式|回答格式|返回格式|文风"
    r"|风格|措辞|标题|表头|排版|序号|单位|标点)"
    r"(?:要|请|应|需|尽量|务必|必须|控制|不超过|不要|限|为|越|只|统一|保留|带上|正式|简|用|以|是json|:|$).{0,24}"
    rf"|\(?{_LENGTH}(?:{_ANSWER_VERB}|的?回答)?{_DONE}\)?|(?:用|以|在){_LENGTH}{_ANSWER_VERB}?{_DONE}"
    rf"|{_MANNER}(?:地|的|点|一?些|一点|扼要|易懂|明了|明白)*(?:{_ANSWER_VERB}|介绍|阐述|说说|讲讲"
    rf"|描述)?{_DONE}"
    r"|(?:只|仅|直接|就|单)(?:需要?|要|用|可以)*(?:回答|给出?|说|写|输出|返回|告诉|列|报|念|选)(?:我"
    r"|出)*.{0,8}"
    r"|(?:先|仔细|认真)*(?:根据|依据|结合|依照|参照|基于|针对|按照?|看|看着|对着|观察|阅读|浏览|参考|查看"
    rf"|关于)(?:一下|下)?{_PICTURE}(?:的|中|里|上|所示|信息|内容|细节)*,?(?:来|然后|并|再)?"
    r"(?:回答|作答|答题|解答|答|回复)?(?:我|下面|以下|下列|如下|上面|后面|这个|用户|提出|的)*(?:问题|提问|疑问)?"
)
ZH_FORM: Final = re.compile(
    rf"{_WISH}(?:{_WISHED})"
    r"|.{0,5}(?:不要|别|无需|不用|不必|不需要|勿|禁止|不准|不许|没必要|切勿|不得|无须)(?:给我|再|有|做|加|带"
    r"|任何|写|输出|添加|进行|太)*.{0,2}"
    r"(?:解释|说明|废话|多说|啰嗦|罗嗦|推理|分析|过程|多余|其他|其它|额外|别的|客套|寒暄|markdown|编造|胡说|瞎编"
    r"|遗漏|漏|省略|改变|展开|长|复杂|重复|道歉|标点|前缀|后缀|注释|代码块|文字|内容|啥|输出).{0,10}"
    rf"|越{_MANNER}越好|越[短快简长详细]+越好"
    r"|(?:请)?(?:你|您)?(?:回答|答|作答)(?:我|一下|下)*(?:的|这个|以下|下面|下列|上述|这些|用户|图中"
    rf"|如下)*(?:问题)?{_DONE}|请作答|告诉我(?:答案|结果)?(?:即可|就行)?"
    rf"|(?:然后|并|再|来|请)*(?:回答|解答)(?:我|下面|以下|下列|如下|上面|后面|这个|用户|提出|的)*(?:问题|提问|疑问)"
    r"|(?:现在|从现在起|假设|假如)?(?:你|您)(?:是|现在是|将扮演|扮演|作为|叫)(?:一个|一位|一名|名|位|个)?.{1,30}"
    r"|(?:请)?(?:你)?(?:扮演|充当|作为)(?:一个|一位|一名)?.{1,24}"
    r"|(?:用户|我|当前|本|本次)?的?(?:问题|提问|疑问|要求|输出要求|注意事项|注意|说明|任务|备注|提示|输出格式|格式"
    rf"|回答|答案|输出|题目)(?:\d+|如下|是)?|{_N}个?字|(?:一句话|一个词)(?:回答|说明|概括|总结)?{_DONE}"
    r"|(?:不)?会的?(?:就|请)说不知道|(?:如果)?(?:不|无法)(?:知道|确定|清楚|回答)(?:的话)?(?:就|请)?(?:说|回答"
    rf"|直接)?.{{0,10}}|一步一步(?:来|地?思考|想)|让我们一步一步.{{0,6}}",
    _I,
)

# --- Courtesy and form, English ---------------------------------------------------------------------------------------
_EN_WHO: Final = (
    r"(?: (?:there|all|everyone|everybody|team|guys|folks|sir|madam|friend|buddy|assistant|ai|bot|doctor|professor"
    r"|teacher|again|you|glowl|glm))*"
)
# Words of agreement and of chat that people of every language type.
_EN_ACK: Final = (
    r"(?:ok(?:ay|ey)?|kk?|great|good|cool|nice|perfect|awesome|excellent|wow+|got it|gotcha|i see|understood|sure"
    r"|yes|yep"
    r"|yeah|yup|yay|no|nope|nah|no (?:problem|way|worries)|well done|good job|nice one|never mind|sounds good|lol+"
    r"|lmao|rofl"
    r"|haha(?:ha)*|hehe(?:he)*|omg|brb|btw|bye(?: bye)?|goodbye|see you(?: later)?|idk|ikr|np|tbh|imo|fyi|sup|gg"
    r"|gr8|u|wtf|nvm"
    r"|dunno|meh|yo|xd|smh|fr|asap|thx|ty|pls|plz|hm+|um+|uh+|ah+|oh+|right|true|exactly|indeed|agreed|fine)"
)
EN_COURTESY: Final = re.compile(
    rf"(?:(?:hi+|hello+|hey+|yo|greetings|howdy|good (?:morning|afternoon|evening|day)){_EN_WHO}"
    rf"|dear(?: \w+){{1,3}}|how are you(?: doing)?(?: today)?|nice to meet you"
    r"|(?:many |lots of |a lot of )?(?:thanks|thank you|thx|thanx|ty|cheers|much appreciated|appreciated"
    rf"|i appreciate .{{1,30}}|thank u){_EN_WHO}(?:(?: so| very| a)? (?:much|lot|million|ton))?"
    r"(?: in advance| for .{1,40}| again)?|(?:i'm |i am |so |very )?sorry(?: to bother(?: you)?| for .{1,30})?"
    r"|excuse me|pardon me|pls|plz|please"
    r"|(?:please |pls |plz )?(?:can|could|would|will) (?:you|someone|anyone|somebody) (?:please |kindly )?(?:help"
    r"|assist)(?: me| us)?(?: out)?(?: here)?(?: with (?:this|that|it|something))?(?: please)?"
    r"|(?:please )?help(?: me| us)?(?: out)?(?: with this)?(?: please)?|i (?:really )?(?:need|want"
    r"|would like) (?:some |your )?help(?: with this)?(?: please)?"
    r"|(?:i have|i've got|got)? ?(?:a |one |just a )*(?:quick |small |simple |short )?question(?: for you)?"
    r"|(?:i )?hope (?:you|this).{1,40}"
    r"|(?:it'?s |this is |very |really )*urgent(?:ly)?|asap|hurry(?: up)?|(?:waiting|awaiting) .{1,20}"
    r"|best(?: regards| wishes)?|(?:kind |warm )?regards|sincerely|have a (?:nice|good|great) \w+"
    rf"|{_EN_ACK}(?:[ ,]+{_EN_ACK}){{0,4}}|that(?:'s| is) (?:great|good|fine|all|perfect|helpful|nice|it)"
    r"|you(?:'re| are) (?:great|awesome|the best|welcome)|welcome)",
    _I,
)
# --- A whole turn of thanks, agreement and farewell, in any language --------------------------------------------------
_THANKS_EN: Final = (
    r"(?:many |a million |lots of |so many )?(?:thanks|thank (?:you|u|ya)|thx|thanx|tysm|ty|cheers|much obliged)"
    r"(?: so much| very much| much| an? (?:lot|million|ton|bunch)| lots| again| kindly| indeed| in advance)*"
    r"(?: (?:mate|man|buddy|bro|dude|pal|my friend|friend|sir|guys|all|everyone|there|glowl|glm))?"
    r"(?: for (?:everything|all|that|this|helping(?: me)?(?: out)?|(?:all )?(?:of )?(?:your|the|this|that)"
    r" (?:quick |great |kind |detailed )?(?:help|answers?|explanation|time|support|info|information|response|reply"
    r"|assistance|clarification|work)))?"
)
_PRAISE_EN: Final = (
    r"(?:this|that|it|you)(?:['’](?:s|re|ve been)| is| was| are| were| have been| has been)?"
    r" (?:really |very |so |super |just |all |exactly )*(?:helpful|helps|helped|great|perfect|clear|all|it|enough|nice"
    r"|good|awesome|useful|amazing|wonderful|the best|welcome|fine|cool|works|worked|what i (?:needed|wanted))"
    r"(?: a lot| to know| for (?:now|today|me))?|(?:very|really|super|so) (?:helpful|good|nice|useful|clear|kind)"
    r"|helpful|(?:great|good|nice|excellent|perfect|fantastic) (?:answer|job|work|explanation|one|stuff)|well done"
    r"|nothing (?:else|more)|no (?:more|further|other) questions|(?:that will|that'll) be all|i appreciate (?:it|that"
    r"|your help)|all (?:good|clear|set)"
)
_BYE_EN: Final = (
    r"(?:good)?bye(?:[ -]?bye)?(?: (?:now|for now))?|see (?:you|ya)(?: (?:later|soon|tomorrow|again|around|next time))?"
    r"|cya|ttyl|farewell|take care|good ?night|have a (?:nice|good|great|lovely|wonderful) (?:one|day|evening|night"
    r"|weekend|time)|(?:talk|speak) to you (?:later|soon)|until next time|later"
)
_COURTESY_LATIN: Final = (
    # Spanish, Portuguese, French
    r"(?:mu?chas |mil |muchísimas )?gracias(?: por (?:todo|(?:tu|su|la) (?:ayuda|respuesta)))?|perfecto|de acuerdo|vale"
    r"|adi[oó]s|hasta (?:luego|pronto|mañana|la vista)|chao|(?:muito )?obrigad[oa](?: mesmo)?|valeu|tchau"
    r"|até (?:logo|mais|amanhã)|(?:un grand |mille )?mercis?(?: beaucoup| bien| infiniment| mille fois)?"
    r"(?: à (?:toi|vous|tous))?(?: pour (?:tout|(?:votre|ton) (?:aide|réponse)|l['’]aide))?|d['’]accord|parfait"
    r"|au revoir|à (?:bientôt|plus|demain)|bonne (?:journée|soirée|nuit)"
    # German, Dutch, the North
    r"|(?:heel erg |hartelijk )?bedankt|dank(?: je| u|je)(?: ?wel)?|tot ziens"
    r"|(?:vielen |herzlichen |besten |tausend )?dank(?:e+(?:[ -]?sch(?:ö|oe)n| sehr| dir| ihnen| euch| vielmals)*)?"
    r"(?: für (?:alles|(?:die|deine|ihre) (?:hilfe|antwort)))?|alles klar|perfekt|super|prima"
    r"|tsch(?:ü|ue)(?:ss?|ß)i?"
    r"|auf wiedersehen|bis (?:bald|dann|später|morgen)"
    r"|(?:tusen )?tack(?: så mycket)?|hej då|(?:tusen |mange )?takk?(?: skal du ha)?|kiitos(?: paljon)?"
    # Italian, the East of Europe, Turkish, the South-East of Asia
    r"|(?:tante |mille )?grazie(?: mille| tante| infinite| di tutto)?|perfetto|arrivederci|ciao(?: ciao)?"
    r"|(?:bardzo )?dziękuję(?: bardzo)?|dzięki|do widzenia|děkuj[iu](?: moc)?|díky|ďakujem|köszönöm(?: szépen)?|köszi"
    r"|mulțumesc(?: mult)?|hvala(?: lijepa)?|(?:çok )?teşekkür(?:ler| ederim)?|sağ ?ol(?:un)?"
    r"|(?:xin )?c[ảá]m ơn(?: bạn| rất| nhiều| anh| chị)*|terima ?kasih(?: banyak)?|makasih"
    r"|salamat(?: po)?|asante(?: sana)?"
)
_COURTESY_OTHER: Final = (
    r"(?:большое |огромное )?спасибо(?: большое| огромное| вам| тебе| за помощь)*|благодарю(?: вас)?|пасиб[оа]?|пока"
    r"|до свидания|понятно|дякую(?: дуже)?|благодаря|ευχαριστώ(?: πολύ)?|شكر(?:ا|ًا|اً)(?: جزيلا| جزيلاً| لك| لكم)*|ممنون"
    r"|متشکرم|مرسی|תודה(?: רבה)?|(?:बहुत )?(?:धन्यवाद|शुक्रिया)|ধন্যবাদ|ขอบคุณ(?:ครับ|ค่ะ|มาก)*"
    r"|(?:どうも|本当に)?(?:ありがとう|有難う|有り難う)(?:ございま(?:す|した))?|サンキュー|了解(?:です|しました)?"
    r"|わかりました|分かりました|なるほど"
    r"|さようなら|お疲れ様(?:です|でした)?"
    r"|(?:정말 |대단히 )?(?:감사(?:합니다|해요|드려요|드립니다)|고마워요?|고맙습니다)"
    r"|알겠습니다"
    r"|안녕히 (?:계세요|가세요)|(?:多謝|感謝|謝謝|謝|唔該)(?:晒|你|您|了)*|拜拜|再見"
    r"|没有?(?:其[他它]|别的|什么|更多)?(?:的)?(?:问题|疑问|事)?了|(?:就|先)(?:这样|这些)(?:了|吧)?|不用了"
)
_SMILE: Final = (
    "[\U0001f44b-\U0001f44d\U0001f44f\U0001f64c\U0001f64f\U0001f91d\U0001f917\U0001f929\U0001f970\U0001f973\U0001f600-\U0001f60e\U0001f618"
    "\U0001f642\U0001f923\U0001f389\U0001f38a\U0001f339\U0001f4aa\U0001f4af\U0001f493-\U0001f49e\U0001f90d\U0001f90e\U0001f9e1"
    "\u2600\u263a\u2665\u2705\u2714\u2728\u270c\u2764]|[:;]-?[)D]|\\^_?\\^|<3"
)
# One unit after another, each read in one way; a mark between them is no question mark.
ONLY_COURTESY: Final = re.compile(
    rf"(?:(?>(?:{_THANKS_EN}|{_PRAISE_EN}|{_BYE_EN}|{_COURTESY_LATIN}|{_EN_ACK})(?!\w)"
    rf"|(?:{_COURTESY_OTHER}|{_SMILE}|(?:{_THANK}|{_ACK}){_TAGS}{{0,3}}))"
    "(?:[\\s,.。!、~…;\u200d\ufe0f\U0001f3fb-\U0001f3ff-]|(?:and|und|et|y|e|so)\\s)*+)++",
    _I,
)

_EN_FORM_NOUN: Final = (
    r"(?:json|schema|format(?:ted|ting)?|code ?block|markdown|table|bullet(?:s| points?)?|list|words?|sentences?"
    r"|phrases?|letters?|paragraphs?|csv|xml|yaml|html|latex|string|object|answer|answers"
    r"|response|reply|output|characters|tokens|chinese|english|mandarin|explanations?|reasoning|option)"
)
_EN_WISH: Final = (
    r"(?:(?:please|kindly|and|then|also|just|only|simply|now|but|you|must|should|need to|have to|will|can|make sure"
    r"|be sure|ensure|that|to|remember|try|always|never|do not|don't|no need to|think carefully"
    r"|think step by step|in your answer|so|finally|read|look|first)[ ,]+)*"
)
EN_FORM: Final = re.compile(
    rf"{_EN_WISH}(?:answer|reply|respond)(?!ing\b)\b.*|{_EN_WISH}(?:return|output|give|provide|write|use|include"
    rf"|format|print|produce|generate|send|wrap|follow|add|stick to|conform to|match)\b.*\b{_EN_FORM_NOUN}\b.*"
    rf"|{_EN_WISH}(?:keep|make|limit|restrict|shorten) (?:it|your|the|this)\b.*|{_EN_WISH}(?:be|stay) (?:brief"
    r"|concise|short|polite|specific|honest|detailed|precise|clear|as \w+ as possible|helpful)\b.*"
    r"|(?:with )?(?:no|without|not|skip|omit|avoid|don't|do not)(?: (?:any|the|more|an?|give|add|write|include"
    r"|provide))* (?:need|explanations?|preamble|markdown|yapping|reasoning|extra|other|additional|comments?"
    r"|explain|json_schema|make up|use prior).*"
    r"|(?:the |your |a |an )?(?:(?:short|brief|one[- ]word|final|direct|single|concise|json|yes/no|english"
    r"|chinese)[ -]?)+(?:answers?|responses?|replies|output|word|sentence|format)?(?: only| please)*"
    r"|(?:answer |reply )?(?:in|with|using|under|at most|max(?:imum)?|about|around|no more than|less than"
    r"|within)? ?(?:one|a|an|a single|single|two|three|five|ten|a few|\d+)(?:[- ](?:or|to"
    r"|and)[- ]\w+)?[- ](?:words?|sentences?|phrases?|paragraphs?|lines?|characters|tokens)"
    r"(?: or (?:less|fewer|phrase)| max(?:imum)?| only| at most| please| answer)*|yes or no(?: only| please"
    r"| answer)*|(?:true or false)|(?:json|markdown|text|code|number|answer) only(?: please)?|in (?:simple "
    r"|plain )?(?:chinese|english|mandarin|json|markdown)(?: please| only)?"
    r"|(?:the|your|all) (?:final )?(?:output|response|answer|reply|result|format)s?\b.*\b(?:should|must|shall"
    r"|needs? to|has to|is|are|will be|be)\b.*|here (?:is|are) (?:the|an?) (?:output|json|format|schema|example"
    r"|template|context).*"
    r"|(?:as an example|for example),? .*(?:schema|instance|json|foo).*|the object .*|if you (?:don't|do not"
    r"|are not|aren't|can't|cannot|are unsure).*|(?:let's |please )?(?:think|work|reason)(?: about (?:it"
    r"|this))? (?:step[- ]by[- ]step|carefully|hard).*|take a deep breath.*"
    r"|(?:from now on,? )?(?:you are|you're|act as|you will be|you act as|imagine you are|pretend (?:to be|you are)"
    r"|play the role of)(?! (?:looking at|seeing|given (?:a|an|two)))\b[^?]*|as an? (?:ai|assistant|expert|helpful"
    r"|genius|experienced|professional|large)\b[^?]*"
    r"|your (?:task|job|role|goal) is to (?:help|assist|answer|respond|understand|provide|follow"
    r"|extract the)\b[^?]*|use the (?:following|given|provided|image|context|information)\b[^?]*"
    r"|context(?: information)? is (?:below|provided).*"
    r"|given the (?:context|image|information|picture|following)\b[^?]*\b(?:answer|respond|reply)\b.*|(?:based on"
    r"|according to|using|from|referring to) (?:the|this|these) (?:(?:image|picture|photo|context|information|text"
    r"|provided|given|above|following)[ ,]*)+(?:and not .*|answer.*)?"
    r"|(?:please )?(?:look|looking) (?:carefully )?at the (?:image|picture|photo)(?: carefully| below"
    r"| above)?(?:,? (?:and|then) answer.*)?|(?:please )?read .{1,40} (?:and|then) answer.*"
    r"|(?:the )?(?:user(?:'s)? |my )?(?:question|query|user|human|input|system|prompt|context|answer|note"
    r"|instructions?|task|format|output|q|a|ai|assistant)s?(?: \d+)?"
    r"|make sure to .*(?:json|format|schema|answer|code ?block).*|you have access to .*|begin",
    _I | re.DOTALL,
)
EN_OPENING: Final = re.compile(
    rf"^\s*(?:(?:hi+|hello+|hey+|greetings|good (?:morning|afternoon|evening|day)){_EN_WHO}|dear \w+(?: \w+)?"
    r"|thanks|excuse me|sorry)\s*[,!.:]+\s*",
    _I,
)
EN_ENDING: Final = re.compile(
    r"(?:[,.!?]?\s+|,)(?:please|thanks[\w ]{0,16}|thank you[\w ]{0,16}|thx|cheers)\s*[.!]*\s*$", _I
)

# Without one of these no answer language is named; looking for them is ten times cheaper than the whole pattern.
LANGUAGES: Final = (
    *("中文", "英文", "汉语", "英语", "普通话", "chinese", "Chinese", "CHINESE"),
    *("mandarin", "Mandarin", "english", "English", "ENGLISH"),
)
ANSWER_LANGUAGE: Final = re.compile(
    r"(?P<zh_in_zh>(?:用|以|说|使用|成|为)(?:简体|繁体)?(?:中文|汉语|普通话))"
    r"|(?P<en_in_zh>(?:用|以|说|使用|成|为)(?:英文|英语))"
    r"|\b(?:in|into|to|use|using|speak)(?: simplified| traditional| mandarin)? (?:(?P<zh_in_en>chinese|mandarin)"
    r"|(?P<en_in_en>english))"
    r"(?=\s*(?:[.,!?;:)\n]|$|please\b|and\b|using\b|with\b|then\b|only\b|for me\b|language\b))",
    _I,
)
