// One message on the page: its text, what it is doing, what went wrong, and the buttons below it.

import { versions } from "./conversation.js";
import { announce, copyFrom, h, icon, iconButton, setText } from "./dom.js";
import { grouped, plural, rate, seconds } from "./format.js";
import { MarkdownView } from "./markdown.js";

/** A message's view. `actions` are what its buttons do: `retry`, `edit`, `show` (another version). */
export function messageView(conversation, message, actions) {
  return message.role === "user" ? new UserView(conversation, message, actions) : new AnswerView(conversation, message, actions);
}

/** "2 of 3" between arrows, where a message has versions. */
function versionButtons(conversation, message, actions) {
  const all = versions(conversation, message);
  if (all.length < 2) return [];
  const at = all.indexOf(message);
  const arrow = (name, label, to) => iconButton(name, label, () => actions.show(all[to], name), { disabled: !all[to] });
  return [
    h("span", { class: "versions" }, arrow("left", "Earlier version", at - 1), h("span", null, `${at + 1} of ${all.length}`), arrow("right", "Later version", at + 1)),
  ];
}

class UserView {
  constructor(conversation, message, actions) {
    Object.assign(this, { conversation, message, actions });
    this.body = h("div", { class: "text" }, message.content);
    this.foot = h("div", { class: "actions" });
    this.element = h("article", { class: "message user", "aria-label": "You" }, this.body, this.foot);
    this.refresh();
  }

  refresh() {
    const copy = iconButton("copy", "Copy this message", () => copyFrom(copy, this.message.content));
    const edit = iconButton("edit", "Edit this message", () => this.edit());
    this.foot.replaceChildren(...versionButtons(this.conversation, this.message, this.actions), copy, edit);
  }

  /** Turns the message into a box to write in. */
  edit() {
    if (this.editing) return;
    this.editing = true;
    const area = h("textarea", { rows: "3", "aria-label": "Edit your message" });
    area.value = this.message.content;
    const done = () => {
      this.editing = false;
      form.replaceWith(this.body);
      this.foot.hidden = false;
      this.foot.querySelector("button:last-child")?.focus();
    };
    const send = () => {
      const text = area.value.trim();
      done();
      if (text) this.actions.edit(this.message, text);
    };
    const form = h(
      "div",
      { class: "edit" },
      area,
      h("div", { class: "row" }, h("button", { type: "button", onclick: done }, "Cancel"), h("button", { type: "button", class: "main", onclick: send }, "Send")),
    );
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        done();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.body.replaceWith(form);
    this.foot.hidden = true;
    area.style.height = `${Math.min(area.scrollHeight + 4, innerHeight / 2)}px`;
    area.focus();
  }
}

class AnswerView {
  #openedByHand = false;

  constructor(conversation, message, actions) {
    Object.assign(this, { conversation, message, actions });
    this.thoughtTitle = h("summary", null, "Thoughts");
    this.thoughtText = h("div", { class: "text" });
    this.thought = h("details", { class: "thought", hidden: true }, this.thoughtTitle, this.thoughtText);
    this.thoughtTitle.addEventListener("click", () => (this.#openedByHand = true));
    this.state = h("div", { class: "state", hidden: true });
    this.body = h("div", { class: "text" });
    this.end = h("div", { class: "end" });
    this.foot = h("div", { class: "actions" });
    this.element = h("article", { class: "message answer", "aria-label": "Answer" }, this.thought, this.body, this.state, this.end, this.foot);
    this.refresh(null);
  }

  /** Shows the message as it is; `run` is its answer while that is running. */
  refresh(run) {
    const { message } = this;
    const running = run !== null && run.state.kind !== "done";
    // Only what was seen arriving is read out, not what was there before.
    this.live ||= running;
    this.markdown ??= new MarkdownView(this.body, (text) => this.live && announce(text));
    if (this.shown !== message.content || this.wasRunning !== running) this.markdown.update(message.content, running);
    this.shown = message.content;
    this.element.setAttribute("aria-busy", String(running));
    this.element.classList.toggle("writing", running && run.state.kind === "writing");
    this.#thoughts(running);
    this.#showState(running ? run.state : null);
    if (!running) this.#finish();
    else {
      this.foot.replaceChildren();
      this.end.replaceChildren();
    }
    this.wasRunning = running;
  }

  #thoughts(running) {
    const { message } = this;
    this.thought.hidden = !message.reasoning;
    if (!message.reasoning) return;
    const thinking = running && !message.content;
    if (this.thoughtShown !== message.reasoning) {
      this.thoughts ??= new MarkdownView(this.thoughtText);
      this.thoughts.update(message.reasoning, thinking);
      this.thoughtShown = message.reasoning;
    }
    if (!this.#openedByHand) this.thought.open = thinking;
    const took = message.stats?.thought_s;
    setText(this.thoughtTitle, thinking ? "Thinking…" : took >= 1 ? `Thought for ${seconds(took)}` : "Thoughts");
  }

  #showState(state) {
    const shown = state !== null && !["writing", "thinking"].includes(state.kind);
    this.state.hidden = !shown;
    if (!shown) return;
    if (state.kind === "prefill" && state.total > 0) {
      this.progress ??= h("progress", { "aria-label": "Prompt read" });
      this.progress.max = state.total;
      this.progress.value = state.processed;
      this.stateText ??= h("span");
      setText(this.stateText, `Reading the prompt: ${grouped(state.processed)} of ${plural(state.total, "token")}`);
      if (this.progress.parentNode !== this.state) this.state.replaceChildren(this.stateText, this.progress);
      return;
    }
    const texts = {
      sending: "Sending…",
      accepted: "Waiting for the first word…",
      key: "Waiting for the key…",
      busy: `The server is busy. Trying again in ${state.left} s.`,
      loading: "Waiting for the model to be ready…",
      prefill: "Reading the prompt…",
    };
    this.state.replaceChildren(h("span", { class: "pulse" }), h("span", null, texts[state.kind]));
  }

  #finish() {
    const { message, conversation, actions } = this;
    const notes = [];
    if (message.end === "stopped") notes.push(h("p", { class: "note" }, "Stopped."));
    if (message.end === "running") notes.push(h("p", { class: "note" }, "This answer was not finished."));
    if (message.end === "length") notes.push(h("p", { class: "note" }, "Cut off: the limit of tokens was reached. A larger limit can be set in the settings."));
    if (message.end === "stop" && !message.content) notes.push(h("p", { class: "note" }, "The model answered with nothing."));
    if (message.error) notes.push(errorBox(message.error, () => actions.retry(message)));
    this.end.replaceChildren(...notes);
    const copy = iconButton("copy", "Copy this answer", () => copyFrom(copy, message.content));
    const retry = iconButton("retry", "Answer again", () => actions.retry(message));
    this.foot.replaceChildren(...versionButtons(conversation, message, actions), ...(message.content ? [copy] : []), retry, h("span", { class: "stats" }, statsText(message.stats)));
  }
}

function errorBox({ title, advice, detail }, retry) {
  const text = h("div", null, h("strong", null, title), " ", advice);
  if (detail) text.append(h("code", { class: "detail" }, detail));
  return h("div", { class: "error", role: "alert" }, icon("alert"), text, h("button", { type: "button", onclick: retry }, "Try again"));
}

function statsText(stats) {
  if (!stats) return "";
  const parts = [];
  if (stats.tokens) parts.push(plural(stats.tokens, "token"));
  if (stats.rate) parts.push(`${rate(stats.rate)} tokens/s`);
  if (stats.first_s) parts.push(`first after ${seconds(stats.first_s)}`);
  return parts.join(" · ");
}
