"""First step of a decision: which language the user's question is in.

In: one text, and the user's earlier texts. Out: zh, en, other or none, and what decided it. Script decides wherever
it can, then a dictionary of English; langdetect, its seed fixed, is asked only about Latin text that both leave open.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal

from langdetect.detector_factory import DetectorFactory
from langdetect.lang_detect_exception import LangDetectException

from policies.finder import Finder
from policies.openers import find_opener
from policies.request import find_request

Language = Literal["zh", "en", "other", "none"]
LanguageSource = Literal["script", "langdetect", "short", "history", "none"]

# A pasted document may be huge; its head and its tail hold the question.
_MAX_SIDE_CHARS = 240
_MAX_LATIN_WORDS = 60

_HAN = re.compile(r"[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3105-\u312f\U00020000-\U000323af]")
_KANA = re.compile(r"[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff]")
_LATIN_LETTER = re.compile(r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff]")
_LETTER = re.compile(r"[^\W\d_]")
# A pattern that begins with a class, not with a repeat of one, is searched for by that class.
_LETTERS, _HANS, _LATIN_LETTERS = (
    re.compile(f"{each.pattern}{each.pattern}*") for each in (_LETTER, _HAN, _LATIN_LETTER)
)
_LATIN_WORD = re.compile(
    r"[A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\u0300-\u036f]+"
    r"(?:['\u2019-][A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff\u0300-\u036f]+)*"
)

# What carries no language: code, formulas, addresses, file names, identifiers, words with digits in them.
_NOT_LANGUAGE: Final = (
    r"```.*?```"
    r"|`[^`\n]{1,300}`"
    r"|\$\$.{1,400}?\$\$"
    r"|\$(?=[^$\n]{0,80}[\\^_=+])[^$\n]{1,200}\$"
    r"|\\[A-Za-z]{1,30}"
    r"|</?[A-Za-z][^<>\n]{0,200}>"
    r"|(?:https?://|www\.)[!-~]{1,2000}"
    r"|[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,4}"
    r"|@[A-Za-z0-9_]{1,40}"
    r"|\b[A-Za-z0-9_-]{1,80}\.(?:png|jpe?g|gif|webp|pdf|docx?|xlsx?|pptx?|csv|json|ya?ml|txt|md|py|js|ts|html?|zip|mp4)\b"
    r"|\b(?=[A-Za-z0-9_]{0,60}[0-9_])[A-Za-z0-9_]{2,80}\b"
    r"|\b[a-z]{1,30}[A-Z][A-Za-z]{1,60}\b"
)
# With which those begin; a test reads them off the pattern.
NOT_LANGUAGE_STARTS: Final = "$+-.<@\\`"
_NOT_LANGUAGE_FINDER: Final = Finder(_NOT_LANGUAGE, NOT_LANGUAGE_STARTS, r"\w", re.DOTALL | re.ASCII)
_QUOTE = re.compile("[\"\u201c\u300c\u300e\u300a'\u2018]")  # with which a quotation begins
# Quoted text is talked about, not talked in. Straight single quotes are apostrophes too often to count.
_QUOTED = re.compile(
    r"\"[^\"\n]{1,400}\"|\u201c[^\u201d\n]{1,400}\u201d|\u300c[^\u300d\n]{1,400}\u300d"
    r"|\u300e[^\u300f\n]{1,400}\u300f|\u300a[^\u300b\n]{1,400}\u300b|(?<!\w)'[^'\n]{1,400}'(?!\w)|\u2018[^\u2019\n]{1,400}\u2019"
)

_ANYBODYS = frozenset({"ok", "okay", "okey"})
_CAPITAL = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_NAME = re.compile(
    rf"(?<=[\w,;:)(] )(?!I\b){_CAPITAL}[\w.'\u2019-]{{0,30}}"
    rf"(?: (?:(?:of|the|and|in|on|to|for|a|de|la|le|du|von|van|&) ){{0,2}}{_CAPITAL}[\w.'\u2019-]{{0,30}}){{0,8}}"
)

# Particles, pronouns and verbs that a Chinese sentence hardly does without.
_ZH_FUNCTION = re.compile(r"[的了是在有不我你您他她它们們这這那和与與把被给給对對就也都还還吗嗎呢吧啊]")
_ZH_REQUEST = re.compile(
    r"[吗嗎呢谁誰哪请請帮幫这這那]|什么|什麼|怎么|怎麼|怎样|怎樣|为何|為何|如何|多少|几[个個张張只隻条條岁歲点點]"
    r"|是否|有没有|有沒有|翻译|翻譯|解释|解釋|告诉|告訴|描述|介绍|介紹|比较|比較|总结|總結"
)
# Written in Chinese, hardly ever in Japanese: decides when kana stand beside Han.
_ZH_ONLY = re.compile(r"[这這吗嗎们們么麼哪呢您說说她它吧啊很啥咱译翻请谁图张个为过没对语]")
# Shinjitai and kokuji: written in Japanese, in neither Chinese script.
_JA_ONLY = re.compile(
    r"[気図広読売変転経済労験実権関検発県円帰歩込働畑峠枠辻匂駅塩価仏仮拠戦沢択単団囲壱弐両満毎歳黒従渋続絵総緑縄聴薬訳証豊辺逓遅郷釈鉄録険隠雑霊顔頼験斉斎竜亀応拡挙楽覚観訳譲醸醤鶏麺黙闘頬塁奨彦徳恵悪悩惨戻払抜掲揺収叙塚増壊]"
)

_EN_REQUEST = re.compile(
    r"\b(?:what|how|why|who|whose|where|which|when|translate|explain|describe|tell me|please|write|compare|summari[sz]e"
    r"|show|list|find"
    r"|(?:is|are|does|do|can|could|would|did) (?:the|this|that|it|you|there|these|those|he|she|they|i))\b",
    re.IGNORECASE,
)

# Languages in Latin script that langdetect has profiles for. The first is the one asked about.
_PROFILES = (
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "no", "da", "fi", "pl", "cs", "sk", "hu", "ro",
    "hr", "sl", "lt", "lv", "et", "tr", "id", "vi", "sq", "af", "ca", "cy", "so", "sw", "tl",
)  # fmt: skip
# The profiles hold one letter for all of Vietnamese's twice-marked vowels.
_VIETNAMESE = re.compile(r"[\u1ea0-\u1eff]")
# langdetect's own smoothing: alpha 0.5 over a base frequency of 10,000.
_SMOOTHING = 0.5 / 10_000
# For a word or two, in natural-log units of the profiles' likelihood. Set by hand: English is the likelier of two
# equals, more so once a word is on the list; within `_DOUBT` of even, such a text is as good as unread and
# the history speaks.
_PRIOR_ENGLISH = 1.5
_LISTED_WORD = 4.0
_FOREIGN_WORD = 3.0
_DOUBT = 15.0
# A dictionary word is English about 20 times as often as not, a missing one foreign some 4 times; the n-gram sum counts
# every letter about three times over, so that both logarithms are tripled.
_KNOWN_WORD = 8.0
_UNKNOWN_WORD = 4.0
# Of three words and more: from this share on they make a text English; below that one, of five and more, foreign.
_ENGLISH_SHARE = 0.6
_FOREIGN_SHARE = 0.2
# langdetect's own are 7 and 1000: four times the time, the same answers but for one in a thousand. One trial is too few
# for three words ("Was ist das?").
_NUM_TRIALS = 3
_NUM_ITERATIONS = 300


@dataclass(frozen=True, slots=True)
class Detection:
    """A language and what decided it.

    Attributes:
        language: zh (either script), en, other (any other language), none (nothing to read).
        source: script; short (the words, held against English ones, leave no doubt); langdetect (its profiles, for a
            word or two without its sampling); history (an earlier turn); none.
    """

    language: Language
    source: LanguageSource


_NONE = Detection("none", "none")


def detect(text: str) -> Language:
    """Tell the language of one text, with no other input.

    Args:
        text: any string; lone surrogates and megabytes included. Mixed text counts as the language it is built in.
    """
    return identify(text).language


def identify(text: str, history: Sequence[str] = ()) -> Detection:
    """Tell the language of the user's new question; where it cannot be read, that of the latest earlier text that can.

    Args:
        text: the new question.
        history: the user's earlier texts, oldest first.
    """
    detection, is_sure = _read(text)
    if is_sure:
        return detection
    for earlier in reversed(history[-8:]):
        found, is_found_sure = _read(earlier)
        if is_found_sure:
            return Detection(found.language, "history")
    return detection


def warm_up() -> None:
    """Load the word lists and n-gram profiles now (about 0.1 s, 17 MB), not inside the first request in need."""
    for name in ("english_words.txt", "english_grammar.txt", "foreign_grammar.txt"):
        _words(name)
    _dictionary()
    _factory()


def strip_non_language(text: str) -> str:
    """Fold width variants and blank out what carries no language: code, formulas, URLs, file names, identifiers."""
    if len(text) > 2 * _MAX_SIDE_CHARS:
        text = f"{text[:_MAX_SIDE_CHARS]} {text[-_MAX_SIDE_CHARS:]}"
    return _strip(text)


@lru_cache(maxsize=8)
def _strip(text: str) -> str:
    """The language, the score and the pictures of one request all start from this, so that it is kept for a moment."""
    return _NOT_LANGUAGE_FINDER.sub(" ", unicodedata.normalize("NFKC", text))


def _read(text: str) -> tuple[Detection, bool]:
    """Return a detection and whether it stands on its own feet; if not, history may overrule it."""
    request = find_request(text)
    cleaned = strip_non_language(request.spoken)
    if _QUOTE.search(cleaned) and _LETTER.search(unquoted := _QUOTED.sub(" ", cleaned)):
        cleaned = unquoted
    num_letters = _num(_LETTERS, cleaned)
    if not num_letters:
        return _NONE, False
    num_han = _num(_HANS, cleaned)
    num_latin = _num(_LATIN_LETTERS, cleaned)
    num_rest = num_letters - num_han - num_latin
    spelled = _LATIN_WORD.findall(cleaned)
    if num_han:
        # Points and segments of a figure ("BE", "ON", "AM") are no English grammar.
        spelled = [word for word in spelled if not (len(word) <= 3 and word.isupper() and word != "I")]
    words = [word.lower().replace("\u2019", "'") for word in spelled]
    if num_rest > 0 and _is_foreign(cleaned, num_han, num_latin, num_rest, words):
        return Detection("other", "script"), True
    if num_han:
        matrix = _matrix_language(cleaned, num_han, words)
        if matrix != "latin":
            return Detection(matrix, "script"), True
    opener = None if num_han or request.is_courtesy else find_opener(cleaned)
    if opener == "other":
        return Detection("other", "short"), True
    detection, is_sure = _read_latin(cleaned, _without_names(cleaned, words))
    if opener == "en" and detection.language == "other" and len(words) >= 3:
        return Detection("en", "short"), True
    if request.is_courtesy:
        # "ok", "lol" and "thx" are typed in every language: what went before decides.
        is_english = all(_is_common(word) and word not in _ANYBODYS for word in words)
        return (detection if is_english else _NONE), False
    return detection, is_sure


def _num(runs: re.Pattern[str], text: str) -> int:
    return sum(map(len, runs.findall(text)))


def _without_names(text: str, words: list[str]) -> list[str]:
    """Leave out runs of capitalised words inside a sentence: a name does not show the language it is named in."""
    rest = [word.lower().replace("\u2019", "'") for word in _LATIN_WORD.findall(_NAME.sub(" ", text))]
    return rest if len(rest) >= 2 else words


def _is_foreign(text: str, num_han: int, num_latin: int, num_rest: int, words: list[str]) -> bool:
    """Whether letters that are neither Han nor Latin make the language (a Chinese or English text may cite some)."""
    if num_han:
        if _KANA.search(text):
            return not (len(_ZH_ONLY.findall(text)) >= 2 and num_han > num_rest)
        return num_rest > num_han
    if num_latin > num_rest and _KANA.search(text):
        return sum(map(_is_common, words)) < 2
    return num_rest >= num_latin


def _matrix_language(text: str, num_han: int, words: list[str]) -> Language | Literal["latin"]:
    """Tell the language that a text with Han characters is built in; "latin": its Latin words must be read."""
    words = [word for word in words if len(word) > 1]
    if not words:
        return "other" if _JA_ONLY.search(text) and not _ZH_FUNCTION.search(text) else "zh"
    is_zh_request = _ZH_REQUEST.search(text) is not None
    is_en_request = _EN_REQUEST.search(text) is not None
    if is_zh_request != is_en_request:
        return "zh" if is_zh_request else "en"
    num_grammar = sum(word in _words("english_grammar.txt") for word in words)
    # A Chinese word is about 1.7 characters. Names and terms are borrowed either way; grammar is not.
    zh_weight = num_han / 1.7 + len(_ZH_FUNCTION.findall(text))
    if num_grammar:
        return "en" if len(words) + num_grammar > zh_weight else "zh"
    return "latin" if len(words) > 4 * zh_weight else "zh"


def _read_latin(text: str, words: list[str]) -> tuple[Detection, bool]:
    """Tell English from other languages in Latin script."""
    words = words[:_MAX_LATIN_WORDS]
    readable = [word for word in words if len(word) > 1 or word == "i"]
    if not readable:
        return _NONE, False
    num_common = sum(map(_is_common, readable))
    if num_common == len(readable) or (num_common >= 3 and num_common >= 0.6 * len(readable)):
        return Detection("en", "short"), True
    is_short = len(readable) <= 2
    if is_short and text.isupper() and not num_common and max(map(len, readable)) <= 5 and text.isascii():
        return _NONE, False  # OCR, NBA, BMW: the same in every language
    num_known = sum(_is_common(word) or _is_in_dictionary(word) for word in readable)
    if not is_short:
        share = num_known / len(readable)
        if num_known >= 3 and share >= _ENGLISH_SHARE:
            return Detection("en", "short"), True
        if len(readable) >= 5 and share < _FOREIGN_SHARE:
            return Detection("other", "short"), True
        if (is_english := _ask_langdetect(" ".join(words))) is not None:
            return Detection("en" if is_english else "other", "langdetect"), True
    lead = _english_lead(readable) + _PRIOR_ENGLISH + _LISTED_WORD * num_common
    lead += _KNOWN_WORD * num_known - _UNKNOWN_WORD * (len(readable) - num_known)
    lead -= _FOREIGN_WORD * sum(word in _words("foreign_grammar.txt") for word in readable)
    return Detection("en" if lead > 0 else "other", "langdetect"), abs(lead) > _DOUBT


def _ask_langdetect(text: str) -> bool | None:
    """Ask langdetect whether a text is English; None if it finds nothing to go by.

    It samples n-grams at random, so the seed is fixed: the same text gets the same answer in every process.
    """
    detector = _factory().create()
    detector.n_trial, detector.ITERATION_LIMIT = _NUM_TRIALS, _NUM_ITERATIONS
    detector.append(text)
    try:
        ranked = detector.get_probabilities()
    except LangDetectException:
        return None
    return bool(ranked) and ranked[0].lang == "en"


def _english_lead(words: list[str]) -> float:
    """Return the log-likelihood of English minus that of the best other language, over the n-grams of a word or two.

    langdetect's sampling needs more text than that; the plain sum over its own profiles is what it would estimate.
    """
    factory = _factory()
    totals = [0.0] * len(factory.langlist)
    for word in words:
        padded = _VIETNAMESE.sub("\u1ec3", f" {word} ")
        for size in (1, 2, 3):
            for start in range(len(padded) - size + 1):
                for index, share in enumerate(factory.word_lang_prob_map.get(padded[start : start + size], ())):
                    totals[index] += math.log1p(share / _SMOOTHING)
    return totals[0] - max(totals[1:])


def _is_common(word: str) -> bool:
    common = _words("english_words.txt")
    if word in common:
        return True
    if not word.isascii():
        return False
    for ending, minimum in (("s", 3), ("ly", 4), ("ed", 3), ("d", 4), ("ing", 3), ("'s", 2)):
        if word.endswith(ending):
            stem = word[: -len(ending)]
            if len(stem) >= minimum and (stem in common or (ending == "ing" and f"{stem}e" in common)):
                return True
    return False


def _is_in_dictionary(word: str) -> bool:
    """Look a lower-case word up by bisection: 0.4 MB of sorted lines instead of a set of 4.4 MB."""
    wanted, lines = word.removesuffix("'s").encode(), _dictionary()
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high) // 2
        start, end = lines.rfind(b"\n", 0, middle) + 1, lines.find(b"\n", middle)
        found = lines[start:end]
        if found == wanted:
            return True
        low, high = (end + 1, high) if found < wanted else (low, start)
    return False


@cache
def _dictionary() -> bytes:
    stored = resources.files("policies").joinpath("weights", "english_dictionary.txt").read_bytes()
    return b"".join(line for line in stored.splitlines(keepends=True) if not line.startswith(b"#"))


@cache
def _words(name: str) -> frozenset[str]:
    lines = resources.files("policies").joinpath("weights", name).read_text(encoding="utf-8").splitlines()
    return frozenset(word for line in lines if not line.startswith("#") for word in line.split())


@cache
def _factory() -> DetectorFactory:
    """Load langdetect with its profiles of Latin-script languages only: no other script ever reaches it.

    A factory of our own, because the module-level one is global state that any other user of langdetect could reseed.
    """
    folder = resources.files("langdetect").joinpath("profiles")
    factory = DetectorFactory()
    factory.seed = 0
    factory.load_json_profile([folder.joinpath(name).read_text(encoding="utf-8") for name in _PROFILES])
    return factory
