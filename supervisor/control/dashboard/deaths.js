// 4 Deaths: each end of a llama-server with its cause, the evidence and what was done.

import { badge, bytes, empty, h, keyed, span, text, when } from "./dom.js";
import { get } from "./api.js";

const CALM = new Set(["stopped", "restarted"]);

export function view(store) {
  const list = h("div", { class: "stack tight" });
  const nothing = empty("No llama-server has died", "Each end is kept with its cause, its evidence and its last words.");
  const count = h("span", { class: "muted" });
  const element = h("div", { class: "stack" }, h("div", { class: "heading" }, h("h1", {}, "Deaths"), count), nothing, list);
  let seen = -1;

  async function look() {
    const { deaths } = await get("deaths");
    nothing.hidden = deaths.length > 0;
    text(count, deaths.length ? `the last ${deaths.length}, newest first` : "");
    keyed(list, deaths.reverse(), (one) => `${one.at} ${one.model} ${one.generation}`, card, () => {});
  }

  return {
    element,
    update() {
      const newest = store.events.findLast((event) => event.kind === "death")?.id ?? 0;
      if (newest !== seen) {
        seen = newest;
        look().catch(() => {});
      }
    },
    show() {
      seen = -1;
      this.update();
    },
    hide() {},
  };
}

function fact(label, value) {
  return value ? h("div", {}, h("dt", {}, label), h("dd", {}, value)) : null;
}

function card(one) {
  const kind = CALM.has(one.cause) || one.phase === "stopping" ? "idle" : one.permanent ? "bad" : "warn";
  const ended = one.signal ?? (one.exit_code != null ? `exit code ${one.exit_code}` : "");
  return h("details", { class: "panel death" },
    h("summary", {},
      h("span", { class: "heading-line" }, badge(one.cause.replaceAll("_", " "), kind), h("strong", {}, one.model), h("span", { class: "muted" }, `generation ${one.generation}, after ${span(one.uptime_s)}`)),
      h("time", { datetime: one.at, class: "muted" }, when(one.at)),
      h("span", { class: "detail" }, one.detail)),
    h("dl", { class: "facts wide" },
      fact("While", one.phase), fact("Ended by", ended), fact("Evidence", one.evidence), fact("Then", one.then),
      fact("Memory", one.rss_bytes ? bytes(one.rss_bytes) : ""), fact("Degraded", one.degraded)),
    one.lines.length ? h("pre", { class: "output", tabIndex: 0, "aria-label": "Last output" }, one.lines.join("\n")) : h("p", { class: "muted" }, "It said nothing."));
}
