"""What `glowl eval`, `glowl promote`, `glowl verdict`, `glowl replay` and `glowl policy fit` say.

In: nothing. Out: `Text`s by key.
"""

from __future__ import annotations

from typing import Final

from policies.text import Text

TEXTS: Final[dict[str, Text]] = {
    "eval.data": Text("the data set cannot be used: {why}", "无法使用该数据集：{why}"),
    "eval.empty": Text("{path} has no questions", "{path} 中没有问题"),
    "eval.other": Text(
        "{path} has answers to other questions than these; name another file with --out, or remove it",
        "{path} 中是另一批问题的答案；请用 --out 指定其他文件，或删除它",
    ),
    "eval.file": Text("{path} cannot be written: {why}", "无法写入 {path}：{why}"),
    "eval.asks": Text(
        "asking {count} of {of} questions; answers go to {path}", "正在提问 {count} / {of}；答案写入 {path}"
    ),
    "eval.stopped": Text(
        "stopped; the same command goes on where it was, with {path}", "已停止；再次运行同一命令会从 {path} 继续"
    ),
    "eval.compared": Text("\n{new} less {old}, {measure}, in points:", "\n{new} 减 {old}，{measure}，单位为百分点："),
    "eval.all": Text("all", "全部"),
    "eval.few": Text("not enough data", "数据不足"),
    "eval.mcnemar": Text(
        "right only with the new: {won}, only with the old: {lost}; by chance with p = {p:.3g} (McNemar, exact)",
        "仅新答案正确：{won}，仅旧答案正确：{lost}；纯属偶然的概率 p = {p:.3g}（McNemar 精确检验）",
    ),
    "eval.column.arm": Text("asked", "提问对象"),
    "eval.column.asked": Text("answers", "回答数"),
    "eval.column.failed": Text("failed", "失败"),
    "eval.column.exact": Text("exact %", "完全一致 %"),
    "eval.column.precision": Text("precision %", "字段精确率 %"),
    "eval.column.recall": Text("recall %", "字段召回率 %"),
    "eval.column.f1": Text("F1 %", "字段 F1 %"),
    "eval.column.anls": Text("ANLS* %", "ANLS* %"),
    "eval.column.seconds": Text("median s", "中位秒数"),
    "eval.column.slice": Text("slice", "切片"),
    "eval.column.gain": Text("gain [95 %]", "增益 [95 %]"),
    "eval.column.count": Text("questions", "问题数"),
    "eval.column.documents": Text("documents", "文档数"),
    "promote.few": Text(
        "no gain proven: fewer than 10 documents, not enough data", "未证明有增益：文档少于 10 份，数据不足"
    ),
    "promote.no-gain": Text("no gain proven ({interval})", "未证明有增益（{interval}）"),
    "promote.slice.few": Text(
        "slice {name}: fewer than 10 documents, not enough data to rule out a fall; ask more of it",
        "切片 {name}：文档少于 10 份，数据不足，无法排除下降；请增加该类问题",
    ),
    "promote.slice": Text(
        "slice {name}: a fall of more than {margin:g} points is not ruled out ({interval})",
        "切片 {name}：无法排除下降超过 {margin:g} 个百分点（{interval}）",
    ),
    "promote.unguarded": Text(
        "no questions of slice {name}, so nothing guards it", "没有切片 {name} 的问题，因此它不受保护"
    ),
    "promote.refused": Text("{model} is not promoted", "未提升 {model}"),
    "promote.name": Text(
        "name an adapter of a model, such as glm-4.6v-flash:receipts, not {name}",
        "请指定某个模型的适配器，例如 glm-4.6v-flash:receipts，而不是 {name}",
    ),
    "promote.evidence": Text(
        "name the results of `glowl eval` with --evidence, or only watch with --shadow",
        "请用 --evidence 指定 `glowl eval` 的结果，或用 --shadow 仅作观察",
    ),
    "promote.unknown": Text(
        "{path} has no answers of {arm}; it has: {arms}", "{path} 中没有 {arm} 的答案；现有：{arms}"
    ),
    "promote.incomplete": Text(
        "{path}: {missing} questions were not put to {arm}; run the same `glowl eval` again, it goes on",
        "{path}：还有 {missing} 个问题没有问 {arm}；请再次运行同一个 `glowl eval`，它会继续",
    ),
    "promote.impostor": Text(
        "{path}: {arm} was answered by {models}; ask the base as {base}:base",
        "{path}：{arm} 的答案来自 {models}；请以 {base}:base 提问基础模型",
    ),
    "promote.mixed": Text(
        "{path}: the answers of {arm} are of different weights; run `glowl eval` with a new --out",
        "{path}：{arm} 的答案来自不同的权重；请用新的 --out 再次运行 `glowl eval`",
    ),
    "promote.done": Text(
        "{model} answers {share:.0%} of the requests for {base} from now on ({interval}); "
        "back: {glowl} promote --rollback",
        "从现在起，{model} 回答 {base} 的 {share:.0%} 的请求（{interval}）；撤回：{glowl} promote --rollback",
    ),
    "promote.shadow": Text(
        "{model} is asked a share of {share:.0%} of the questions in idle time; its answers are kept, and never shown",
        "{model} 在空闲时被问 {share:.0%} 的问题；其答案会保存，但从不展示",
    ),
    "promote.back": Text("{base} is answered by {model} again", "{base} 重新由 {model} 回答"),
    "promote.back.none": Text(
        "nothing is promoted, so there is nothing to go back to", "没有提升过任何适配器，无可撤回"
    ),
    "promote.is": Text(
        "{base}: {model} answers {share:.0%} since {at} (weights {revision}; {proof})",
        "{base}：{model} 自 {at} 起回答 {share:.0%}（权重 {revision}；{proof}）",
    ),
    "promote.none": Text("nothing is promoted: every model answers as it is", "没有提升任何适配器：各模型按原样回答"),
}
