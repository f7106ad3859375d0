// 1 Models: state, memory over time, and what may be done.

import { badge, bytes, clock, empty, h, keyed, setBadge, span, text, tone } from "./dom.js";
import { MemoryChart } from "./charts.js";
import { get } from "./api.js";
import { act } from "./ui.js";

const SHOWN_EVENTS = 12;

export function view(store) {
  const charts = new Map();
  const tiles = h("section", { class: "tiles", "aria-label": "Summary" });
  const cards = h("section", { class: "cards", "aria-label": "Models" });
  const events = h("ol", { class: "events" });
  const quiet = empty("Nothing has happened yet", "States, deaths, reloads and refusals appear here as they happen.");
  const element = h("div", { class: "stack" },
    h("div", { class: "heading" }, h("h1", {}, "Models"), h("div", { class: "row" },
      h("button", { type: "button", onclick: () => act(["Reload the configuration?", "It is checked first; a wrong one changes nothing.", "Reload"], "reload", reloaded) }, "Reload configuration"),
      h("button", { type: "button", class: "danger quiet", onclick: () => act(["Stop llmsup?", "Running answers are finished, then every llama-server and llmsup itself end. This page cannot start it again.", "Stop llmsup", true], "stop", "llmsup is stopping") }, "Stop llmsup"))),
    tiles, cards,
    h("section", { class: "panel", "aria-label": "Latest events" }, h("h2", {}, "Latest events"), quiet, events));

  async function history() {
    const past = await get("history");
    for (const [name, series] of Object.entries(past.models)) {
      charts.get(name)?.show(past.at, series.rss_bytes, series.state);
    }
  }

  function make(model) {
    const chart = new MemoryChart(model.name);
    charts.set(model.name, chart);
    const card = cardOf(model, chart);
    return card;
  }

  function update() {
    const { status } = store;
    if (!status) return;
    showTiles(tiles, status);
    keyed(cards, status.models, (model) => model.name, make, fill);
    text(quiet.firstElementChild, "Nothing has happened yet");
    quiet.hidden = store.events.length > 0;
    keyed(events, store.events.slice(-SHOWN_EVENTS).reverse(), (event) => event.id, eventRow, () => {});
  }

  let timer = 0;
  return {
    element,
    update,
    show() {
      update();
      history().catch(() => {});
      timer = setInterval(() => history().catch(() => {}), 5000);
    },
    hide() { clearInterval(timer); },
    repaint() { for (const chart of charts.values()) chart.repaint(); },
  };
}

function reloaded(outcome) {
  const taken = outcome.applied.length ? `applied: ${outcome.applied.join(", ")}` : "nothing to apply";
  const later = outcome.at_next_start.length ? `; at the next start: ${outcome.at_next_start.join(", ")}` : "";
  return `Configuration read again, ${taken}${later}`;
}

function showTiles(tiles, status) {
  const { requests, memory } = status;
  const share = memory.limit_bytes ? memory.children_rss_bytes / memory.limit_bytes : 0;
  const facts = [
    ["In flight", requests.in_flight, `${requests.total} in all`],
    ["Waiting", requests.queued, requests.queued ? "for a slot or a model" : "nobody waits"],
    ["Failed", requests.failed, requests.continued ? `${requests.continued} saved after a death` : "since the start"],
    ["Memory", bytes(memory.children_rss_bytes), `of ${bytes(memory.limit_bytes)}`, share],
    ["Up", span(status.uptime_s), `pid ${status.pid}, ${bytes(memory.daemon_rss_bytes)}`],
  ];
  keyed(tiles, facts, (fact) => fact[0], (fact) => {
    const meter = fact.length > 3 ? h("meter", { min: 0, max: 1, high: 0.9, "aria-label": "Share of the memory limit" }) : null;
    return h("div", { class: "tile" }, h("p", { class: "label" }, fact[0]), h("p", { class: "number" }), h("p", { class: "muted" }), meter);
  }, (tile, fact) => {
    text(tile.children[1], fact[1]);
    text(tile.children[2], fact[2]);
    if (tile.children[3]) tile.children[3].value = Math.min(1, fact[3]);
  });
}

function cardOf(model, chart) {
  const name = model.name;
  const facts = h("dl", { class: "facts" });
  for (const label of ["Memory", "Slots", "Tokens/s", "Generation", "Restarts", "Up"]) {
    facts.append(h("div", {}, h("dt", {}, label), h("dd", {})));
  }
  const button = (verb, question, path, words) => h("button", { type: "button", "aria-label": `${verb} ${name}`, onclick: () => act(question, `${path}?model=${encodeURIComponent(name)}`, words) }, verb);
  const restart = button("Restart", [`Restart ${name}?`, "Running answers are finished or go on with the new llama-server; requests wait meanwhile.", "Restart"], "restart", `${name} is restarting`);
  const load = button("Load", [`Load ${name}?`, "Its llama-server is started.", "Load"], "load", `${name} is loading`);
  const unload = button("Unload", [`Unload ${name}?`, "Running answers are finished, then its llama-server ends and its memory is free.", "Unload", true], "unload", `${name} is unloading`);
  const card = h("article", { class: "panel card", "aria-label": name },
    h("div", { class: "heading" }, h("h2", {}, name), badge("", "idle"), h("div", { class: "row end" }, restart, load, unload)),
    h("p", { class: "muted path" }),
    facts, chart.element,
    h("p", { class: "note" }));
  card.parts = { facts, load, unload, restart };
  return card;
}

