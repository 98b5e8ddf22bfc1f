// In: an answer as it grows. Out: its blocks as safe HTML. A block that has ended is drawn once and never again, and the
// last one is kept short, so that a word costs the same in a long answer as in a short one.
import { html, useEffect, useMemo, useRef } from "../core/html.js";
import { announce } from "../core/announce.js";
import { t } from "../core/language.js";
import { Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";

// A block is cut here even where Markdown would go on: a list of a thousand lines is drawn as several.
const MOST_CHARS = 2000;
const MOST_CODE_CHARS = 6000;
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const PLAIN_TAG = /^<\/?(br|b|i|s|sub|sup|kbd)\s*\/?>$/i;
const LIST = /^\s*([-*+]|\d+[.)])\s/;

/** Cuts a text that grows at its end into Markdown blocks. */
export class Blocks {
  constructor() { this.reset(); }

  reset() {
    /** @type {string[]} blocks that have ended */
    this.ended = [];
    this.start = 0;
    this.scanned = 0;
    this.prefix = "";
    this.fence = "";
    this.opening = "";
    this.isBlank = false;
    this.isList = false;
  }

  /** Take the text so far; return the block that has not ended. @param {string} text */
  feed(text) {
    if (text.length < this.scanned) this.reset();
    for (;;) {
      const end = text.indexOf("\n", this.scanned);
      if (end < 0) break;
      this.#take(text, text.slice(this.scanned, end), this.scanned);
      this.scanned = end + 1;
    }
    return this.prefix + text.slice(this.start);
  }

  #take(text, line, at) {
    const fence = FENCE.exec(line)?.[1] ?? "";
    if (this.fence) {
      if (fence && fence[0] === this.fence[0] && fence.length >= this.fence.length && line.trim() === fence) this.fence = "";
      else if (at - this.start > MOST_CODE_CHARS) {
        const opening = this.opening;
        this.#end(text, at, `\n${this.fence}`);
        this.prefix = `${opening}\n`;
      }
      return;
    }
    const isBlank = line.trim() === "";
    const goesOn = isBlank || (this.isList && (LIST.test(line) || /^\s/.test(line)));
    if (at > this.start && ((this.isBlank && !goesOn) || (fence && !this.isList) || at - this.start > MOST_CHARS)) this.#end(text, at);
    if (at === this.start) this.isList = LIST.test(line);
    if (fence) { this.fence = fence; this.opening = line; }
    this.isBlank = isBlank;
  }

  #end(text, at, suffix = "") {
    this.ended.push(this.prefix + text.slice(this.start, at).trimEnd() + suffix);
    this.start = at;
    this.prefix = "";
    this.isList = false;
  }
}

const escape = (text) => text.replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);
const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    // All of one level: the page's own headings are above them.
    heading({ tokens }) { return `<h3>${this.parser.parseInline(tokens)}</h3>\n`; },
    // HTML in an answer is text, but for what models write in tables: not even an inert document is to parse the rest.
    html({ text }) { return PLAIN_TAG.test(text.trim()) ? text : escape(text); },
    // Whoever serves a picture would know who reads the answer.
    image({ text, href }) { return `<em>[${escape(text || href)}]</em>`; },
  },
});
const TAGS = ["p", "br", "hr", "em", "strong", "b", "i", "del", "s", "code", "pre", "ul", "ol", "li", "blockquote", "h3", "table", "thead", "tbody",
  "tr", "th", "td", "a", "sup", "sub", "kbd"];
DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

/** Markdown as HTML in which nothing runs and nothing is loaded. @param {string} text */
export const toHtml = (text) => DOMPurify.sanitize(/** @type {string} */ (marked.parse(text)), {
  ALLOWED_TAGS: TAGS, ALLOWED_ATTR: ["href", "title", "start"], ALLOW_DATA_ATTR: false, ALLOW_ARIA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
});

function decorate(node) {
  for (const code of node.querySelectorAll("pre:not(.framed)")) {
    code.classList.add("framed");
    code.tabIndex = 0;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy small";
    button.textContent = t("copy");
    button.addEventListener("click", async () => {
      await navigator.clipboard?.writeText(code.textContent ?? "");
      button.textContent = t("copied");
      announce(t("copied"));
    });
    const frame = document.createElement("div");
    frame.className = "code";
    code.replaceWith(frame);
    frame.append(button, code);
  }
  for (const table of node.querySelectorAll("table:not(.framed)")) {
    table.classList.add("framed");
    const frame = document.createElement("div");
    frame.className = "scroll-x";
    frame.tabIndex = 0;
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", t("table"));
    table.replaceWith(frame);
    frame.append(table);
  }
}

function Block({ text, isOpen }) {
  const ref = useRef(null);
  const inner = useMemo(() => ({ __html: toHtml(text) }), [text]);
  useEffect(() => { if (!isOpen) decorate(ref.current); }, [text, isOpen]);
  return html`<div class="block" ref=${ref} dangerouslySetInnerHTML=${inner}></div>`;
}

/** An answer. @param {{text: string, isOpen: boolean}} props of which `isOpen`: more of it is to come */
export function Markdown({ text, isOpen }) {
  const state = useRef(/** @type {{blocks: Blocks, nodes: any[]} | null} */ (null));
  state.current ??= { blocks: new Blocks(), nodes: [] };
  const { blocks, nodes } = state.current;
  const last = blocks.feed(text);
  if (nodes.length > blocks.ended.length) nodes.length = 0;
  // The same objects as the last time: what has ended is not even compared.
  while (nodes.length < blocks.ended.length) nodes.push(html`<${Block} key=${nodes.length} text=${blocks.ended[nodes.length]} isOpen=${false} />`);
  return html`<div class="md">${nodes}${last.trim() && html`<${Block} key=${nodes.length} text=${last} isOpen=${isOpen} />`}</div>`;
}
