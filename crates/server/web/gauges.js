// The budget as a bar, and the last two minutes as lines.

import { h, setText } from "./dom.js";
import { bytes, percent, rate } from "./format.js";

const PARTS = [
  ["pinned_bytes", "pinned", "Kept weights", "The part of the model that stays in memory."],
  ["expert_cache_bytes", "experts", "Expert cache", "Room for the experts that are asked for most."],
  ["ring_bytes", "ring", "Reading ring", "Weights on their way through memory, ahead of their use."],
  ["kv_bytes", "kv", "KV cache", "What the model remembers of the conversation."],
  ["scratch_bytes", "scratch", "Scratch", "Room to compute in."],
  ["vocab_bytes", "vocab", "Vocabulary", "Words and their numbers."],
  ["reserve_bytes", "reserve", "Reserve", "Server, page tables, and room for surprise."],
];

/** The budget's split, and beside it what the system really counts. */
export class BudgetGauge {
  constructor() {
    this.total = h("span", { class: "figure" });
    this.bar = h("div", { class: "budget-bar" });
    this.list = h("dl", { class: "budget-parts" });
    this.meters = [
      meter("Charged", "What the system counts against the server's control group: the figure that a limit acts on. Where others are in the group too, it says nothing of the server."),
      meter("RSS", "Pages that this process has mapped in memory."),
    ];
    this.element = h(
      "section",
      { class: "panel", "aria-labelledby": "budget-title" },
      h("div", { class: "panel-head" }, h("h3", { id: "budget-title" }, "Budget"), this.total),
      this.bar,
      ...this.meters.map((one) => one.element),
      h("details", null, h("summary", null, "The split"), this.list),
    );
  }

  setBudget(budget) {
    this.budget = budget;
    const total = budget.total_bytes || 1;
    setText(this.total, bytes(budget.total_bytes));
    this.bar.replaceChildren();
    this.list.replaceChildren();
    for (const [field, name, label, why] of PARTS) {
      const value = budget[field];
      if (!value) continue;
      const part = h("span", { class: `part p-${name}`, title: `${label}: ${bytes(value)}` });
      part.style.width = `${(100 * value) / total}%`;
      this.bar.append(part);
      this.list.append(h("div", null, h("dt", null, h("span", { class: `swatch p-${name}` }), label), h("dd", null, bytes(value), h("span", { class: "why" }, why))));
    }
  }

  event({ rss_bytes: rss, charge_bytes: charge, budget_bytes: budget }) {
    const total = budget || this.budget?.total_bytes || 1;
    this.meters[0].set(charge, total, "not counted: its control group is shared");
    this.meters[1].set(rss, total, "not known");
  }
}

function meter(name, why) {
  const value = h("span", { class: "meter-value" });
  const fill = h("span", { class: "meter-fill" });
  const track = h("div", { class: "meter-track", role: "meter", "aria-label": name, "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "0" }, fill);
  const element = h("div", { class: "meter", title: why }, h("div", { class: "meter-head" }, h("span", null, name), value), track);
  const set = (amount, total, none) => {
    const known = Number.isFinite(amount) && amount !== null;
    setText(value, known ? `${bytes(amount)} · ${percent(amount / total)}` : none);
    const share = known ? Math.min(amount / total, 1) : 0;
    fill.style.width = `${(100 * share).toFixed(1)}%`;
    track.setAttribute("aria-valuenow", String(Math.round(100 * share)));
    track.setAttribute("aria-valuetext", value.textContent);
    element.classList.toggle("over", known && amount > total);
  };
  return { element, set };
}

const WINDOW_MS = 120_000;

/** Tokens per second and the share of time spent waiting for the disk, over the last two minutes. */
export class Sparkline {
  #points = [];

  constructor() {
    this.canvas = h("canvas", { class: "spark", role: "img", "aria-label": "Speed and disk wait over the last two minutes" });
    this.speed = h("span", { class: "figure" });
    this.disk = h("span", { class: "figure" });
    this.element = h(
      "section",
      { class: "panel", "aria-labelledby": "spark-title" },
      h("h3", { id: "spark-title" }, "Last two minutes"),
      this.canvas,
      h("div", { class: "spark-foot" }, h("span", { class: "key k-speed" }, "Tokens/s, most ", this.speed), h("span", { class: "key k-disk" }, "Disk wait, most ", this.disk)),
    );
    new ResizeObserver(() => this.draw()).observe(this.canvas);
    document.addEventListener("themechange", () => this.draw());
  }

  event(time, { speed, disk }) {
    const points = this.#points;
    if (points.length > 0 && time < points.at(-1).time) points.length = 0;
    const idle = speed === 0 && disk === 0 && points.length > 0 && points.every((point) => point.speed === 0 && point.disk === 0);
    points.push({ time, speed, disk: Math.min(disk, 1) });
    while (points[0].time < time - WINDOW_MS) points.shift();
    // A flat line moved to the left is the same flat line.
    if (!idle) this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || this.canvas.offsetParent === null) return;
    const scale = Math.min(devicePixelRatio || 1, 3);
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const most = Math.max(...this.#points.map((point) => point.speed), 0);
    const mostDisk = Math.max(...this.#points.map((point) => point.disk), 0);
    setText(this.speed, rate(most));
    setText(this.disk, percent(mostDisk));
    const style = getComputedStyle(document.documentElement);
    const upper = Math.round(height * 0.62);
    this.#line(context, width, 2, upper - 4, (point) => point.speed / (most || 1), style.getPropertyValue("--t-pinned"));
    this.#line(context, width, upper + 4, height - upper - 6, (point) => point.disk, style.getPropertyValue("--t-reading"));
  }

  #line(context, width, top, height, share, colour) {
    const points = this.#points;
    const end = points.at(-1)?.time ?? 0;
    const x = (point) => width - ((end - point.time) / WINDOW_MS) * width;
    const y = (point) => top + height * (1 - share(point));
    context.fillStyle = context.strokeStyle = colour.trim();
    context.globalAlpha = 0.25;
    context.fillRect(0, top + height, width, 1);
    if (points.length > 1) {
      context.beginPath();
      context.moveTo(x(points[0]), top + height);
      for (const point of points) context.lineTo(x(point), y(point));
      context.lineTo(width, top + height);
      context.fill();
      context.globalAlpha = 1;
      context.lineWidth = 1.5;
      context.beginPath();
      for (const point of points) context.lineTo(x(point), y(point));
      context.stroke();
    }
    context.globalAlpha = 1;
  }
}
