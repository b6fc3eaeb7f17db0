// Keeps the bill up to date: takes the server's markup and changes what differs, so that nothing jumps and open parts stay open.
"use strict";
(() => {
  const live = document.getElementById("live");
  const state = document.getElementById("state");
  if (!live || !state || !window.EventSource) return;

  // The server says something each 15 seconds.
  const SILENCE_MS = 40000;
  const RETRY_MS = 3000;
  let source = null;
  let silence = 0;
  let retry = 0;

  const words = { live: "Live", lost: "Not live: reconnecting", paused: "Paused" };
  const show = (name) => {
    if (state.dataset.state === name) return;
    state.dataset.state = name;
    state.firstElementChild.textContent = words[name];
  };

  const changed = (element) => {
    element.classList.remove("changed");
    void element.getBoundingClientRect();
    element.classList.add("changed");
  };

  // What the reader has set stays: an opened part, the mark of a change.
  const own = (name) => name === "open" || name === "class";

  const morph = (to, from) => {
    if (to.nodeType !== from.nodeType || to.nodeName !== from.nodeName) {
      to.replaceWith(from);
      return;
    }
    if (to.nodeType !== Node.ELEMENT_NODE) {
      if (to.nodeValue !== from.nodeValue) {
        to.nodeValue = from.nodeValue;
        const number = to.parentElement && to.parentElement.closest(".n, data");
        if (number && !document.hidden) changed(number);
      }
      return;
    }
    for (const { name, value } of [...from.attributes]) {
      if (name === "class") {
        const kept = to.classList.contains("changed") ? value + " changed" : value;
        if (to.getAttribute("class") !== kept) to.setAttribute("class", kept);
      } else if (to.getAttribute(name) !== value) {
        to.setAttribute(name, value);
      }
    }
    for (const { name } of [...to.attributes]) {
      if (!own(name) && !from.hasAttribute(name)) to.removeAttribute(name);
    }
    const before = [...to.childNodes];
    const after = [...from.childNodes];
    after.forEach((node, i) => (i < before.length ? morph(before[i], node) : to.append(node)));
    before.slice(after.length).forEach((node) => node.remove());
  };

  const heard = () => {
    show("live");
    clearTimeout(silence);
    silence = setTimeout(lost, SILENCE_MS);
  };

  const lost = () => {
    close("lost");
    retry = setTimeout(open, RETRY_MS);
  };

  const close = (name) => {
    clearTimeout(silence);
    clearTimeout(retry);
    if (source) source.close();
    source = null;
    show(name);
  };

  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(live.dataset.stream);
    source.onmessage = (message) => {
      const next = new DOMParser().parseFromString(message.data, "text/html").body.firstElementChild;
      const now = live.firstElementChild;
      if (next.dataset.period !== now.dataset.period) {
        location.reload();
        return;
      }
      morph(now, next);
      heard();
    };
    source.addEventListener("still", heard);
    // After a cut the browser comes back by itself and says what it has seen; after a refusal it doesn't.
    source.onerror = () => (source.readyState === EventSource.CLOSED ? lost() : show("lost"));
  };

  // A browser has six connections for a server: a tab that nobody sees gives its own back.
  document.addEventListener("visibilitychange", () => (document.hidden ? close("paused") : open()));
  window.addEventListener("pagehide", () => close("paused"));
  window.addEventListener("pageshow", open);
  open();
})();
