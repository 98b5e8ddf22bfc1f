// In: a question, or a response of the history. Out: a `Turn`: signals that follow the answer while it grows, through
// closed connections and in as many tabs as there are.
import { signal, computed, batch } from "../core/html.js";
import { ApiError, call, query, readEvents, send, sleep } from "../core/api.js";
import { isRedisUp } from "../core/service.js";

/** @typedef {"sending" | "queued" | "draft" | "refining" | "answering" | "completed" | "incomplete" | "failed" | "cancelled" | "refused"} Phase */
/** @typedef {{file_id?: string, url?: string, name: string, data_url?: string}} Picture */

const ENDED = ["completed", "incomplete", "failed", "cancelled"];
const MOST_POSTS = 4;
const MOST_PAUSE_MS = 250;

// A browser has six connections to one address: tabs that nobody looks at give theirs back, and read on later.
const REST_AFTER_MS = 5000;

/** A signal that is aborted when the tab has been out of view for a while. */
function restWhenHidden(mayRest) {
  const controller = new AbortController();
  let timer = 0;
  const look = () => {
    clearTimeout(timer);
    if (mayRest && document.visibilityState !== "visible") timer = setTimeout(() => controller.abort(), REST_AFTER_MS);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return { signal: controller.signal, end: () => { clearTimeout(timer); document.removeEventListener("visibilitychange", look); } };
}

/** Wait until the tab is in view. */
const inView = (signal) => new Promise((resolve) => {
  const look = () => {
    if (document.visibilityState !== "visible" && !signal.aborted) return;
    document.removeEventListener("visibilitychange", look);
    resolve(undefined);
  };
  document.addEventListener("visibilitychange", look);
  signal.addEventListener("abort", look, { once: true });
  look();
});

const word = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
export const newConversation = () => `conv_${word()}`;

export class Turn {
  /** @param {string} text @param {Picture[]} pictures */
  constructor(text, pictures) {
    this.key = word();
    this.text = text;
    this.pictures = pictures;
    /** @type {any} the response object as it was seen last */
    this.response = signal(null);
    this.draft = signal("");
    this.final = signal("");
    /** @type {{value: {name: string, arguments: string}[]}} functions that the answer calls */
    this.calls = signal([]);
    /** @type {{value: Phase}} */
    this.phase = signal("sending");
    /** @type {{value: {position: number, eta_ms: number | null} | null}} */
    this.place = signal(null);
    /** @type {{value: ApiError | null}} */
    this.error = signal(null);
    this.isReconnecting = signal(false);
    this.isOver = computed(() => this.phase.value === "refused" || ENDED.includes(this.phase.value));
    this.isKept = true;
    this.isUnwanted = false;
    this.asked = null;
    this.sequence = -1;
    this.items = new Map();
    this.told = { draft: "", final: "" };
    this.isFlushing = false;
    this.drawMs = 0;
    this.stop = new AbortController();
  }

  get id() { return this.response.value?.id ?? ""; }

  /** A turn of the history. @param {any} listed a response with the `input` of its last turn */
  static of(listed) {
    const asked = listed.input?.[0];
    const content = asked?.content ?? asked?.output ?? []; // what is answered may be a function's result
    const text = content.filter((part) => part.text).map((part) => part.text).join("");
    const pictures = content.filter((part) => part.type === "input_image").map((part) => ({ file_id: part.file_id, name: "" }));
    const turn = new Turn(text, pictures);
    turn.#see(listed);
    if (!turn.isOver.value) void turn.follow();
    return turn;
  }

  /**
   * Send the question.
   * @param {{model: string, conversation: string, title?: string, previous?: Turn[], route?: string, template?: string, isFresh?: boolean}} how
   */
  async ask(how) {
    this.asked = how;
    this.isKept = isRedisUp.value;
    const content = [
      ...this.pictures.map((picture) => picture.file_id ? { type: "input_image", file_id: picture.file_id } : { type: "input_image", image_url: picture.data_url }),
      ...(this.text ? [{ type: "input_text", text: this.text }] : []),
    ];
    const hybrid = { draft: "message" };
    if (how.template) hybrid.template = how.template;
    if (how.route) hybrid.route = how.route;
    const body = { model: how.model, input: [{ role: "user", content }], stream: true, hybrid };
    const earlier = (how.previous ?? []).filter((turn) => turn.final.value);
    if (this.isKept) {
      const last = earlier.findLast((turn) => turn.id && turn.isKept);
      if (last) body.previous_response_id = last.id;
      body.metadata = { conversation: how.conversation, ...(how.title ? { title: how.title } : {}) };
      body.background = true;
    } else {
      // Without redis nothing is queued or kept: GLM answers this one connection, from what this tab remembers.
      body.store = false;
      body.hybrid.route = "fast";
      const said = earlier.slice(-8).flatMap((turn) => [{ role: "user", content: turn.text || "…" }, { role: "assistant", content: turn.final.value }]);
      body.input = [...said, ...body.input];
    }
    const headers = this.isKept ? { "idempotency-key": word() } : {};
    if (how.isFresh) headers["cache-control"] = "no-cache"; // "ask again" is not to get the same answer from the cache
    for (let number = 1; ; number += 1) {
      try {
        // Sent again under the same key, a question that did arrive is not asked twice.
        return await this.follow(await send("/v1/responses", { body, headers, signal: this.stop.signal }));
      } catch (error) {
        if (this.stop.signal.aborted) return undefined;
        const isAway = error instanceof ApiError && error.code === "queue_unavailable";
        const mayPass = isAway || (error instanceof ApiError && error.status === 0);
        if (!mayPass || !this.isKept || number >= MOST_POSTS || this.isUnwanted) return this.#refuse(error);
        this.isReconnecting.value = true;
        await sleep(400 * 2 ** number, this.stop.signal);
        // Nothing was accepted, and the next looks said that redis is away for longer: GLM answers without it.
        if (isAway && !isRedisUp.value && !this.isUnwanted) return this.ask(how);
      }
    }
  }

  /** Read the answer to its end, again and again from where it was. @param {Response} [first] a stream that is open */
  async follow(first) {
    void this.#watchPlace();
    for (let failures = 0; !this.isOver.value && !this.stop.signal.aborted;) {
      const before = this.sequence;
      try {
        const after = this.sequence < 0 ? {} : { starting_after: this.sequence };
        const stream = first ?? await send(`/v1/responses/${this.id}${query({ stream: "true", ...after })}`, { signal: this.stop.signal });
        first = undefined;
        this.isReconnecting.value = false;
        const rest = restWhenHidden(this.isKept);
        await readEvents(stream, (event) => this.#take(event), rest.signal);
        rest.end();
      } catch (error) {
        if (this.stop.signal.aborted) return;
        first = undefined;
        if (!this.isKept || (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429)) {
          this.#refuse(error);
          return;
        }
      }
      this.#flush();
      if (this.isOver.value) return;
      if (!this.isKept) {
        this.#refuse(new ApiError(0, { message: "", code: "cut" }));
        return;
      }
      if (document.visibilityState !== "visible") {
        await inView(this.stop.signal);
        failures = 0;
        continue;
      }
      failures = this.sequence > before ? 0 : failures + 1;
      this.isReconnecting.value = true;
      await sleep(Math.min(300 * 2 ** failures, 5000), this.stop.signal);
    }
  }

  /** Look no more; what runs goes on. */
  leave() { this.stop.abort(); }

  /** End the work. */
  async cancel() {
    if (!this.isKept) {
      this.leave();
      this.phase.value = "cancelled";
      return;
    }
    // What was sent may run already, under an id that is still on its way.
    this.isUnwanted = !this.id;
    if (this.isUnwanted) return;
    try {
      this.#see(await call(`/v1/responses/${this.id}/cancel`, { method: "POST" }));
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.isReconnecting.value = error.status === 0; // all else is the stream's to say: it ended meanwhile
    }
  }

  #take(event) {
    if (this.isOver.value) return;
    if (typeof event.sequence_number === "number") this.sequence = Math.max(this.sequence, event.sequence_number);
    switch (event.type) {
      case "response.created":
      case "response.queued":
      case "response.in_progress":
        this.#see(event.response);
        break;
      case "response.output_item.added": {
        const kind = event.item.phase === "commentary" ? "draft" : "final";
        this.items.set(event.item.id, kind);
        this.told[kind] = ""; // an answer that was begun anew, in other words
        this.#moveOn(kind === "draft" ? "draft" : this.told.draft ? "refining" : "answering");
        break;
      }
      case "response.output_text.delta":
        this.told[this.items.get(event.item_id) ?? "final"] += event.delta;
        this.#plan();
        break;
      case "response.output_item.done":
        if (this.items.get(event.item.id) === "draft") { this.#flush(); this.#moveOn("refining"); }
        break;
      case "response.completed":
      case "response.incomplete":
      case "response.failed":
        this.#flush();
        this.#see(event.response);
        break;
      case "error":
        this.error.value = new ApiError(500, event);
        if (!this.isKept) this.#refuse(this.error.value);
        break;
      default:
    }
  }

  /** Draw what has come at most once per frame, and not more than a quarter of the time on a slow machine. */
  #plan() {
    if (this.isFlushing) return;
    this.isFlushing = true;
    const flush = () => {
      if (!this.isFlushing) return;
      const began = performance.now();
      this.#flush();
      setTimeout(() => { this.drawMs = performance.now() - began; });
    };
    const isSeen = document.visibilityState === "visible";
    setTimeout(() => (isSeen ? requestAnimationFrame(flush) : flush()), isSeen ? Math.min(3 * this.drawMs, MOST_PAUSE_MS) : MOST_PAUSE_MS);
  }

  #flush() {
    this.isFlushing = false;
    batch(() => {
      // A stream that is read again from its beginning takes nothing away that is shown already.
      for (const kind of ["draft", "final"]) {
        const told = this.told[kind];
        if (told && !(this[kind].value.length > told.length && this[kind].value.startsWith(told))) this[kind].value = told;
      }
    });
  }

  #moveOn(phase) { if (!this.isOver.value) this.phase.value = phase; }

  /** Take what the record says. */
  #see(response) {
    const isStopped = this.isUnwanted && response.id;
    batch(() => {
      const hybrid = response.hybrid ?? {};
      this.response.value = response;
      this.place.value = hybrid.queue ?? null;
      const said = (phase) => response.output?.find((item) => item.phase === phase)?.content?.[0]?.text;
      const draft = hybrid.draft?.text ?? said("commentary");
      if (draft && draft.length >= this.draft.value.length) { this.draft.value = draft; this.told.draft = draft; }
      this.calls.value = (response.output ?? []).filter((item) => item.type === "function_call");
      const final = said("final_answer");
      if (final !== undefined) { this.final.value = final; this.told.final = final; }
      if (ENDED.includes(response.status)) {
        this.phase.value = response.status;
        this.isReconnecting.value = false;
        if (response.error) this.error.value = new ApiError(500, response.error);
      } else if (["sending", "queued"].includes(this.phase.value)) {
        this.phase.value = this.draft.value ? "refining" : "queued";
      }
    });
    if (isStopped && !this.isOver.value) void this.cancel();
  }

  #refuse(error) {
    if (!(error instanceof ApiError)) throw error;
    batch(() => { this.error.value = error; this.isReconnecting.value = false; this.phase.value = "refused"; });
  }

  /** While it waits: ask for the place in the queue; streams do not tell it. */
  async #watchPlace() {
    while (!this.isOver.value && !this.stop.signal.aborted) {
      await sleep(1500, this.stop.signal);
      const waits = ["queued", "refining"].includes(this.phase.value) && !this.final.value;
      if (!this.id || !this.isKept || !waits || document.visibilityState !== "visible") continue;
      try {
        const seen = await call(`/v1/responses/${this.id}`, { signal: this.stop.signal });
        // The stream says the rest, in order; a record read beside it is only good for what waits.
        if (!this.isOver.value && !this.final.value) this.place.value = seen.hybrid.queue ?? null;
        if (ENDED.includes(seen.status)) this.#see(seen);
      } catch { /* the stream finds out */ }
    }
  }
}
