// Memory over time with its states below it; uPlot draws, our colours come from the style sheet.

import uPlot from "./uPlot.esm.js";
import { bytes, h, tone } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const SHORT_S = 600; // below it the axis needs seconds
const ROUND = Array.from({ length: 28 }, (_, power) => 2 ** (power + 16)); // 64 KiB and its doubles

function time(at, seconds) {
  const parts = { hour: "2-digit", minute: "2-digit", hour12: false };
  return new Date(at * 1000).toLocaleTimeString([], seconds ? { ...parts, second: "2-digit" } : parts);
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class MemoryChart {
  constructor(name) {
    this.name = name;
    this.box = h("div", { class: "chart", role: "img", "aria-label": `Memory of ${name} over the last hour` });
    this.strip = document.createElementNS(SVG, "svg");
    this.strip.setAttribute("class", "strip");
    this.strip.setAttribute("preserveAspectRatio", "none");
    this.strip.setAttribute("aria-hidden", "true");
    this.element = h("div", { class: "chart-box" }, this.box, this.strip);
    this.plot = null;
    this.data = [[], []];
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.box);
  }

  options() {
    const muted = colour("--muted");
    const grid = { stroke: colour("--line"), width: 1 };
    const short = this.short();
    const axis = { stroke: muted, grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: Math.max(160, this.box.clientWidth),
      height: 132,
      padding: [8, 6, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: { x: { time: true }, y: { range: (_, low, high) => [0, Math.max((high ?? 0) * 1.15, 1 << 20)] } },
      axes: [
        { ...axis, size: 24, space: short ? 84 : 64, values: (_, ticks) => ticks.map((at) => time(at, short)) },
        { ...axis, size: 62, space: 30, incrs: ROUND, values: (_, ticks) => ticks.map(bytes) },
      ],
      series: [{}, { stroke: colour("--accent"), width: 1.75, fill: colour("--accent-wash"), points: { show: false }, spanGaps: false }],
      hooks: { setCursor: [(plot) => this.tell(plot)] },
    };
  }

  short() {
    const [at] = this.data;
    return at.length < 2 || at.at(-1) - at[0] < SHORT_S;
  }

  tell(plot) {
    const at = plot.cursor.idx;
    const value = at == null ? null : plot.data[1][at];
    this.box.title = value == null ? "" : `${time(plot.data[0][at], true)}: ${bytes(value)}`;
  }

  fit() {
    if (!this.box.clientWidth) return;
    if (!this.plot) this.plot = new uPlot(this.options(), this.data, this.box);
    else this.plot.setSize({ width: this.box.clientWidth, height: 132 });
  }

  show(at, memory, states) {
    const was = this.short();
    this.data = [at, memory];
    if (this.plot && was !== this.short()) this.repaint();
    else if (this.plot) this.plot.setData(this.data);
    this.showStates(at, states);
  }

  showStates(at, states) {
    this.strip.replaceChildren();
    if (at.length < 2) return;
    const [first, last] = [at[0], at[at.length - 1]];
    this.strip.setAttribute("viewBox", `0 0 ${last - first} 1`);
    for (let i = 0; i < at.length - 1; ) {
      let end = i + 1;
      while (end < at.length - 1 && states[end] === states[i]) end += 1;
      const piece = document.createElementNS(SVG, "rect");
      piece.setAttribute("class", states[i] == null ? "none" : tone(states[i]));
      piece.setAttribute("x", at[i] - first);
      piece.setAttribute("width", at[end] - at[i]);
      piece.setAttribute("height", 1);
      this.strip.append(piece);
      i = end;
    }
  }

  repaint() {
    if (!this.plot) return;
    this.plot.destroy();
    this.plot = new uPlot(this.options(), this.data, this.box);
  }

  close() {
    this.watch.disconnect();
    this.plot?.destroy();
  }
}
