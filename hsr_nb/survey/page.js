// Keys, response time and the exposure limit. Without this file the survey works by its buttons, and no time is measured.
"use strict";
(() => {
  const form = document.querySelector("form[data-keys]");
  const image = document.querySelector(".picture img");
  const show = document.querySelector("[data-show]");
  const heading = document.querySelector("h1[tabindex]");
  let since = null, sent = false;

  // a page from the browser's memory is older than the answers: ask again
  window.addEventListener("pageshow", (e) => { if (e.persisted) window.location.reload(); });
  if (heading) heading.focus({ preventScroll: true });
  if (!form) return;
  const buttons = [...form.querySelectorAll("button[name]")];

  const start = () => { if (since === null) since = performance.now(); };
  const open = (yes) => buttons.forEach((b) => { b.disabled = !yes; });

  if (show) {                                    // a picture that is seen for a limited time
    const cover = document.querySelector(".cover"), after = document.querySelector("[data-after]");
    const before = document.querySelector("[data-before]");
    open(false);
    show.hidden = false;
    show.focus();
    show.addEventListener("click", () => {
      show.disabled = true;
      image.addEventListener("load", () => {
        cover.hidden = true;
        start();
        window.setTimeout(() => {
          image.src = image.dataset.mask;
          before.hidden = true;
          after.hidden = false;
          open(true);
          buttons[0].focus();
          buttons[0].blur();
        }, Number(image.dataset.exposure));
      }, { once: true });
      image.addEventListener("error", () => window.location.reload(), { once: true });
      image.src = image.dataset.picture;
    });
  } else if (image && !image.complete) {
    open(false);
    const loaded = () => { start(); open(true); };
    image.addEventListener("load", loaded, { once: true });
    let again = 3;
    image.addEventListener("error", () => {
      if (again-- > 0) window.setTimeout(() => { image.src = image.getAttribute("src"); }, 800); else open(true);
    });
  } else {
    start();
  }

  form.addEventListener("submit", (e) => {
    if (sent) { e.preventDefault(); return; }    // pressed twice
    sent = true;
    const time = form.querySelector("input[name=rt_ms]");
    if (time && since !== null) time.value = String(Math.round(performance.now() - since));
    if (e.submitter) e.submitter.classList.add("chosen");
  });
  document.addEventListener("keydown", (e) => {
    if (e.repeat || e.ctrlKey || e.altKey || e.metaKey) return;
    const button = buttons[Number(e.key) - 1];
    if (/^[1-5]$/.test(e.key) && button && !button.disabled) { e.preventDefault(); button.click(); }
  });
})();
