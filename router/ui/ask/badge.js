// In: a response. Out: who answered and why, how far the two agree and what that means, and where they do not.
import { html } from "../core/html.js";
import { duration, local, t } from "../core/language.js";

/** What a score means, as a key. @param {number} score */
const meaning = (score) => (score >= 0.8 ? "agreement.high" : score >= 0.5 ? "agreement.middle" : "agreement.low");

/** @param {{response: any, isOver: boolean}} props */
export function Badge({ response, isOver }) {
  const hybrid = response.hybrid;
  if (!hybrid) return null;
  const timings = Object.entries(hybrid.timings ?? {}).filter(([, ms]) => typeof ms === "number");
  const total = hybrid.timings?.total;
  const score = hybrid.agreement;
  return html`<details class="badge">
    <summary>
      <span class=${`tag ${hybrid.route}`}>${t(`route.${hybrid.route}`)}</span>
      ${isOver && html`<span class="tag">${response.model}</span>`}
      ${isOver && total !== undefined && html`<span>${duration(total / 1000)}</span>`}
      ${isOver && typeof score === "number" && html`<span class=${`tag ${score >= 0.5 ? "good" : "warn"}`}>${t(meaning(score))}</span>`}
      ${hybrid.cache?.status === "hit" && html`<span class="tag">${t("badge.cache")}</span>`}
      ${(hybrid.degraded ?? []).length > 0 && html`<span class="tag warn">${t("badge.degraded")}</span>`}
    </summary>
    <dl>
      <dt>${t("badge.rule")}</dt><dd><code>${hybrid.rule}</code> (${hybrid.preset})</dd>
      <dt>${t("badge.engine")}</dt><dd>${t(`engine.${hybrid.engine}`)}${hybrid.merge && hybrid.merge !== "single" ? `; ${t(`merge.${hybrid.merge}`)}` : ""}</dd>
      ${hybrid.reasons?.length > 0 && html`<dt>${t("badge.reasons")}</dt><dd><ul>${hybrid.reasons.map((reason) => html`<li>${local(reason, "text")}</li>`)}</ul></dd>`}
      ${typeof score === "number" && html`<dt>${t("badge.agreement")}</dt><dd>${score.toFixed(2)}: ${t(`${meaning(score)}.long`)}${hybrid.agreement_basis?.length ? ` (${t("agreement.basis", { what: hybrid.agreement_basis.map((each) => t(`basis.${each}`)).join(t("and")) })})` : ""}</dd>`}
      ${(hybrid.degraded ?? []).length > 0 && html`<dt>${t("badge.degraded")}</dt><dd><ul>${hybrid.degraded.map((each) => html`<li>${each}</li>`)}</ul></dd>`}
      ${timings.length > 0 && html`<dt>${t("badge.timings")}</dt><dd>${timings.map(([step, ms]) => `${t(`step.${step}`)} ${duration(ms / 1000)}`).join(t("comma"))}</dd>`}
      ${(hybrid.branches ?? []).some((branch) => branch.failure) && html`<dt>${t("badge.failures")}</dt><dd><ul>${hybrid.branches.filter((branch) => branch.failure).map((branch) => html`<li>${t(`engine.${branch.engine}`)}: ${branch.failure.message}</li>`)}</ul></dd>`}
      <dt>id</dt><dd><code>${response.id}</code></dd>
    </dl>
  </details>`;
}

function shown(value) {
  if (value === null || value === undefined || value.length === 0) return "—";
  if (Array.isArray(value) && value.every((each) => typeof each !== "object")) return value.join(t("comma"));
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** Where the two contradict each other, field by field for JSON. @param {{response: any}} props */
export function Conflicts({ response }) {
  const conflicts = response.hybrid?.conflicts ?? [];
  const provenance = Object.entries(response.hybrid?.provenance ?? {});
  if (!conflicts.length && !provenance.length) return null;
  return html`<div class="conflicts">
    ${conflicts.length > 0 && html`<div class="scroll-x" tabindex="0" role="group" aria-label=${t("conflicts")}><table>
      <caption>${t("conflicts")}</caption>
      <thead><tr><th scope="col">${t("conflicts.what")}</th><th scope="col">GLM</th><th scope="col">Owl2</th></tr></thead>
      <tbody>${conflicts.map((each) => html`<tr><th scope="row">${each.path ? html`<code>${each.path}</code>` : t(`basis.${each.kind}`)}</th><td>${shown(each.first)}</td><td>${shown(each.second)}</td></tr>`)}</tbody>
    </table></div>`}
    ${provenance.length > 0 && html`<details><summary>${t("provenance")}</summary><table>
      <thead><tr><th scope="col">${t("conflicts.what")}</th><th scope="col">${t("provenance.who")}</th></tr></thead>
      <tbody>${provenance.map(([path, who]) => html`<tr><th scope="row"><code>${path}</code></th><td>${t(`provenance.${who}`)}</td></tr>`)}</tbody>
    </table></details>`}
  </div>`;
}
