// The picture of the file: a line for each layer, bytes from left to right in file order. Drawn when an event brings
// something new and at no other time: the page shares its processor with the model.

import { DISK, HELD, PINNED, READING, TRACE_EVENTS, USED } from "./tide.js";
import { bytes } from "./format.js";
import { h, setText } from "./dom.js";

const GUTTER = 44;
const LINE_MIN = 5;
const LINE_MAX = 15;
/** How high a tile stands in its line: dry tiles lie low, so the picture reads without colours too. */
const LEVEL = { [DISK]: 0.34, [READING]: 0.66, [HELD]: 1, [PINNED]: 1, [USED]: 1 };
export const NAMES = { [DISK]: "on disk", [HELD]: "in memory", [PINNED]: "kept in memory", [READING]: "being read", [USED]: "used by this token" };
const COLOURS = { [DISK]: "--t-disk", [HELD]: "--t-held", [PINNED]: "--t-pinned", [READING]: "--t-reading", [USED]: "--t-used" };

export class TideMap {
  #tiles = null;
  #lines = [];
  /** Pieces of tiles on lines: tile, line, and where in the line as shares of its width. */
  #pieces = { tile: [], line: [], from: [], to: [] };
  #cursor = -1;
  #only = null;
  #still = matchMedia("(prefers-reduced-motion: reduce)");

