// Keeps the health live, and shows the same article in all lists. The page works without it.
"use strict";

const EVERY_MS = 2000;
const PATIENCE_MS = 5000;

async function fetchHealth() {
  const answer = await fetch("/health", { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// The summary is read out when it changes, so it is touched only then.
function tell(text, kind) {
  const summary = document.getElementById("health-summary");
  if (summary.textContent !== text) summary.textContent = text;
  summary.className = kind;
}

async function refreshHealth() {
  if (!document.hidden) {
    try {
      const seen = await fetchHealth();
      const summary = seen.getElementById("health-summary");
      document.querySelector("table.health").replaceWith(seen.querySelector("table.health"));
      tell(summary.textContent, summary.className);
    } catch {
      tell("the explorer itself does not answer", "bad");
    }
  }
  setTimeout(refreshHealth, EVERY_MS);
}

function markSame(row, marked) {
  for (const each of document.querySelectorAll(`tr[data-article="${row.dataset.article}"]`)) {
    each.classList.toggle("same", marked);
  }
}

for (const row of document.querySelectorAll("tr[data-article]")) {
  row.addEventListener("mouseenter", () => markSame(row, true));
  row.addEventListener("mouseleave", () => markSame(row, false));
}

// Fields left empty stay out of the address, which people pass on.
document.querySelector("form").addEventListener("formdata", ({ formData }) => {
  for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
});

setTimeout(refreshHealth, EVERY_MS);
