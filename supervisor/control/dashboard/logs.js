// 5 Logs: llama-server's output or llmsup's own, as it is written, across restarts.

import { h, text } from "./dom.js";
import { Stream } from "./stream.js";

const KEPT = 2000;
const BEGIN = 300;

export function view(store) {
  const source = h("select", { "aria-label": "Log" });
  const filter = h("input", { type: "search", placeholder: "Filter", "aria-label": "Show only lines with" });
  const follow = h("button", { type: "button", "aria-pressed": "true" }, "Following");
  const state = h("span", { class: "muted", role: "status" });
  const output = h("div", { class: "output log", tabIndex: 0, role: "log", "aria-label": "Log lines", "aria-live": "off" });
  const element = h("div", { class: "stack fill" },
    h("div", { class: "heading" }, h("h1", {}, "Logs"), state, h("div", { class: "row end" }, source, filter, follow)),
    output);
  let stream = null;
  let sticks = true;

  function open() {
    close();
    output.replaceChildren();
    const [of, model] = JSON.parse(source.value || '["model",""]');
    const query = new URLSearchParams({ of, n: BEGIN, follow: 1 });
    if (model) query.set("model", model);
    let begun = false;
    const opened = () => {
      if (begun) output.replaceChildren(); // it is told from the beginning again
      begun = true;
      text(state, "");
    };
    stream = new Stream(`logs?${query}`, {
      on: { lines: add },
      opened,
      lost: () => text(state, "connection lost; trying again"),
      refused: (error) => text(state, error.message),
    });
  }

  function close() {
    stream?.close();
    stream = null;
  }

  function add(lines) {
    const wanted = filter.value.toLowerCase();
    output.append(...lines.map((line) => {
      const row = h("div", { class: `line ${severity(line)}` }, line || " ");
      row.hidden = Boolean(wanted) && !line.toLowerCase().includes(wanted);
      return row;
    }));
    while (output.childElementCount > KEPT) output.firstElementChild.remove();
    if (sticks) output.scrollTop = output.scrollHeight;
  }

  function stick(on) {
    sticks = on;
    follow.setAttribute("aria-pressed", String(on));
    text(follow, on ? "Following" : "Follow");
    if (on) output.scrollTop = output.scrollHeight;
  }

  output.addEventListener("scroll", () => {
    const end = output.scrollHeight - output.scrollTop - output.clientHeight < 24;
    if (end !== sticks) stick(end);
  });
  follow.addEventListener("click", () => stick(!sticks));
  source.addEventListener("change", open);
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of output.children) row.hidden = Boolean(wanted) && !row.textContent.toLowerCase().includes(wanted);
    if (sticks) output.scrollTop = output.scrollHeight;
  });

  function sources() {
    const names = (store.status?.models ?? []).map((model) => [`${model.name} (llama-server)`, ["model", model.name]]);
    const all = [...names, ["llmsup", ["daemon", ""]], ["llmsup, errors only", ["errors", ""]]];
    const wanted = all.map(([, value]) => JSON.stringify(value));
    if ([...source.options].map((option) => option.value).join() === wanted.join()) return false;
    const chosen = source.value;
    source.replaceChildren(...all.map(([name], i) => h("option", { value: wanted[i] }, name)));
    if (wanted.includes(chosen)) source.value = chosen;
    return true;
  }

  let shown = false;
  return {
    element,
    update() { if (shown && sources()) open(); },
    show() {
      shown = true;
      sources();
      stick(true);
      open();
    },
    hide() {
      shown = false;
      close();
    },
  };
}

function severity(line) {
  const [, letter] = /^[\d.]+ ([DIWE]) /.exec(line) ?? []; // llama-server's own word
  if (letter) return letter === "E" ? "bad" : letter === "W" ? "warn" : "";
  if (/\b(error|critical|failed|fatal)\b/i.test(line)) return "bad";
  return /\bwarn(ing)?\b/i.test(line) ? "warn" : "";
}
