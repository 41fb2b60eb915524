// One answer: asks, waits where the server wants waiting, and fills a message as the stream arrives.

import { events, explainEvent, request, ServerError, sleep } from "./api.js";
import { find, toRequest } from "./conversation.js";

/** So often a busy server is asked again before the person is. */
const BUSY_TRIES = 20;
/** Sent again this often while the model loads. */
const LOADING_POLL_S = 2;

/** A running answer. `state` says what it is doing; `onChange` is called when anything changed. */
export class Answer {
  state = { kind: "sending" };
  #abort = new AbortController();
  #onChange;
  #askKey;

  constructor({ conversation, message, model, onChange, askKey }) {
    Object.assign(this, { conversation, message, model });
    this.#onChange = onChange;
    this.#askKey = askKey;
  }

  stop() {
    this.#abort.abort();
  }

  /** Runs to the end; errors end up in the message. */
  async run() {
    const { message } = this;
    try {
      const response = await this.#send();
      await this.#read(response);
    } catch (error) {
      if (error.name === "AbortError") message.end = "stopped";
      else {
        const known = error instanceof ServerError ? error : new ServerError({ kind: "failed", title: "The page stumbled over the answer.", advice: "Try again.", detail: String(error) });
        message.end = "error";
        message.error = { kind: known.kind, title: known.title, advice: known.advice, detail: known.detail };
      }
    }
    this.state = { kind: "done" };
    this.#onChange(this);
  }

  #change(state) {
    if (state) this.state = state;
    this.#onChange(this);
  }

  /** Sends until the server takes it. */
  async #send() {
    const { signal } = this.#abort;
    for (let busy = 0; ; ) {
      this.#change({ kind: "sending" });
      this.sentAt = performance.now();
      try {
        return await request("/v1/chat/completions", { body: this.#body(), signal, accept: "text/event-stream" });
      } catch (error) {
        if (error.kind === "key") {
          this.#change({ kind: "key" });
          if (!(await this.#askKey(error.detail, signal))) throw error;
        } else if (error.kind === "loading") await this.#wait(error, error.retryAfterS || LOADING_POLL_S);
        else if (error.kind === "busy" && busy < BUSY_TRIES) {
          busy += 1;
          await this.#wait(error, error.retryAfterS || Math.min(2 ** busy, 30));
        } else throw error;
      }
    }
  }

  async #wait(error, seconds) {
    for (let left = Math.ceil(seconds); left > 0; left -= 1) {
      this.#change({ kind: error.kind, left, detail: error.detail });
      await sleep(Math.min(1000, seconds * 1000), this.#abort.signal);
    }
  }

  #body() {
    const { conversation, message } = this;
    return {
      model: this.model,
      messages: toRequest(conversation, find(conversation, message.parent)),
      ...conversation.sampling,
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  async #read(response) {
    const { signal } = this.#abort;
    this.#change({ kind: "accepted" });
    let whole = false;
    for await (const { event, data } of events(response, signal)) {
      if (event === "ping") continue;
      if (data === "[DONE]") {
        whole = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error || event === "error") throw explainEvent(chunk);
      this.#take(chunk);
    }
    if (!whole && this.message.end === "running") {
      throw new ServerError({ kind: "cut", title: "The connection was cut.", advice: "The answer is not complete. Try again." });
    }
    if (this.message.end === "running") this.message.end = "stop";
  }

  #take(chunk) {
    const { message } = this;
    if (chunk.prompt_progress) {
      const { processed, total } = chunk.prompt_progress;
      this.#change({ kind: "prefill", processed, total });
    }
    const choice = chunk.choices?.[0];
    const reasoning = choice?.delta?.reasoning_content;
    const content = choice?.delta?.content;
    if (reasoning || content) {
      const now = performance.now();
      this.firstAt ??= now;
      if (reasoning) {
        message.reasoning = (message.reasoning ?? "") + reasoning;
        message.stats = { ...message.stats, thought_s: (now - this.firstAt) / 1000 };
      }
      if (content) message.content += content;
      this.#change({ kind: message.content ? "writing" : "thinking" });
    }
    if (choice?.finish_reason) message.end = choice.finish_reason;
    if (chunk.usage || chunk.timings) this.#count(chunk);
  }

  #count({ usage, timings }) {
    const stats = { ...this.message.stats };
    if (this.firstAt) {
      stats.first_s = (this.firstAt - this.sentAt) / 1000;
      stats.seconds = (performance.now() - this.firstAt) / 1000;
    }
    if (usage) {
      stats.tokens = usage.completion_tokens;
      stats.prompt = usage.prompt_tokens;
      stats.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    if (timings) {
      stats.rate = timings.predicted_per_second ?? stats.rate;
      stats.prompt_rate = timings.prompt_per_second ?? stats.prompt_rate;
    }
    if (!stats.rate && stats.tokens > 1 && stats.seconds > 0) stats.rate = (stats.tokens - 1) / stats.seconds;
    this.message.stats = Object.fromEntries(Object.entries(stats).filter(([, value]) => Number.isFinite(value)));
    this.#change();
  }
}
