// In: counts by name. Out: one bar of their shares, also read as text.
import { html } from "./html.js";

/** Shares of a whole as one bar. @param {{label: string, parts: {label: string, n: number}[]}} props */
export function Mix({ label, parts }) {
  const all = parts.reduce((sum, part) => sum + part.n, 0) || 1;
  const said = parts.map((part) => `${part.label} ${part.n} (${Math.round((100 * part.n) / all)} %)`).join(", ");
  return html`<figure class="mix"><figcaption>${label} <small>${said}</small></figcaption><div class="bar" role="img" aria-label=${`${label}: ${said}`}>
    ${parts.filter((part) => part.n > 0).map((part, index) => html`<span key=${part.label} class=${`part p${index}`} style=${{ width: `${(100 * part.n) / all}%` }}></span>`)}
  </div></figure>`;
}
