// The panel beside the chat: figures, the map with its legend, the budget, the last two minutes, page tables.

import { byId, h, setText } from "./dom.js";
import { bytes, bytesBinary, percent, rate } from "./format.js";
import { BudgetGauge, Sparkline } from "./gauges.js";
import { Pace } from "./pace.js";
import { DISK, HELD, PINNED, READING, TideFeed, USED } from "./tide.js";
import { TideMap } from "./tidemap.js";

const LEGEND = [
  [PINNED, "pinned", "Kept in memory", "The part of the file that the budget keeps for good. It is read once, at the start, and never again."],
  [HELD, "held", "In memory now", "Brought in for its use, or cached because it is asked for often. Its place is given to other pieces when they are needed more."],
  [READING, "reading", "Being read", "Asked from the disk ahead of its use, so that the computation does not have to wait for it."],
  [USED, "used", "Used by this token", "What the token being computed needed since the last look. Traces of earlier looks fade; where a model is so fast that it used all of it, everything is tinted."],
  [DISK, "disk", "On disk", "Only in the file. It takes no memory; it is read when its turn comes."],
];

export class TidePanel {
  #map = new TideMap();
  #budget = new BudgetGauge();
  #spark = new Sparkline();
  #pace = new Pace();
  #tiles = null;

  /** `askKey` is called when the server wants a key; `onEvent` with each event. */
  constructor({ askKey, onEvent, onLink }) {
    this.onEvent = onEvent;
    this.onLink = onLink;
    this.#build();
    this.feed = new TideFeed({ layout: (tiles) => this.#layout(tiles), event: (event) => this.#event(event), link: (state, error) => this.#link(state, error), askKey });
  }

  #build() {
    const figure = (label, unit) => {
      const value = h("span", { class: "value" }, "–");
      return { value, element: h("div", { class: "big" }, h("span", { class: "label" }, label), h("span", null, value, h("span", { class: "unit" }, unit))) };
    };
    this.speed = figure("Speed", "tokens/s");
    this.disk = figure("Disk wait", "of the time");
    this.read = figure("Reading", "a second");
    this.share = h("p", { class: "tide-share" });
    this.tables = h("span", { class: "figure" }, "–");
    this.tablesNote = h("p", { class: "note" });
    byId("tide-body").append(
      h("div", { class: "bigs" }, this.speed.element, this.disk.element, this.read.element),
      h("section", { class: "panel", "aria-labelledby": "map-title" }, h("div", { class: "panel-head" }, h("h3", { id: "map-title" }, "The file, by layer"), this.share), this.#map.element, this.#legend()),
      this.#budget.element,
      this.#spark.element,
      h("section", { class: "panel", "aria-labelledby": "tables-title" }, h("div", { class: "panel-head" }, h("h3", { id: "tables-title" }, "Page tables"), this.tables), this.tablesNote),
    );
    this.#map.describe();
  }

  /** Each entry explains itself and picks its tiles out of the picture. */
  #legend() {
    const text = h("p", { class: "legend-text", id: "legend-text", role: "status", hidden: true });
    const buttons = LEGEND.map(([state, name, label, why]) => {
      const button = h("button", { type: "button", class: "legend-item", "aria-expanded": "false", "aria-controls": "legend-text" }, h("span", { class: `swatch s-${name}` }), label);
      button.addEventListener("click", () => {
        const now = button.getAttribute("aria-expanded") !== "true";
        buttons.forEach((other) => other.setAttribute("aria-expanded", String(other === button && now)));
        text.hidden = !now;
        setText(text, now ? why : "");
        this.#map.highlight(now ? state : null);
      });
      return button;
    });
    return h("div", { class: "legend" }, h("div", { class: "legend-items", role: "group", "aria-label": "What the colours mean" }, buttons), text);
  }

  setProps(props) {
    if (props.budget) this.#budget.setBudget(props.budget);
    // 8 bytes for each page of 4 KiB: one table of a page for 2 MiB.
    const most = Math.ceil((props.file_bytes ?? 0) / 2 ** 21) * 4096;
    if (most > 0) setText(this.tablesNote, `8 bytes for each 4 KiB page that is mapped. The whole file would take ${bytesBinary(most)}.`);
  }

  #layout(tiles) {
    this.#tiles = tiles;
    this.total = tiles.totalBytes();
    this.#map.setTiles(tiles);
  }

  #event(event) {
    const changed = this.#tiles.apply(event);
    if (changed) {
      this.#map.draw();
      this.#map.describe();
    }
    const pace = this.#pace.take(event);
    this.#spark.event(event.t_ms, pace);
    this.#budget.event(event);
    const resident = this.#tiles.residentBytes();
    setText(this.share, `${bytes(resident)} of ${bytes(this.total)} in memory`);
    setText(this.speed.value, rate(pace.speed));
    setText(this.disk.value, percent(pace.disk));
    setText(this.read.value, bytes(pace.read));
    setText(this.tables, bytesBinary(event.page_table_bytes || 0));
    const waiting = event.queue > 0 ? `, ${event.queue} waiting` : "";
    setText(byId("tide-link"), event.busy ? `answering${waiting}` : "at rest");
    this.onEvent(event.busy, pace.speed);
  }

  #link(state, error) {
    const element = byId("tide-link");
    element.dataset.state = state;
    // Events say what a live server does.
    if (state !== "live") setText(element, error?.kind === "loading" ? "loading" : error?.kind === "key" ? "needs the key" : "reconnecting");
    this.onLink(state, error);
  }
}
