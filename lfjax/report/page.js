"use strict";
const THEMES = {auto: "as the system", light: "light", dark: "dark"};
const root = document.documentElement, button = document.getElementById("theme");

function paint(theme) {
  if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
  button.dataset.now = theme;
  button.textContent = "Theme: " + THEMES[theme];
}

function remembered() {
  try { return localStorage.getItem("lfjax-theme"); } catch { return null; } // a file may have none
}

paint(THEMES[remembered()] ? remembered() : "auto");
button.addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const theme = names[(names.indexOf(button.dataset.now) + 1) % names.length];
  paint(theme);
  try { localStorage.setItem("lfjax-theme", theme); } catch { /* then it lasts for this visit */ }
});

for (const board of document.querySelectorAll(".board")) {
  const control = name => board.querySelector("." + name);
  const prompts = [...board.querySelectorAll("article")].map(article => ({
    article, words: article.textContent.toLowerCase(),
    entries: [...article.querySelectorAll(".entry")].map(e =>
      ({system: e.dataset.system, verdicts: JSON.parse(e.dataset.verdicts)})),
  }));
  const filter = () => {
    const wanted = control("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = control("verdict").value, system = control("system")?.value;
    let shown = 0;
    for (const {article, words, entries} of prompts) {
      article.hidden = !(wanted.every(w => words.includes(w)) &&
        entries.some(e => (!verdict || e.verdicts.includes(verdict)) &&
          (!system || e.system === system)) &&
        (!control("differ")?.checked || "differ" in article.dataset));
      shown += !article.hidden;
    }
    control("count").textContent = shown + " of " + prompts.length + " shown";
    control("none").hidden = shown > 0;
  };
  board.addEventListener("input", filter);
  filter();
}

for (const alone of document.querySelectorAll(".alone")) {
  alone.addEventListener("click", () => {
    const page = alone.closest("details").querySelector("iframe").srcdoc;
    open(URL.createObjectURL(new Blob([page], {type: "text/html"})));
  });
}
