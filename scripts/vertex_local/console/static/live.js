"use strict";
// Refreshes the parts of the page that have data-live, a number of seconds: fetches the page again
// after the smallest of these numbers, and replaces the parts. No script in the fetched page runs.
let waited = 0; // seconds since the last refresh

function atEnd(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 8;
}

// Identifies an element, to find it again in a refreshed part.
function identity(element) {
  return element.getAttribute("href") || element.id || element.ariaLabel ||
    (element.form && element.form.getAttribute("action"));
}

function renew(old, fresh) {
  if (old.innerHTML === fresh.innerHTML && old.dataset.live === fresh.dataset.live) return;
  const active = old.contains(document.activeElement) ? document.activeElement : null;
  // Do not disturb somebody who is writing or copying.
  if (active && /^(INPUT|SELECT)$/.test(active.tagName)) return;
  if (!getSelection().isCollapsed && old.contains(getSelection().anchorNode)) return;
  const tops = new Map(), lefts = new Map();
  for (const box of old.querySelectorAll("pre.log")) tops.set(box.id, atEnd(box) ? null : box.scrollTop);
  for (const box of old.querySelectorAll(".scroll")) lefts.set(box.ariaLabel, box.scrollLeft);
  old.replaceWith(fresh);
  toEnd(fresh, tops);
  for (const box of fresh.querySelectorAll(".scroll")) box.scrollLeft = lefts.get(box.ariaLabel) || 0;
  const focusable = [...fresh.querySelectorAll("a, button, [tabindex]")];
  if (active) focusable.find((each) => identity(each) === identity(active))?.focus({preventScroll: true});
}

function toEnd(part, tops) {
  for (const box of part.querySelectorAll("pre.log")) box.scrollTop = tops.get(box.id) ?? box.scrollHeight;
}

async function look() {
  const live = [...document.querySelectorAll("[data-live]")];
  waited += 1;
  if (waited >= Math.min(...live.map((part) => part.dataset.live)) && !document.hidden) {
    waited = 0;
    try {
      const answer = await fetch(location.href, {redirect: "error"});
      document.getElementById("stale").hidden = answer.ok;
      if (answer.ok) {
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const part of live) {
          const fresh = page.getElementById(part.id);
          if (fresh) renew(part, document.adoptNode(fresh));
        }
      }
    } catch (error) {
      document.getElementById("stale").hidden = false;
    }
  }
  setTimeout(look, 1000);
}

toEnd(document, new Map());
setTimeout(look, 1000);
