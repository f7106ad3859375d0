// 6 Configuration: every value in force, and where it came from.

import { badge, h, keyed, table, text } from "./dom.js";
import { get } from "./api.js";

export function view(store) {
  const filter = h("input", { type: "search", placeholder: "Filter keys and values", "aria-label": "Show only settings with" });
  const changed = h("input", { type: "checkbox", id: "changed" });
  const path = h("span", { class: "muted mono path" });
  const { element: grid, body, row } = table("Settings", [["Key"], ["Value"], ["From"]]);
  const element = h("div", { class: "stack" },
    h("div", { class: "heading" }, h("h1", {}, "Configuration"), h("div", { class: "row end" },
      h("label", { class: "check", htmlFor: "changed" }, changed, "Only what differs from the defaults"), filter)),
    path, grid);
  let settings = [];
  let stamp = "";

  async function look() {
    const document = await get("config");
    settings = document.settings;
    text(path, document.path);
    show();
  }

  function make(one) {
    const line = row(h("span", { class: "mono" }, one.key), "", "");
    line.children[1].className = "mono value";
    return line;
  }

  function fill(line, one) {
    text(line.children[1], one.value === null ? "null" : typeof one.value === "object" ? JSON.stringify(one.value) : String(one.value));
    line.children[2].replaceChildren(one.source === "default" ? h("span", { class: "muted" }, "default") : h("span", {}, place(one.source)));
    if (one.pending) line.children[2].append(" ", badge("at the next start", "warn"));
  }

  function show() {
    const wanted = filter.value.toLowerCase();
    const chosen = settings.filter((one) => (!changed.checked || one.source !== "default") && (!wanted || `${one.key} ${JSON.stringify(one.value)}`.toLowerCase().includes(wanted)));
    keyed(body, chosen, (one) => one.key, make, fill);
  }

  filter.addEventListener("input", show);
  changed.addEventListener("change", show);
  return {
    element,
    update() {
      const newest = store.events.findLast((event) => event.kind === "reload")?.id ?? "none";
      if (newest !== stamp) {
        stamp = newest;
        look().catch(() => {});
      }
    },
    show() {
      stamp = "";
      this.update();
    },
    hide() {},
  };
}

function place(source) {
  const at = source.lastIndexOf("/");
  return at < 0 ? source : source.slice(at + 1);
}
