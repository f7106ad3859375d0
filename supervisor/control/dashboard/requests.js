// 2 Requests: the in-flight table, with cancel.

import { badge, empty, h, keyed, setBadge, span, table, text } from "./dom.js";
import { act } from "./ui.js";

const PHASES = { waiting: "warn", asked: "info", answering: "ok" };

export function view(store) {
  const { element: grid, body, row } = table("Requests in flight", [
    ["Phase"], ["Age", "num"], ["Client"], ["Request"], ["Model"], ["Waited", "num"], ["Notes"], ["", "act"],
  ]);
  const nothing = empty("No request is in flight", "Whoever asks appears here, oldest first, until the answer is complete.");
  const count = h("span", { class: "muted" });
  const element = h("div", { class: "stack" }, h("div", { class: "heading" }, h("h1", {}, "Requests"), count), nothing, grid);

  function make(one) {
    const cancel = h("button", {
      type: "button", class: "danger quiet", "aria-label": `Cancel request ${one.id}`,
      onclick: () => act([`Cancel this request?`, `${one.method} ${one.path} of ${one.client} ends now; its client is told.`, "Cancel request", true], `cancel?id=${encodeURIComponent(one.id)}&number=${one.number}`, "Request cancelled"),
    }, "Cancel");
    const line = row(badge("", "idle"), "", one.client, "", one.model ?? "–", "", "", cancel);
    line.children[3].append(h("div", {}, `${one.method} ${one.path}`, h("span", { class: "mono muted block" }, one.id)));
    return line;
  }

  function fill(line, one) {
    setBadge(line.querySelector(".badge"), one.phase, PHASES[one.phase] ?? "idle");
    text(line.children[1], span(one.age_s));
    text(line.children[5], one.queue_ms ? `${one.queue_ms} ms` : "–");
    const notes = [one.streamed ? "streamed" : "", one.retries ? `${one.retries} retries` : "", one.continued ? `continued ${one.continued}×` : ""];
    text(line.children[6], notes.filter(Boolean).join(", ") || "–");
  }

  function update() {
    const rows = store.requests ?? [];
    nothing.hidden = rows.length > 0;
    grid.hidden = rows.length === 0;
    const waiting = rows.filter((one) => one.phase === "waiting").length;
    text(count, rows.length ? `${rows.length - waiting} in flight, ${waiting} waiting` : "");
    keyed(body, rows, (one) => one.number, make, fill);
  }
  return { element, update, show: update, hide() {} };
}
