// Figures over a window. An event covers a fifth of a second: at half a token a second, nine of ten events hold no
// token and the tenth says "5 tokens/s". So figures are taken over the last tokens, or the last seconds.

const TOKENS_WANTED = 10;
const WINDOW_MS_MIN = 2_000;
const WINDOW_MS_MAX = 20_000;

/** Takes events, gives `{ speed, disk, read }`: tokens a second, share of time, bytes a second. */
export class Pace {
  /** Pieces of time since the server became busy: length, and what happened in it. */
  #pieces = [];
  #last = null;

  take({ t_ms: time, tok_s: speed = 0, disk_share: disk = 0, read_bytes_s: read = 0, busy }) {
    const ms = this.#last === null ? 0 : time - this.#last.time;
    const began = busy && !this.#last?.busy;
    this.#last = { time, busy };
    if (ms < 0 || began) this.#pieces = [];
    if (!busy) {
      this.#pieces = [];
      return { speed, disk, read };
    }
    if (ms > 0 && !began) this.#pieces.push({ ms, tokens: (speed * ms) / 1000, waited: disk * ms, read: (read * ms) / 1000 });
    return this.#over();
  }

  #over() {
    const sum = { ms: 0, tokens: 0, waited: 0, read: 0 };
    let at = this.#pieces.length;
    const isEnough = () => sum.ms >= WINDOW_MS_MAX || (sum.ms >= WINDOW_MS_MIN && sum.tokens >= TOKENS_WANTED);
    while (at > 0 && !isEnough()) {
      at -= 1;
      for (const name of Object.keys(sum)) sum[name] += this.#pieces[at][name];
    }
    this.#pieces.splice(0, at);
    if (sum.ms === 0) return { speed: 0, disk: 0, read: 0 };
    return { speed: (sum.tokens / sum.ms) * 1000, disk: sum.waited / sum.ms, read: (sum.read / sum.ms) * 1000 };
  }
}
