"use strict";
// Renews the parts of a page that carry data-live, each after so many seconds, by asking for the
// page again. What comes is put in as parsed markup of our own page; no script in it is run.
const waited = new Map();

function atEnd(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 8;
}

function renew(old, fresh) {
  if (old.innerHTML === fresh.innerHTML && old.dataset.live === fresh.dataset.live) return;
  if (old.contains(document.activeElement) && /^(INPUT|SELECT|BUTTON)$/.test(document.activeElement.tagName)) return;
  if (!getSelection().isCollapsed && old.contains(getSelection().anchorNode)) return; // being copied
  const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") || document.activeElement.id : "";
  const places = new Map();
  for (const box of old.querySelectorAll("pre.log")) places.set(box.id, atEnd(box) ? null : box.scrollTop);
  old.replaceWith(fresh);
  toEnd(fresh, places);
  if (focused) for (const each of fresh.querySelectorAll("a, pre")) if (each.getAttribute("href") === focused || each.id === focused) each.focus();
}

function toEnd(part, places) {
  for (const box of part.querySelectorAll("pre.log")) box.scrollTop = places.get(box.id) ?? box.scrollHeight;
}

async function look() {
  const due = [];
  for (const part of document.querySelectorAll("[data-live]")) {
    const seconds = (waited.get(part.id) || 0) + 1;
    waited.set(part.id, seconds);
    if (seconds >= Number(part.dataset.live)) due.push(part);
  }
  if (due.length && !document.hidden) {
    for (const part of due) waited.set(part.id, 0);
    try {
      const answer = await fetch(location.href, {redirect: "error"});
      document.getElementById("stale").hidden = answer.ok;
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of due) {
          const fresh = page.getElementById(part.id);
          if (fresh) renew(part, document.adoptNode(fresh));
        }
      }
    } catch (error) {
      document.getElementById("stale").hidden = false; // and keep what is there
    }
  }
  setTimeout(look, 1000);
}

toEnd(document, new Map());
setTimeout(look, 1000);
