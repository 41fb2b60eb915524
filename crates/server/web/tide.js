// The state of the file's tiles: the layout once, then events. Knows no page; the panel draws what stands here.

import { events, request, sleep } from "./api.js";

/** What a tile is, from least to most worth seeing. */
export const DISK = 0;
export const HELD = 1;
export const PINNED = 2;
export const READING = 3;
export const USED = 4;

/** After this long without a word from the server, the connection counts as lost: it speaks every 2 s. */
const SILENCE_MS = 10_000;
const RETRY_MS_MAX = 8_000;
/** Events after which a trace of use has faded. */
export const TRACE_EVENTS = 4;

/** The tiles of a file, in layout order. */
export class Tiles {
  constructor(layout) {
    this.rows = layout.rows;
    this.fileBytes = layout.file_bytes;
    this.count = layout.rows.reduce((sum, row) => sum + row.tiles.length, 0);
    this.offset = new Float64Array(this.count);
    this.length = new Float64Array(this.count);
    this.row = new Uint16Array(this.count);
    this.pinned = new Uint8Array(this.count);
    this.resident = new Uint8Array(this.count);
    this.reading = new Uint8Array(this.count);
    /** 0 is not used lately, TRACE_EVENTS is used now. */
    this.trace = new Uint8Array(this.count);
    /** A fast model used all of the file since the last look: there is no front to show. */
    this.wholePass = false;
    let at = 0;
    layout.rows.forEach((row, number) => {
      for (const [offset, length, state] of row.tiles) {
        this.offset[at] = offset;
        this.length[at] = length;
        this.row[at] = number;
        this.pinned[at] = this.resident[at] = state === 1 ? 1 : 0;
        at += 1;
      }
    });
  }

  /** Takes an event over. Returns whether anything looks different. */
  apply({ resident, reading, used }) {
    let changed = false;
    if (typeof resident === "string") {
      const bits = atob(resident);
      for (let tile = 0; tile < this.count; tile += 1) {
        const is = (bits.charCodeAt(tile >> 3) >> (tile & 7)) & 1;
        if (this.resident[tile] !== is) {
          this.resident[tile] = is;
          changed = true;
        }
      }
    }
    const before = this.reading;
    this.reading = new Uint8Array(this.count);
    for (const tile of reading ?? []) this.reading[tile] = 1;
    changed ||= before.some((is, tile) => is !== this.reading[tile]);
    return this.#use(used) || changed;
  }

  #use(used) {
    let changed = false;
    this.wholePass = false;
    for (let tile = 0; tile < this.count; tile += 1) {
      if (this.trace[tile] > 0) {
        this.trace[tile] -= 1;
        changed = true;
      }
    }
    if (!Array.isArray(used) || used.length !== 2 || used[0] === null) return changed;
    const [first, last] = used;
    // The token may have gone around the file's end into the next one.
    const length = last >= first ? last - first + 1 : this.count - first + last + 1;
    this.wholePass = length >= this.count;
    for (let step = 0; step < Math.min(length, this.count); step += 1) this.trace[(first + step) % this.count] = TRACE_EVENTS;
    return true;
  }

  /** What a tile is to be shown as. */
  state(tile) {
    if (this.reading[tile] && !this.resident[tile]) return READING;
    // A layer's range holds experts that were not asked for: what is not in memory was not used.
    if (!this.resident[tile]) return DISK;
    if (this.trace[tile] === TRACE_EVENTS && !this.wholePass) return USED;
    return this.pinned[tile] ? PINNED : HELD;
  }

  residentBytes() {
    return this.length.reduce((sum, length, tile) => sum + (this.resident[tile] ? length : 0), 0);
  }

  totalBytes() {
    return this.length.reduce((sum, length) => sum + length, 0);
  }
}

/** Keeps a stream of events open while the page can be seen. */
export class TideFeed {
  #handlers;
  #abort = null;

  /** `handlers`: layout(tiles), event(event), link(state, error), canAskKey(error) -> promise of "try again now". */
  constructor(handlers) {
    this.#handlers = handlers;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop() : this.start()));
    if (!document.hidden) this.start();
  }

  stop() {
    this.#abort?.abort();
    this.#abort = null;
  }

  start() {
    if (this.#abort) return;
    this.#abort = new AbortController();
    this.#run(this.#abort.signal);
  }

  async #run(signal) {
    let wait = 500;
    while (!signal.aborted) {
      try {
        await this.#once(signal, () => (wait = 500));
        this.#handlers.link("lost");
      } catch (error) {
        if (signal.aborted) return;
        this.#handlers.link("lost", error);
        if (error.kind === "key" && (await this.#handlers.askKey(error))) continue;
      }
      // Many tabs that lost one server should not all come back in the same moment.
      await sleep(wait * (0.75 + Math.random() / 2), signal).catch(() => {});
      wait = Math.min(wait * 2, RETRY_MS_MAX);
    }
  }

  /** One connection, until it ends. */
  async #once(outer, onGood) {
    const inner = new AbortController();
    const end = () => inner.abort();
    outer.addEventListener("abort", end, { once: true });
    let silence = setTimeout(end, SILENCE_MS);
    try {
      const layout = await (await request("/tide/layout", { signal: inner.signal })).json();
      this.#handlers.layout(new Tiles(layout));
      const response = await request("/tide", { signal: inner.signal, accept: "text/event-stream" });
      for await (const { event, data } of events(response, inner.signal)) {
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE_MS);
        if (event === "ping") continue;
        onGood();
        this.#handlers.link("live");
        this.#handlers.event(JSON.parse(data));
      }
    } finally {
      clearTimeout(silence);
      outer.removeEventListener("abort", end);
    }
  }
}
