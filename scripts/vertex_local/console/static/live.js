"use strict";
// Renews all parts of a page that carry data-live by asking for the page again, after the smallest
// number of seconds that one of them carries. What comes is put in as parsed markup of our own
// page; no script in it is run.
let waited = 0; // seconds since the last time

function atEnd(box) {
  return box.scrollHeight - box.scrollTop - box.clientHeight < 8;
}

// By what an element is found again in a renewed part.
function sign(element) {
  return element.getAttribute("href") || element.id || element.ariaLabel ||
    (element.form && element.form.getAttribute("action"));
}

function renew(old, fresh) {
  if (old.innerHTML === fresh.innerHTML && old.dataset.live === fresh.dataset.live) return;
  const active = old.contains(document.activeElement) ? document.activeElement : null;
  if (active && /^(INPUT|SELECT)$/.test(active.tagName)) return; // somebody is writing
  if (!getSelection().isCollapsed && old.contains(getSelection().anchorNode)) return; // or copying
  const tops = new Map(), lefts = new Map();
  for (const box of old.querySelectorAll("pre.log")) tops.set(box.id, atEnd(box) ? null : box.scrollTop);
  for (const box of old.querySelectorAll(".scroll")) lefts.set(box.ariaLabel, box.scrollLeft);
  old.replaceWith(fresh);
  toEnd(fresh, tops);
  for (const box of fresh.querySelectorAll(".scroll")) box.scrollLeft = lefts.get(box.ariaLabel) || 0;
  const focusable = [...fresh.querySelectorAll("a, button, [tabindex]")];
  if (active) focusable.find((each) => sign(each) === sign(active))?.focus({preventScroll: true});
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
      document.getElementById("stale").hidden = false; // and keep what is there
    }
  }
  setTimeout(look, 1000);
}

toEnd(document, new Map());
setTimeout(look, 1000);
