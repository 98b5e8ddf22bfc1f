"""Every sentence the policy says, in English and Chinese.

In: nothing. Out: `Text`s with places for values; `policies.sentences` fills them.
"""

from typing import Final

from policies.text import Text

# --- names of values ---------------------------------------------------------------------------------------------

NONE: Final = Text("none", "无")
LIST: Final = Text("; ", "；")
ENUMERATION: Final = Text(", ", "、")
BRACKETS: Final = Text(" ({inside})", "（{inside}）")

LANGUAGES: Final = {
    "zh": Text("Chinese", "中文"),
    "en": Text("English", "英文"),
    "other": Text("another language", "其他语言"),
    "none": Text("no language of its own", "无法判断的语言"),
}
SOURCES: Final = {
    "script": Text("by its script", "依据文字"),
    "langdetect": Text("by its n-grams", "依据字符片段"),
    "short": Text("by its words", "依据词汇"),
    "history": Text("from earlier turns", "依据之前的对话"),
    "none": Text("nothing to read", "没有可读的文字"),
}
COUNTS: Final = {
    "num_images": Text("distinct pictures in the conversation", "对话中不同的图片数"),
    "num_new_images": Text("distinct pictures in this turn", "本轮不同的图片数"),
    "num_chars": Text("characters", "字符数"),
}
CHANGED_COUNTS: Final = {**COUNTS, "num_images": Text("distinct pictures", "不同的图片数")}
DURATION_MS: Final = Text("{ms} ms", "{ms} 毫秒")

# --- why a rule held, or nearly did ------------------------------------------------------------------------------

LANGUAGE: Final = Text("the question is in {language} ({source})", "问题语言为{language}（{source}）")
REQUESTED_ROUTE: Final = Text("the caller asked for the route {value}", "调用方指定路径 {value}")
REQUESTED_ENGINE: Final = Text("the caller named the engine {value}", "调用方指定引擎 {value}")
SEVERAL_IMAGES: Final = Text("the wording speaks of several pictures ({cues})", "措辞提到多张图片（{cues}）")
ONE_IMAGE: Final = Text("the wording does not speak of several pictures", "措辞没有提到多张图片")
COURTESY: Final = Text("the turn is courtesy and asks nothing", "本轮只是客套话，没有提问")
NO_COURTESY: Final = Text("the turn asks something", "本轮提出了问题")
INTERACTIVE: Final = Text("somebody is waiting ({reason})", "有人在等待（{reason}）")
NOT_INTERACTIVE: Final = Text("nobody is said to be waiting", "没有说明有人在等待")
DEADLINE: Final = Text(
    "the deadline is {deadline_ms} ms and a job is expected to take {estimate_ms} ms",
    "时限为 {deadline_ms} 毫秒，任务预计需要 {estimate_ms} 毫秒",
)
MULTI_HOP: Final = Text(
    "multi-hop score {value:.2f} against {threshold:g}{cues}", "多步程度 {value:.2f}，阈值 {threshold:g}{cues}"
)
COUNT: Final = Text("{name}: {value} against {threshold}", "{name}：{value}，阈值 {threshold}")

# --- what came before or beside the rules ------------------------------------------------------------------------

KEY: Final = Text("the key goes {route}", "该密钥固定走 {route} 路径")
SAME_PICTURES: Final = Text(
    "the conversation stays {route} while its {count} pictures are the same",
    "同一对话的 {count} 张图片没有变化，保持 {route} 路径",
)
OTHER_PICTURES: Final = Text("another set of pictures would send it {route}", "图片集合改变后将走 {route} 路径")
CANARY: Final = Text(
    "the conversation is one of the {share:.0%} that try {route}", "该对话属于试走 {route} 路径的 {share:.0%}"
)
TOOLS: Final = Text(
    "functions are called by glm alone; without them the rule {rule} would send it {route}",
    "函数只能由 glm 调用；若没有函数，规则 {rule} 会走 {route} 路径",
)
NO_TOOLS: Final = Text("a conversation without functions would go {route}", "没有函数的对话将走 {route} 路径")
NO_CANARY: Final = Text("outside the canary's share it would go {route}", "不在试验份额内时将走 {route} 路径")

# --- degraded ----------------------------------------------------------------------------------------------------

