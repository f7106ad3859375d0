// Elements and words. Text enters the page through textContent only, never as markup: it may be a model's.

export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name in element && name !== "list") element[name] = value;
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null));
  return element;
}

export function text(element, value) {
  const wanted = value == null ? "" : String(value);
  if (element.textContent !== wanted) element.textContent = wanted;
}

/** Keep one child of `box` for each item, in order, made once and updated: focus and selection survive. */
export function keyed(box, items, keyOf, make, update) {
  const known = box.keyed ?? (box.keyed = new Map());
  const seen = new Set();
  let place = box.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    seen.add(key);
    let row = known.get(key);
    if (!row) {
      row = make(item);
      known.set(key, row);
    }
    update(row, item);
    if (row === place) place = place.nextElementSibling;
    else box.insertBefore(row, place);
  }
  for (const [key, row] of known) {
    if (!seen.has(key)) {
      row.remove();
      known.delete(key);
    }
  }
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(size) {
  if (size == null) return "–";
  let unit = 0;
  let value = size;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.floor(seconds);
  for (const [size, name, below, lesser] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${name} ${Math.floor((whole % size) / below)} ${lesser}`;
  }
  return `${whole} s`;
}

export function clock(iso) {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : at.toLocaleTimeString([], { hour12: false });
}

export function when(iso) {
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return iso;
  const day = at.toDateString() === new Date().toDateString() ? "" : `${at.toLocaleDateString()} `;
  return day + at.toLocaleTimeString([], { hour12: false });
}

const TONES = {
  READY: "ok", STARTING: "info", LOADING: "info", DRAINING: "warn", STOPPING: "warn", BACKOFF: "warn",
  STOPPED: "idle", CRASHLOOP: "bad", FAILED: "bad", UNKILLABLE: "bad",
};

export function tone(state) {
  return TONES[state] ?? "idle";
}

/** A status in colour and in words. */
export function badge(words, kind) {
  return h("span", { class: `badge ${kind}` }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", {}, words));
}

export function setBadge(element, words, kind) {
  element.className = `badge ${kind}`;
  text(element.lastElementChild, words);
}

export function empty(words, hint) {
  return h("div", { class: "empty" }, h("p", {}, words), hint ? h("p", { class: "muted" }, hint) : null);
}

export function table(label, columns) {
  const body = h("tbody");
  const head = h("tr", {}, columns.map(([name, kind]) => h("th", { scope: "col", class: kind ?? "" }, name)));
  const element = h("div", { class: "scroll" }, h("table", { "aria-label": label }, h("thead", {}, head), body));
  const row = (...cells) =>
    h("tr", {}, cells.map((cell, i) => {
      const [name, kind] = columns[i];
      return h("td", { class: kind ?? "", "data-label": name }, cell);
    }));
  return { element, body, row };
}
