// In: a sentence. Out: it is read aloud by those who cannot see the page, once, when nothing else is being read.
let region = null;

/** @param {string} text */
export function announce(text) {
  region ??= document.body.appendChild(Object.assign(document.createElement("div"), { className: "sr", id: "announcements" }));
  region.setAttribute("role", "status");
  region.setAttribute("aria-live", "polite");
  region.textContent = "";
  setTimeout(() => { region.textContent = text; }, 50);
}