HOW: Final = {
    "glm": Text("answered by glm alone", "由 glm 单独回答"),
    "owl2": Text("answered by owl2, as a job", "改由 owl2 以任务方式回答"),
}
BECAUSE: Final = Text("{why}: {how}", "{why}：{how}")
QUOTA: Final = Text(
    "the {route} route has had its share ({used:.0%} of {limit:.0%})",
    "{route} 路径的份额已用完（{used:.0%}，上限 {limit:.0%}）",
)
QUOTA_KEPT: Final = Text(
    "{why} and {engine} is down: it goes there all the same", "{why}，而 {engine} 不可用：仍走原路径"
)
PANEL_MISSING: Final = Text("the panel sits without {arms}", "评审组缺少 {arms}")
ALL_DOWN: Final = Text(
    "glm and owl2 are down: the route is kept until one is back", "glm 和 owl2 均不可用：保留原路径，等待恢复"
)
DOWN: Final = Text("{engine} is down", "{engine} 不可用")
TOOLS_NEED_GLM: Final = Text(
    "glm is down, and only it calls functions: no other engine takes over",
    "glm 不可用，而函数只能由它调用：没有引擎可以接手",
)
TOOLS_NOT_DEEP: Final = Text(
    "the caller asked for the route deep, on which no function can be called: answered by glm alone",
    "调用方指定 deep 路径，但该路径不能调用函数：由 glm 单独回答",
)
ASKED_FOR: Final = Text(", which the caller asked for", "（调用方指定）")
NO_TAKE_OVER: Final = Text("{why} and {engine} cannot take over: it waits", "{why}，而 {engine} 无法接手：继续等待")
NO_DRAFT: Final = Text("glm is down: no first answer before owl2's", "glm 不可用：在 owl2 回答之前没有初步回答")
OVERLOADED: Final = Text(
    "{engine} has a queue {age_s:g} s old (limit {limit_s:g} s)",
    "{engine} 的队列已等待 {age_s:g} 秒（上限 {limit_s:g} 秒）",
)
STILL_OVERLOADED: Final = Text(
    "{engine} was over its limit of {limit_s:g} s and has a queue {age_s:g} s old (back at {back_s:g} s)",
    "{engine} 的队列曾超过上限 {limit_s:g} 秒，现已等待 {age_s:g} 秒（降到 {back_s:g} 秒后恢复）",
)

# --- what would change the route ---------------------------------------------------------------------------------

THEN: Final = Text("{change} would send it {route}", "{change}将走 {route} 路径")
CHANGED_SCORE: Final = Text(
    "a multi-hop score of {wanted:g} instead of {current:g}", "多步程度为 {wanted:g}（现为 {current:g}）时"
)
CHANGED_COUNT: Final = Text("{wanted} {name} instead of {current}", "{name}为 {wanted}（现为 {current}）时")
CHANGED_DEADLINE: Final = Text("a deadline of {wanted} instead of {current}", "时限为 {wanted}（现为 {current}）时")
CHANGED_FLAGS: Final = {
    ("mentions_several_images", True): Text("wording that speaks of several pictures", "措辞提到多张图片时"),
    ("mentions_several_images", False): Text("wording that speaks of one picture only", "措辞不再提到多张图片时"),
    ("is_courtesy", True): Text("a turn that is courtesy alone", "仅为客套话时"),
    ("is_courtesy", False): Text("a turn that asks something", "提出问题时"),
    ("is_interactive", True): Text(
        "somebody waiting (service_tier: priority)", "有人在等待（service_tier: priority）时"
    ),
    ("is_interactive", False): Text("nobody waiting", "没有人等待时"),
}
CHANGED_LANGUAGE: Final = Text("a question in {wanted} instead of {current}", "问题语言为{wanted}（现为{current}）时")
CHANGED_ROUTE: Final = Text(
    "hybrid.route: {wanted} instead of {current}", "hybrid.route 为 {wanted}（现为 {current}）时"
)
CHANGED_ENGINE: Final = Text("naming the engine {wanted}", "指定引擎 {wanted} 时")

# --- the engines' health ------------------------------------------------------------------------------------------

ENGINE_DOWN: Final = Text("{engine} down", "{engine} 不可用")
ENGINE_UP: Final = Text("{engine} up, queue {age_s:g} s old", "{engine} 可用，队列已等待 {age_s:g} 秒")
EXPECTED: Final = Text("a job is expected to take {ms} ms", "作业预计需要 {ms} 毫秒")

# --- the rows of an explanation ----------------------------------------------------------------------------------

LABELS: Final = {
    "route": Text("route", "路径"),
    "rule": Text("rule", "规则"),
    "reasons": Text("because", "原因"),
    "degraded": Text("degraded", "降级"),
    "margin": Text("margin", "余量"),
    "flip": Text("would change it", "改变条件"),
    "dial": Text("dial", "旋钮"),
    "engines": Text("engines", "引擎"),
    "language": Text("language", "语言"),
    "pictures": Text("pictures", "图片"),
    "several": Text("several in words", "提到多张图"),
    "multi_hop": Text("multi-hop", "多步程度"),
    "interactive": Text("interactive", "交互"),
    "asked": Text("asked for", "调用方要求"),
    "chars": Text("characters", "字符数"),
}
ROUTE: Final = Text("{route}, answered by {engine}", "{route}，由 {engine} 回答")
THINKING: Final = Text(", thinking", "（先思考）")
PANEL: Final = Text("; asked: {arms}", "；同时询问：{arms}")
NO_REASON: Final = Text("no rule before it held", "前面的规则都不成立")
NOT_NEAR: Final = Text("nothing graded is near a threshold", "没有接近阈值的度量")
NO_FLIP: Final = Text("no single change", "没有单一的改变可以做到")
MEASURED_LANGUAGE: Final = Text("{code} ({source})", "{name}（{source}）")
PICTURES: Final = Text("{total} distinct, {new} of them in this turn", "共 {total} 张不同的图片，本轮 {new} 张")
THRESHOLD: Final = Text(" against {threshold:g}", "，阈值 {threshold:g}")
NO: Final = Text("no", "否")
ASKED: Final = Text("route {route}, engine {engine}", "路径 {route}，引擎 {engine}")
ASKED_DEADLINE: Final = Text(", deadline {ms} ms", "，时限 {ms} 毫秒")
