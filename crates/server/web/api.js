// Talking to the server: the key, requests, server-sent events, and errors in words with what to do.

const KEY = "lowtide.key";

/** The API key of this tab; it is gone when the tab closes. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

/** An error a person can act on. `kind` decides what the page does by itself. */
export class ServerError extends Error {
  constructor({ kind, title, advice, detail = "", retryAfterS = 0 }) {
    super(title);
    Object.assign(this, { kind, title, advice, detail, retryAfterS });
  }
}

/** A request with the key. Throws `ServerError` for every answer that is not a success. */
export async function request(path, { body, signal, accept } = {}) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (accept) headers.Accept = accept;
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw explain(response.status, await errorText(response), response.headers);
  return response;
}

/** The server's own words, from an OpenAI-shaped error body or plain text. */
async function errorText(response) {
  try {
    const text = (await response.text()).slice(0, 4000);
    try {
      return messageOf(JSON.parse(text)) ?? text;
    } catch {
      return text;
    }
  } catch {
    return "";
  }
}

const messageOf = (body) =>
  [body?.error?.message, body?.error, body?.message, body?.status].find((part) => typeof part === "string");

/** Nothing answered. */
export function unreachable() {
  return new ServerError({
    kind: "unreachable",
    title: "The server does not answer.",
    advice: "See whether `lowtide serve` is still running, then try again.",
  });
}

/** An error that arrived inside a stream. */
export function explainEvent(body) {
  const code = Number(body?.error?.code);
  return explain(code >= 400 ? code : 500, messageOf(body) ?? "", null);
}

/** A status code and the server's message as a title, advice and what to do. */
export function explain(status, detail, headers) {
  const retryAfterS = Math.min(Number(headers?.get("Retry-After")) || 0, 600);
  const known = {
    401: ["key", "The server asks for a key.", "Enter the key it was started with."],
    403: ["refused", "The server refuses this page.", "Open it at the address that `lowtide serve` printed."],
    404: ["request", "The server does not know what was asked for.", "The model may be gone: reload the page."],
    413: ["request", "The message is larger than the server takes.", "Send a shorter one."],
    422: ["request", "The server does not accept these settings.", "Look at the sampling settings."],
    429: ["busy", "The server is busy.", "The message is sent again when there is room."],
    503: ["loading", "The server is not ready.", "The message is sent when it is."],
  }[status];
  if (known) return new ServerError({ kind: known[0], title: known[1], advice: known[2], detail, retryAfterS });
  if (status === 400 && /context|too long|exceed/i.test(detail)) {
    return new ServerError({
      kind: "request",
      title: "The conversation is longer than the model's context.",
      advice: "Shorten the message, start a new conversation, or restart the server with a larger --ctx.",
      detail,
    });
  }
  if (status < 500) {
    return new ServerError({
      kind: "request",
      title: "The server does not accept this request.",
      advice: "Its reason stands below; the settings are the usual cause.",
      detail,
    });
  }
  return new ServerError({
    kind: "failed",
    title: "The server could not finish this answer.",
    advice: "Try again. If it happens every time, its log says more.",
    detail: detail || `HTTP status ${status}`,
  });
}

/** The events of a stream, as `{ event, data }`; comments (pings) only keep it alive and come as `{ event: "ping" }`. */
export async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { event, data: data.join("\n") };
          event = "message";
          data = [];
        } else if (line.startsWith(":")) {
          yield { event: "ping", data: "" };
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        } else if (line.startsWith("event:")) {
          event = line.slice(6).trim();
        }
      }
    }
  } catch (error) {
    if (signal?.aborted || error.name === "AbortError") throw new DOMException("stopped", "AbortError");
    throw new ServerError({
      kind: "cut",
      title: "The connection was cut.",
      advice: "The answer is not complete. Try again.",
    });
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Waits, and ends at once when the signal says so. */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    };
    if (signal?.aborted) {
      reject(new DOMException("stopped", "AbortError"));
      return;
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
