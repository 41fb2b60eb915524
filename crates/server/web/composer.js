// The box to write in: grows with the text, keeps a draft over a reload, takes text files that are dropped on it.

import { byId, setText, toast } from "./dom.js";
import { settings } from "./store.js";

/** A larger file than this is hardly meant to be a message. */
const FILE_BYTES_MAX = 2_000_000;

export class Composer {
  #area = byId("composer-text");
  #busy = false;

  /** `send(text)`, `stop()`, and `editLast()`, which returns whether there was something to edit. */
  constructor({ send, stop, editLast }) {
    this.send = send;
    this.#area.value = settings.get("draft", "");
    this.#area.addEventListener("input", () => this.#changed());
    this.#area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        this.#submit();
      } else if (event.key === "ArrowUp" && this.#area.value === "" && editLast()) event.preventDefault();
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    byId("stop").addEventListener("click", stop);
    byId("chat").addEventListener("dragover", (event) => event.dataTransfer.types.includes("Files") && event.preventDefault());
    byId("chat").addEventListener("drop", (event) => {
      if (event.dataTransfer.files.length === 0) return;
      event.preventDefault();
      this.#take(event.dataTransfer.files);
    });
    this.#changed();
  }

  focus() {
    this.#area.focus();
  }

  /** Shows whether an answer is under way, and how much of the context is used. */
  show({ busy, context }) {
    this.#busy = busy;
    byId("stop").hidden = !busy;
    byId("send").hidden = busy;
    byId("send").disabled = !this.#area.value.trim();
    setText(byId("context-use"), context);
  }

  #submit() {
    const text = this.#area.value;
    if (!text.trim() || this.#busy) return;
    this.#area.value = "";
    this.#changed();
    this.send(text);
  }

  #changed() {
    settings.set("draft", this.#area.value);
    byId("send").disabled = !this.#area.value.trim();
    this.#area.style.height = "auto";
    this.#area.style.height = `${Math.min(this.#area.scrollHeight, innerHeight * 0.4)}px`;
  }

  async #take(files) {
    for (const file of files) {
      const text = file.size <= FILE_BYTES_MAX ? await file.text() : "\0";
      // A NUL is no text: pictures, archives, models.
      if (text.includes("\0")) {
        toast(`${file.name} is not a text that fits into a message.`);
        continue;
      }
      const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map((run) => run.length));
      const fence = "`".repeat(longest + 1);
      const language = /\.([\w+]{1,8})$/.exec(file.name)?.[1] ?? "";
      this.#area.value += `${this.#area.value ? "\n\n" : ""}${file.name}:\n${fence}${language}\n${text.trimEnd()}\n${fence}\n`;
    }
    this.#changed();
    this.focus();
  }
}
