// In: `/readyz`, the models, `/metrics` for those who may read it, and the newest jobs. Out: how the service does, and how it did these last minutes.
import { html } from "../core/html.js";
import { call } from "../core/api.js";
import { duration, t } from "../core/language.js";
import { Lines } from "../core/chart.js";
import { growth, look, looks, perMinute, quantile, total } from "../core/metrics.js";
import { Mix } from "../core/mix.js";
import { polled, usePolled } from "../core/poll.js";
import { history, models, ready } from "../core/service.js";

const EVERY_MS = 5000;
const measured = polled(look);
const newest = polled(() => call("/v1/jobs?limit=100"));

/** The value below which a share of all is. @param {number[]} values sorted @param {number} share */
const percentile = (values, share) => (values.length ? values[Math.min(values.length - 1, Math.floor(share * values.length))] : null);

function times(jobs, route) {
  const found = jobs.filter((job) => job.route === route && job.status === "completed" && job.completed_at).map((job) => job.completed_at - job.created_at);
  return found.sort((a, b) => a - b);
}

const said = (seconds) => (seconds === null ? "–" : duration(seconds));

function Engine({ name }) {
  const state = ready.value?.engines?.[name];
  const queue = ready.value?.queues?.[name];
  const servers = ready.value?.backends?.[name];
  const model = models.value.find((each) => each.hybrid.engine === name && !each.hybrid.adapter);
  const isUp = state === "up";
  return html`<li class="card">
    <h3>${t(`engine.${name}`)}</h3>
    <p><span class=${`status ${isUp ? "completed" : "failed"}`}>${t(isUp ? "status.up" : "status.down")}</span> <code>${model?.id ?? ""}</code></p>
    ${queue && html`<p>${t("status.queue", { n: queue.num_waiting, age: duration(queue.queue_age_s) })}${queue.overloaded && html` <strong>${t("status.overloaded")}</strong>`}</p>`}
    ${servers?.length > 1 && html`<ul>${servers.map((server) => html`<li>${t("status.server", { n: server.server })}: ${t(server.status === "up" ? "status.up" : "status.down")}</li>`)}</ul>`}
  </li>`;
}

const share = (parts, all) => parts.map((part, index) => (part === null || !all[index] ? null : (100 * part) / all[index]));

/** What this process of the api has counted; nothing for keys that may not read it. */
function Measured() {
  const all = looks.value;
  if (!all.length) return null;
  const times = all.map((each) => each.at);
  const at = (route) => [0.5, 0.95].map((part) => ({ label: `P${100 * part}`, values: quantile(all, "glowl_e2e_request_latency_seconds", part, { route }) }));
  const hits = share(growth(all, "glowl_answer_cache_hits_total"), growth(all, "glowl_answer_cache_queries_total"));
  const errors = [
    { label: t("status.refused"), values: perMinute(all, "glowl_refusals_total") },
    { label: t("status.failed"), values: perMinute(all, "glowl_answers_total", { state: "failed" }) },
  ];
  const memory = [["redis", "glowl_redis_memory_used_bytes"], ["api", "process_resident_memory_bytes"]].filter(([, name]) => all.some((each) => total(each, name) !== null))
    .map(([label, name]) => ({ label, values: all.map((each) => { const bytes = total(each, name); return bytes === null ? null : bytes / 1e6; }) }));
  return html`<h2>${t("status.measured")}</h2>
    <div class="charts">
      ${["fast", "deep"].map((route) => html`<${Lines} key=${route} label=${t("status.latency", { route: t(`route.${route}`) })} times=${times} lines=${at(route)} unit=" s" />`)}
      <${Lines} label=${t("status.errors")} times=${times} lines=${errors} />
      <${Lines} label=${t("status.cache")} times=${times} lines=${[{ label: t("status.hits"), values: hits }]} unit=" %" />
      ${memory.length > 0 && html`<${Lines} label=${t("status.memory")} times=${times} lines=${memory} unit=" MB" />`}
    </div>
    <p class="note">${t("status.measured.note")}</p>`;
}

export default function Status() {
  usePolled(newest, EVERY_MS);
  usePolled(measured, EVERY_MS);
  const now = ready.value;
  const jobs = newest.value.value?.data ?? [];
  const kept = history.value;
  const at = kept.map((each) => each.at);
  const engines = Object.keys(now?.engines ?? { glm: "", owl2: "" });
  const waiting = engines.map((name) => ({ label: t(`engine.${name}`), values: kept.map((each) => each.ready?.queues?.[name]?.num_waiting ?? (each.ready?.redis ? 0 : null)) }));
  const ages = engines.map((name) => ({ label: t(`engine.${name}`), values: kept.map((each) => each.ready?.queues?.[name]?.queue_age_s ?? (each.ready?.redis ? 0 : null)) }));
  const ended = jobs.filter((job) => !["queued", "in_progress"].includes(job.status));
  const counts = (key, names) => names.map((name) => ({ label: t(`${key}.${name}`), n: ended.filter((job) => (key === "route" ? job.route : job.status) === name).length }));
  return html`<h1>${t("view.status")}</h1>
    <p class="big"><span class=${`status ${now?.status === "ready" ? "completed" : "failed"}`}>${t(now ? `service.${now.status.replace(" ", "_")}` : "trouble.service")}</span> ${" "}redis: <span class=${`status ${now?.redis ? "completed" : "failed"}`}>${t(now?.redis ? "status.up" : "status.down")}</span></p>
    ${now?.rules_error && html`<p class="error" role="alert">${now.rules_error}</p>`}
    <h2>${t("status.engines")}</h2>
    <ul class="cards">${engines.map((name) => html`<${Engine} key=${name} name=${name} />`)}</ul>
    <h2>${t("status.queues")}</h2>
    <div class="charts"><${Lines} label=${t("status.waiting")} times=${at} lines=${waiting} /><${Lines} label=${t("status.age")} times=${at} lines=${ages} unit=" s" /></div>
    <${Measured} />
    <h2>${t("status.answers", { n: ended.length })}</h2>
    ${newest.problem.value && html`<p class="error" role="alert">${newest.problem.value}</p>`}
    ${ended.length > 0 && html`<${Mix} label=${t("status.routes")} parts=${counts("route", ["fast", "deep"])} />
    <${Mix} label=${t("status.ends")} parts=${counts("status", ["completed", "incomplete", "failed", "cancelled"])} />
    <div><table><caption>${t("status.times")}</caption><thead><tr><th scope="col">${t("jobs.route")}</th><th scope="col">P50</th><th scope="col">P95</th></tr></thead>
      <tbody>${["fast", "deep"].map((route) => html`<tr><th scope="row">${t(`route.${route}`)}</th><td>${said(percentile(times(ended, route), 0.5))}</td><td>${said(percentile(times(ended, route), 0.95))}</td></tr>`)}</tbody></table></div>`}
    <p class="note">${t("status.note")}</p>`;
}