function fill(card, model) {
  const { facts, load, unload, restart } = card.parts;
  setBadge(card.querySelector(".badge"), model.state, tone(model.state));
  const down = ["STOPPED", "FAILED"].includes(model.state);
  load.hidden = !down;
  unload.hidden = down;
  restart.hidden = model.state === "STOPPED";
  const values = [
    bytes(model.pid == null ? null : model.rss_bytes),
    `${model.slots.busy} / ${model.slots.total}`,
    pace(card, model),
    model.generation,
    model.restarts,
    model.uptime_s == null ? "–" : span(model.uptime_s),
  ];
  values.forEach((value, i) => text(facts.children[i].lastElementChild, value));
  text(card.querySelector(".path"), [model.model_path, model.pid && `pid ${model.pid}`, model.port && `port ${model.port}`].filter(Boolean).join(" · "));
  const note = card.querySelector(".note");
  const [words, kind] = trouble(model);
  note.className = `note ${kind}`;
  text(note, words);
}

/** Of the streams since the look before; a model that does nothing has none. */
function pace(card, model) {
  const before = card.pace;
  if (before?.model === model) return before.words; // the same look, shown again because of an event
  const now = { model, at: performance.now(), words: model.slots.busy ? "0" : "–" };
  const more = (model.tokens ?? 0) - (before?.model.tokens ?? Infinity);
  if (more > 0) {
    const rate = more / Math.max(0.001, (now.at - before.at) / 1000);
    now.words = rate >= 100 ? String(Math.round(rate)) : rate.toFixed(1);
  }
  card.pace = now;
  return now.words;
}

const ROLES = { next: "The next one, which is to take over", leaving: "The one before, which finishes what it has", standby: "Its standby" };

function beside({ role, state, why, rss_bytes }) {
  const size = rss_bytes ? `, ${bytes(rss_bytes)}` : "";
  return `${ROLES[role] ?? role}: ${state}${size}${why ? ` (${why})` : ""}`;
}

function trouble(model) {
  if (model.suspect) return [`Suspected to hang: ${model.suspect}`, "bad"];
  if (model.degraded) return [`Degraded: ${model.degraded}`, "warn"];
  if (model.circuit_breaker && model.circuit_breaker !== "closed") return ["Circuit breaker open: requests wait until it answers again", "warn"];
  if (model.next_try_s != null) return [`Next try in ${span(model.next_try_s)}`, "warn"];
  if (model.not_replaced) return [`Not replaced: ${model.not_replaced}`, "warn"];
  if (model.second) return [beside(model.second), "muted"];
  const death = model.last_death;
  if (death) return [`Last end ${clock(death.at)}: ${death.cause}, ${death.detail}`, "muted"];
  return ["", "muted"];
}

const WISHED = new Set(["stopped", "restarted"]);

function wished({ kind, data }) {
  return kind === "death" && WISHED.has(data.cause);
}

const KIND_TONES = { death: "bad", config_error: "bad", rate_limit: "warn", client_banned: "bad", reload: "info", action: "info" };

function eventRow(event) {
  const kind = event.kind === "state" ? tone(event.data.state) : wished(event) ? "idle" : KIND_TONES[event.kind] ?? "idle";
  return h("li", {}, h("time", { datetime: event.at, class: "muted" }, clock(event.at)), badge(event.kind.replace("_", " "), kind), h("span", {}, told(event)));
}

export function told({ kind, data }) {
  switch (kind) {
    case "state": return `${data.model}: ${data.before ?? "–"} → ${data.state}`;
    case "death": return `${data.model}: ${data.cause}, ${data.detail}${data.then ? `; then: ${data.then}` : ""}`;
    case "reload": return data.applied?.length ? `applied ${data.applied.join(", ")}` : "read again, nothing to apply";
    case "config_error": return data.message;
    case "action": return `${data.verb} ${data.subject ?? "llmsup"}`;
    case "rate_limit": return `${data.client ?? "a client"}: ${data.limit ?? "limit"}, ${data.refused ?? 1} refused`;
    case "client_banned": return `${data.client ?? "a client"}: refused for ${Math.round((data.seconds ?? 3600) / 60)} min, its requests brought llama-server down`;
    default: return JSON.stringify(data);
  }
}