  constructor() {
    this.canvas = h("canvas", { class: "tide-map", tabindex: "0", role: "slider", "aria-label": "Pieces of the model's file", "aria-valuemin": "1", "aria-valuemax": "1", "aria-valuenow": "1", "aria-valuetext": "not known yet" });
    this.tip = h("p", { class: "tide-tip" });
    this.element = h("div", { class: "tide-map-box" }, this.canvas, this.tip);
    new ResizeObserver(() => this.#resize()).observe(this.element);
    addEventListener("resize", () => this.#resize());
    document.addEventListener("themechange", () => this.#theme());
    this.canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.canvas.addEventListener("pointerdown", (event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => this.#choose(-1));
    this.canvas.addEventListener("blur", () => this.#choose(-1));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.#theme();
  }

  setTiles(tiles) {
    this.#tiles = tiles;
    this.#arrange();
    this.canvas.setAttribute("aria-valuemax", String(tiles.count));
    this.#choose(-1);
    this.#resize();
  }

  /** Shows only tiles of this state at full strength; null shows all. */
  highlight(state) {
    this.#only = state;
    this.draw();
  }

  /** Groups the rows by layer; a layer is one line, what belongs to no layer may take several. */
  #arrange() {
    const tiles = this.#tiles;
    const groups = [];
    let start = 0;
    for (const row of tiles.rows) {
      const key = row.layer ?? "none";
      let group = Number.isInteger(row.layer) ? groups.find((one) => one.key === key) : groups.at(-1);
      if (group?.key !== key) {
        group = { key, name: row.layer ?? row.name, tiles: [], bytes: 0 };
        groups.push(group);
      }
      row.tiles.forEach(([, length], number) => {
        group.tiles.push(start + number);
        group.bytes += length;
      });
      start += row.tiles.length;
    }
    const layers = groups.filter((group) => group.key !== "none");
    const width = Math.max(...(layers.length > 0 ? layers : groups).map((group) => group.bytes), 1);
    this.#lines = [];
    this.#pieces = { tile: [], line: [], from: [], to: [] };
    for (const group of groups) this.#lay(group, width);
  }

  #lay(group, width) {
    const tiles = this.#tiles;
    group.tiles.sort((a, b) => tiles.offset[a] - tiles.offset[b]);
    const first = this.#lines.length;
    // Many lines for one huge table would push the layers away: it is drawn to its own scale then.
    const scale = Math.max(width, group.bytes / 4);
    for (let line = 0; line < Math.max(1, Math.ceil(group.bytes / scale - 1e-9)); line += 1) this.#lines.push({ name: line === 0 ? group.name : null });
    let at = 0;
    for (const tile of group.tiles) {
      const end = at + tiles.length[tile];
      for (let from = at; from < end; ) {
        const line = Math.min(Math.floor(from / scale + 1e-9), this.#lines.length - first - 1);
        const to = Math.min(end, (line + 1) * scale);
        const pieces = this.#pieces;
        pieces.tile.push(tile);
        pieces.line.push(first + line);
        pieces.from.push(from / scale - line);
        pieces.to.push(to / scale - line);
        if (to <= from) break;
        from = to;
      }
      at = end;
    }
  }

  #resize() {
    if (!this.#tiles || this.element.clientWidth === 0) return;
    const lines = Math.max(this.#lines.length, 1);
    // On an ordinary screen the budget below the picture is seen without scrolling.
    const wanted = Math.min(Math.max(innerHeight * 0.38, 260), 520);
    this.lineHeight = Math.min(Math.max(Math.floor(wanted / lines), LINE_MIN), LINE_MAX);
    const width = this.element.clientWidth;
    const height = lines * this.lineHeight;
    this.scale = Math.min(devicePixelRatio || 1, 3);
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * this.scale);
    this.canvas.height = Math.round(height * this.scale);
    this.canvas.style.height = `${height}px`;
    this.draw();
  }

  #theme() {
    const style = getComputedStyle(document.documentElement);
    this.colours = Object.fromEntries(Object.entries(COLOURS).map(([state, name]) => [state, style.getPropertyValue(name).trim()]));
    this.inkColour = style.getPropertyValue("--ink-soft").trim();
    this.focusColour = style.getPropertyValue("--focus").trim();
    this.draw();
  }

  draw() {
    if (!this.#tiles || !this.width || this.canvas.offsetParent === null) return;
    const context = this.canvas.getContext("2d");
    context.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.#labels(context);
    const batches = this.#batches();
    for (const [key, path] of batches) {
      const [state, strength] = key.split(":").map(Number);
      context.globalAlpha = this.#only === null || this.#only === state ? strength : 0.12;
      context.fillStyle = this.colours[state];
      context.fill(path);
    }
    context.globalAlpha = 1;
    this.#drawCursor(context);
    this.drawn = (this.drawn ?? 0) + 1;
  }

  /** One path for each look: a few fills, however many tiles. */
  #batches() {
    const { tile, line, from, to } = this.#pieces;
    const tiles = this.#tiles;
    const batches = new Map();
    const add = (key, x, y, width, height) => {
      let path = batches.get(key);
      if (!path) batches.set(key, (path = new Path2D()));
      path.rect(x, y, width, height);
    };
    const room = this.width - GUTTER;
    const gap = this.lineHeight >= 7 ? 2 : 1;
    for (let piece = 0; piece < tile.length; piece += 1) {
      const number = tile[piece];
      const x = GUTTER + from[piece] * room;
      const wide = (to[piece] - from[piece]) * room;
      const width = Math.max(wide > 3.5 ? wide - 1 : wide, 0.6);
      const state = tiles.state(number);
      const full = this.lineHeight - gap;
      const height = Math.max(full * LEVEL[state], 1.5);
      const y = line[piece] * this.lineHeight + full - height;
      add(`${state}:1`, x, y, width, height);
      // What was used a moment ago still glows.
      const trace = tiles.trace[number];
      const glows = tiles.wholePass ? trace === TRACE_EVENTS : trace > 0 && trace < TRACE_EVENTS && !this.#still.matches;
      if (!glows || !tiles.resident[number]) continue;
      const strength = tiles.wholePass ? 0.25 : (trace / TRACE_EVENTS) * 0.6;
      add(`${USED}:${strength}`, x, line[piece] * this.lineHeight, width, full);
    }
    return new Map([...batches].sort(([a], [b]) => a.localeCompare(b)));
  }

  #labels(context) {
    context.fillStyle = this.inkColour;
    context.font = "10.5px system-ui, sans-serif";
    context.textAlign = "right";
    context.textBaseline = "middle";
    let free = -Infinity;
    this.#lines.forEach(({ name }, line) => {
      const y = line * this.lineHeight + this.lineHeight / 2 - 0.5;
      if (name === null || y - free < 12) return;
      const text = typeof name === "number" ? String(name) : shortName(name);
      if (typeof name === "number" && name % labelStep(this.lineHeight) !== 0) return;
      free = Math.max(y, 6);
      context.fillText(text, GUTTER - 6, free);
    });
  }

  #drawCursor(context) {
    if (this.#cursor < 0) return;
    const { tile, line, from, to } = this.#pieces;
    context.strokeStyle = this.focusColour;
    context.lineWidth = 2;
    for (let piece = 0; piece < tile.length; piece += 1) {
      if (tile[piece] !== this.#cursor) continue;
      const x = GUTTER + from[piece] * (this.width - GUTTER);
      context.strokeRect(x - 0.5, line[piece] * this.lineHeight, Math.max((to[piece] - from[piece]) * (this.width - GUTTER), 3), this.lineHeight - 1);
    }
  }

  #point(event) {
    if (!this.#tiles) return;
    const line = Math.floor(event.offsetY / this.lineHeight);
    const share = (event.offsetX - GUTTER) / (this.width - GUTTER);
    const pieces = this.#pieces;
    const piece = pieces.tile.findIndex((_, number) => pieces.line[number] === line && share >= pieces.from[number] && share < pieces.to[number]);
    this.#choose(piece < 0 ? -1 : pieces.tile[piece]);
  }

  #key(event) {
    const count = this.#tiles?.count ?? 0;
    const order = this.#pieces.tile;
    const at = order.indexOf(this.#cursor);
    const steps = { ArrowRight: 1, ArrowLeft: -1, PageDown: 50, PageUp: -50 };
    let to;
    if (event.key in steps) to = at + steps[event.key];
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") to = this.#lineAway(at, event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = order.length - 1;
    if (to === undefined || count === 0) return;
    event.preventDefault();
    this.#choose(order[Math.min(Math.max(to, 0), order.length - 1)]);
  }

  /** The piece above or below. */
  #lineAway(at, by) {
    const { line, from } = this.#pieces;
    const wanted = (line[Math.max(at, 0)] ?? 0) + by;
    let best = at;
    let least = Infinity;
    line.forEach((number, piece) => {
      const away = Math.abs(from[piece] - from[Math.max(at, 0)]);
      if (number === wanted && away < least) [best, least] = [piece, away];
    });
    return best;
  }

  #choose(tile) {
    if (tile === this.#cursor && tile >= 0) return;
    this.#cursor = tile;
    this.describe();
    this.draw();
  }

  /** Says what is under the cursor. */
  describe() {
    const tile = this.#cursor;
    const tiles = this.#tiles;
    if (tile < 0 || !tiles) {
      setText(this.tip, "Point at a piece, or use the arrow keys, to see what it is.");
      this.canvas.setAttribute("aria-valuetext", "no piece chosen");
      return;
    }
    const row = tiles.rows[tiles.row[tile]];
    const where = `${bytes(tiles.length[tile])} at ${bytes(tiles.offset[tile])}`;
    const text = `${row.name}${row.kind && !row.name.includes(row.kind) ? ` (${row.kind})` : ""}: ${where}, ${NAMES[tiles.state(tile)]}`;
    setText(this.tip, text);
    this.canvas.setAttribute("aria-valuenow", String(tile + 1));
    this.canvas.setAttribute("aria-valuetext", text);
  }
}

const labelStep = (height) => (height >= 12 ? 1 : height >= 8 ? 2 : 4);

/** Names of tables, as short as the margin. */
function shortName(name) {
  if (/embd|embed/.test(name)) return "embed";
  if (/output|head/.test(name)) return "out";
  return name.length > 6 ? `${name.slice(0, 5)}…` : name;
}
