// The only script: it puts news of a run where they belong. Without it every view works, but does not move.
"use strict";
addEventListener("DOMContentLoaded", () => {
  const from = document.body.dataset.live;
  if (!from || !window.EventSource) return;
  const put = (id, html) => {
    const at = document.getElementById(id);
    if (!at) return;
    // Whoever is on a link stays on it.
    const held = at.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    at.innerHTML = html;
    if (held) at.querySelector(`[href="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
  };
  const connect = (url) => {
    const source = new EventSource(url);
    source.onmessage = (message) => {
      for (const [id, html] of Object.entries(JSON.parse(message.data))) put(id, html);
    };
    // After a break everything may have changed: the news begin with all of it.
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) return;
      source.close();
      setTimeout(() => connect(from.split("?")[0]), 3000);
    };
  };
  connect(from);
});
