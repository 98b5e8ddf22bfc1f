// In: the caller's jobs, batches and webhook deliveries. Out: live lists of them, with what can be done about each.
import { Icon } from "../core/icons.js";
import { html, signal } from "../core/html.js";
import { announce } from "../core/announce.js";
import { ApiError, call, download, query, send } from "../core/api.js";
import { duration, moment, t } from "../core/language.js";
import { polled, usePolled } from "../core/poll.js";
import { conversationOf } from "../ask/history.js";

const EVERY_MS = 2000;
const STATES = ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"];
const KINDS = ["list", "batches", "webhooks"];
const ENDED_BATCHES = ["completed", "failed", "expired", "cancelled"];

const state = signal("");
const pages = signal([""]);
const jobs = polled(() => call(`/v1/jobs${query({ limit: 20, state: state.value, after: pages.value.at(-1) })}`));
const batches = polled(() => call("/v1/batches?limit=50"));
const deliveries = polled(() => call("/v1/webhook_deliveries?limit=50"));
const problem = signal("");

async function act(work, source, said) {
  try {
    await work();
    problem.value = "";
    announce(said);
    await source.now();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    problem.value = error.message;
  }
}

const since = (job) => Math.max(0, (job.completed_at ?? Date.now() / 1000) - job.created_at);

function Progress({ job }) {
  const ended = job.units.filter((unit) => !["queued", "in_progress"].includes(unit.status)).length;
  if (!["queued", "in_progress"].includes(job.status)) return duration(since(job));
  const place = job.queue;
  return html`<progress max=${job.units.length} value=${ended} aria-label=${t("jobs.units", { n: ended, all: job.units.length })}></progress>
    <small>${place?.position > 0 ? t("jobs.place", { n: place.position }) : ""} ${place?.eta_ms !== null && place ? t("jobs.eta", { eta: duration(place.eta_ms / 1000) }) : ""}</small>`;
}

function JobList() {
  usePolled(jobs, EVERY_MS, [state.value, pages.value.length]);
  const page = jobs.value.value;
  const pick = (event) => { state.value = event.target.value; pages.value = [""]; void jobs.now(); };
  return html`<div class="row"><label>${t("jobs.state")} <select value=${state.value} onChange=${pick}>
      <option value="">${t("all")}</option>${STATES.map((each) => html`<option value=${each}>${t(`status.${each}`)}</option>`)}
    </select></label></div>
    ${jobs.problem.value && html`<p class="error" role="alert">${jobs.problem.value}</p>`}
    <div class="scroll-x" tabindex="0" role="group" aria-label=${t("jobs.list")}><table class="wide stacked">
      <caption class="sr">${t("jobs.list")}</caption>
      <thead><tr>${["question", "status", "progress", "do"].map((each) => html`<th scope="col">${t(`jobs.${each}`)}</th>`)}</tr></thead>
      <tbody>${(page?.data ?? []).map((job) => html`<tr key=${job.id} data-id=${job.id}>
        <td><a href=${`#/ask/${conversationOf(job)}`}>${job.question || t("history.untitled")}</a>
          <br /><small>${[moment(job.created_at), ...(job.num_images > 0 ? [t("pictures.n", { n: job.num_images })] : []), t(`route.${job.route}`), job.engines.join(" + ")].join(" · ")}</small></td>
        <td><span class=${`status ${job.status}`}>${t(`status.${job.status}`)}</span>${job.failure && html`<br /><small class="error">${job.failure.message}</small>`}</td>
        <td class="number"><${Progress} job=${job} /></td>
        <td><div class="row">
          ${["queued", "in_progress"].includes(job.status) && html`<button type="button" class="small" onClick=${() => act(() => call(`/v1/responses/${job.id}/cancel`, { method: "POST" }), jobs, t("jobs.cancelled"))}>${t("cancel")}</button>`}
          ${job.status === "failed" && html`<button type="button" class="small" onClick=${() => act(() => call(`/v1/jobs/${job.id}/retry`, { method: "POST" }), jobs, t("jobs.retried"))}>${t("retry")}</button>`}
          <button type="button" class="small" aria-label=${t("jobs.download", { id: job.id })} onClick=${() => act(async () => download(`${job.id}.json`, await (await send(`/v1/responses/${job.id}`)).blob()), jobs, t("jobs.saved"))}><${Icon} name="save" /><span class="narrow-hide">JSON</span></button>
        </div></td>
      </tr>`)}</tbody>
    </table></div>
    ${page && !page.data.length && html`<p class="note">${t("jobs.empty")}</p>`}
    <div class="row">
      ${pages.value.length > 1 && html`<button type="button" onClick=${() => { pages.value = pages.value.slice(0, -1); void jobs.now(); }}>${t("newer")}</button>`}
      ${page?.has_more && html`<button type="button" onClick=${() => { pages.value = [...pages.value, page.last_id]; void jobs.now(); }}>${t("older")}</button>`}
    </div>`;
}

