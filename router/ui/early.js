// Runs before the first paint: the theme and the language that this browser chose, so that neither flashes.
(() => {
  const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
  const root = document.documentElement;
  const theme = kept("glowl.theme");
  if (theme === "dark" || theme === "light") root.dataset.theme = theme;
  const chosen = kept("glowl.language") || (navigator.languages || [navigator.language]).find((each) => /^(zh|en)/i.test(each)) || "en";
  root.lang = /^zh/i.test(chosen) ? "zh" : "en";
})();
