// 3 Clients: the queue, who asks, and how much of their limits is used.

import { empty, h, keyed, span, table, text } from "./dom.js";

export function view(store) {
  const { element: grid, body, row } = table("Clients", [
    ["Client"], ["Pool"], ["In flight", "num"], ["Waiting", "num"], ["Use of limits"],
  ]);
  const queue = h("p", { class: "muted" });
  const nothing = empty("Nobody asks at the moment", "Clients are known by key, user, session or address; they appear while they have requests.");
  const element = h("div", { class: "stack" }, h("div", { class: "heading" }, h("h1", {}, "Clients"), queue), nothing, grid);

  function make(one) {
    const use = h("div", { class: "grow" }, h("div"), h("span", { class: "muted" }, "none"));
    return row(h("span", { class: "mono" }, one.client), "", "", "", use);
  }

  function fill(line, one) {
    text(line.children[1], one.pool || "–");
    text(line.children[2], one.in_flight);
    text(line.children[3], one.queued);
    const limits = one.limits ?? [];
    const box = line.children[4].firstElementChild;
    keyed(box.firstElementChild, limits, (limit) => limit.name, makeLimit, fillLimit);
    box.lastElementChild.hidden = limits.length > 0;
  }

  function update() {
    const rows = store.clients ?? [];
    nothing.hidden = rows.length > 0;
    grid.hidden = rows.length === 0;
    const waiting = rows.reduce((sum, one) => sum + one.queued, 0);
    text(queue, waiting ? `${waiting} requests wait for their turn` : "the queue is empty");
    keyed(body, rows, (one) => one.client, make, fill);
  }
  return { element, update, show: update, hide() {} };
}

const NAMES = { rpm: "requests a minute", rph: "requests an hour", tpm: "tokens a minute", tpd: "tokens a day" };

function named(name) {
  const own = name.replace(/^all-/, "");
  return (NAMES[own] ?? own) + (own === name ? "" : ", whole pool");
}

function makeLimit(limit) {
  const words = named(limit.name);
  return h("div", { class: "limit" }, h("span", { class: "muted" }, words), h("meter", { min: 0, max: 1, high: 0.8, "aria-label": `Use of ${words}` }), h("span", { class: "num" }));
}

function fillLimit(line, limit) {
  const used = Math.max(0, limit.limit - limit.remaining);
  line.children[1].value = limit.limit ? Math.min(1, used / limit.limit) : 0;
  const reset = limit.reset_s ? `, full again in ${span(limit.reset_s)}` : "";
  text(line.children[2], `${used} / ${limit.limit}${reset}`);
}