function BatchList() {
  usePolled(batches, EVERY_MS);
  const save = (batch, name) => act(async () => download(`${batch.id}-${name}.jsonl`, await (await send(`/v1/files/${batch[`${name}_file_id`]}/content`)).blob()), batches, t("jobs.saved"));
  const found = batches.value.value?.data ?? [];
  return html`${batches.problem.value && html`<p class="error" role="alert">${batches.problem.value}</p>`}
    ${batches.value.value && !found.length && html`<p class="note">${t("batches.empty")}</p>`}
    <ul class="cards">${found.map((batch) => {
      const { total, completed, failed } = batch.request_counts;
      return html`<li key=${batch.id} class="card">
        <p><code>${batch.id}</code> <span class=${`status ${batch.status}`}>${t(`batch.${batch.status}`)}</span> <small>${moment(batch.created_at)}</small></p>
        <p><progress max=${total || 1} value=${completed + failed} aria-label=${t("batches.progress", { n: completed + failed, all: total })}></progress> ${t("batches.counts", { total, completed, failed })}</p>
        ${(batch.errors?.data ?? []).slice(0, 3).map((each) => html`<p class="error">${each.message}</p>`)}
        <p class="row">
          ${batch.output_file_id && html`<button type="button" class="small" onClick=${() => save(batch, "output")}>${t("batches.output")}</button>`}
          ${batch.error_file_id && html`<button type="button" class="small" onClick=${() => save(batch, "error")}>${t("batches.errors")}</button>`}
          ${!ENDED_BATCHES.includes(batch.status) && batch.status !== "cancelling" && html`<button type="button" class="small" onClick=${() => act(() => call(`/v1/batches/${batch.id}/cancel`, { method: "POST" }), batches, t("jobs.cancelled"))}>${t("cancel")}</button>`}
        </p></li>`;
    })}</ul>`;
}

function DeliveryList() {
  usePolled(deliveries, EVERY_MS);
  const found = deliveries.value.value?.data ?? [];
  return html`${deliveries.problem.value && html`<p class="error" role="alert">${deliveries.problem.value}</p>`}
    ${deliveries.value.value && !found.length && html`<p class="note">${t("webhooks.empty")}</p>`}
    <ul class="cards">${found.map((each) => html`<li key=${each.id} class="card">
      <p><code>${each.event_type}</code> <span class=${`status ${each.status}`}>${t(`delivery.${each.status}`)}</span> <small>${moment(each.created_at)}</small></p>
      <p>${each.url || each.webhook_endpoint_id} ${each.failure && html`<span class="error">${each.failure}</span>`}</p>
      <details><summary>${t("webhooks.attempts", { n: each.num_attempts })}</summary><ol>${each.attempts.map((attempt) => html`<li>${moment(attempt.started_at)}: ${attempt.status_code ?? ""} ${attempt.error ?? ""} (${duration(attempt.duration_ms / 1000)})</li>`)}</ol></details>
      <p><button type="button" class="small" onClick=${() => act(() => call(`/v1/webhook_deliveries/${each.id}/redeliver`, { method: "POST" }), deliveries, t("webhooks.sent"))}>${t("webhooks.redeliver")}</button></p>
    </li>`)}</ul>`;
}

/** @param {{path: string[]}} props */
export default function Jobs({ path }) {
  const kind = KINDS.includes(path[0]) ? path[0] : "list";
  const List = { list: JobList, batches: BatchList, webhooks: DeliveryList }[kind];
  return html`<h1>${t("view.jobs")}</h1>
    <nav class="tabs" aria-label=${t("jobs.kinds")}>${KINDS.map((each) => html`<a key=${each} href=${`#/jobs/${each}`} aria-current=${each === kind ? "page" : undefined}>${t(`jobs.kind.${each}`)}</a>`)}</nav>
    ${problem.value && html`<p class="error" role="alert">${problem.value}</p>`}
    <${List} key=${kind} />`;
}
