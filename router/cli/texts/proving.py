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
    "promote.unread": Text("{path} cannot be read: {why}", "无法读取 {path}：{why}"),
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
    "promote.model": Text(
        "there is no model {name} whose adapters can be promoted; there are: {models}",
        "没有名为 {name}、其适配器可以提升的模型；现有：{models}",
    ),
    "promote.shadow.glm": Text(
        "{name} cannot be a shadow: fast questions are asked again, and GLM answers those; use `glowl eval`",
        "{name} 不能作影子：重新提问的是快速问题，由 GLM 回答；请用 `glowl eval` 测量它",
    ),
    "promote.back.which": Text(
        "adapters of {models} are promoted; name one model, as in: {command}",
        "{models} 都有已提升的适配器；请指定一个模型，例如：{command}",
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
        "{path}: {arm} was answered by {models}; ask the base as {base}:base, and with every engine ready: "
        "run `glowl eval` with a new --out",
        "{path}：{arm} 的答案来自 {models}；请以 {base}:base 提问基础模型，并等所有引擎就绪："
        "请用新的 --out 再次运行 `glowl eval`",
    ),
    "promote.mixed": Text(
        "{path}: the answers of {arm} are of different weights; run `glowl eval` with a new --out",
        "{path}：{arm} 的答案来自不同的权重；请用新的 --out 再次运行 `glowl eval`",
    ),
    "promote.done": Text(
        "{model} answers {share:.0%} of the requests for {base} from now on ({interval}); back: {command}",
        "从现在起，{model} 回答 {base} 的 {share:.0%} 的请求（{interval}）；撤回：{command}",
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
    "verdict.unjudged": Text(
        "not enough data: of no question that was kept is it known what was right; give feedback on answers",
        "数据不足：已保存的问题都不知道正确答案；请对答案给出反馈",
    ),
    "verdict.shadow": Text(
        "shadow {name} (weights {revision}): {count} questions, the same answer in {same}; gain where it is known what "
        "was right (n = {judged}), in points: {gain}",
        "影子 {name}（权重 {revision}）：{count} 个问题，答案相同的占 {same}；"
        "在已知正确答案处（n = {judged}）的增益，百分点：{gain}",
    ),
    "verdict.note": Text(
        "Gains are in points, of questions with feedback. Intervals of slices hold together with 95 %. A thumb down "
        "without a correction does not count.",
        "增益以百分点计，只含有反馈的问题。各切片的区间同时成立的概率为 95%。只点踩而不更正的反馈不计入。",
    ),
    "verdict.column.gain": Text("gain of a deeper look [95 %]", "深入查看的增益 [95 %]"),
    "verdict.column.seconds": Text("costs s", "多花秒数"),
    "verdict.column.says": Text("it", "结论"),
    "verdict.column.change": Text("policy", "策略"),
    "verdict.pays": Text("pays", "值得"),
    "verdict.harms": Text("harms", "有害"),
    "verdict.not proven": Text("no gain proven", "未证明有增益"),
    "verdict.not enough data": Text("not enough data", "数据不足"),
    "verdict.stays": Text("stays", "不变"),
    "verdict.send deep": Text("send these deep", "将此类问题发往 deep"),
    "verdict.answer fast": Text("answer these fast", "此类问题直接由 fast 回答"),
    "replay.changed": Text(
        "{preset} sends {changed} of {count} questions the other way; of {known} of those both answers are known",
        "{preset} 会使 {count} 个问题中的 {changed} 个改走另一路由；其中 {known} 个两种答案均已知",
    ),
    "replay.deep": Text(
        "share that goes deep: {before:.1%} -> {after:.1%}", "走 deep 的比例：{before:.1%} -> {after:.1%}"
    ),
    "replay.gain": Text(
        "gain, in points per question: {gain} (n = {count})", "每个问题的增益（百分点）：{gain}（n = {count}）"
    ),
    "replay.seconds": Text("an average question takes {seconds:+.1f} s", "平均每个问题用时变化 {seconds:+.1f} 秒"),
    "replay.same": Text(
        "every question takes the same route: there is no difference", "所有问题的路由都相同：没有差别"
    ),
    "replay.few": Text(
        "not enough data: both answers are known of {known} of these questions; GLOWL_SECOND_LOOKS asks more",
        "数据不足：这些问题中只有 {known} 个两种答案均已知；GLOWL_SECOND_LOOKS 可增加",
    ),
    "replay.hidden": Text(
        "not enough data: of {hidden} of these questions the other answer never had a chance to be known; "
        "GLOWL_SECOND_LOOKS was 0, or GLM gave no draft",
        "数据不足：这些问题中有 {hidden} 个的另一答案不可能得知；当时 GLOWL_SECOND_LOOKS 为 0，或 GLM 未给出草稿",
    ),
    "fit.fitted": Text(
        "{name}: fitted on {count} questions that one of both answers won",
        "{name}：用 {count} 个两种答案分出高下的问题拟合",
    ),
    "fit.kept": Text(
        "{name}: stays as it is; {count} questions that one of both answers won, {least} of each are needed",
        "{name}：保持不变；仅有 {count} 个两种答案分出高下的问题，双方各需 {least} 个",
    ),
    "fit.refused": Text(
        "no gain proven on {count} held-out questions ({gain}); nothing is written",
        "在 {count} 个留出问题上未证明有增益（{gain}）；未写出任何文件",
    ),
    "fit.written": Text(
        "{file}: {changed} of {count} held-out questions go the other way, gain {gain}; use it with "
        "GLOWL_MULTI_HOP_WEIGHTS={file}",
        "{file}：{count} 个留出问题中有 {changed} 个改变路由，增益 {gain}；用 GLOWL_MULTI_HOP_WEIGHTS={file} 启用",
    ),
}
