// The conversation on the page. It follows the answer's end unless the reader has scrolled away.

import { path } from "./conversation.js";
import { byId, h } from "./dom.js";
import { messageView } from "./message.js";

/** As near to the end, in pixels, still counts as at the end. */
const NEAR_END = 80;

export class Thread {
  #views = new Map();
  #element = byId("thread");
  #scroll = byId("thread-scroll");
  #follows = true;
  #actions;

  constructor(actions) {
    this.#actions = actions;
    this.#scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    byId("to-latest").addEventListener("click", () => this.toEnd());
    new ResizeObserver(() => this.#follows && this.toEnd()).observe(this.#scroll);
  }

  /** Shows a conversation; `runs` are the answers under way. */
  show(conversation, runs, welcome) {
    if (this.conversation !== conversation) this.#views.clear();
    this.conversation = conversation;
    const shown = path(conversation);
    const views = shown.map((message) => {
      let view = this.#views.get(message.id);
      if (!view) {
        view = messageView(conversation, message, this.#actions);
        this.#views.set(message.id, view);
      }
      view.refresh(runs.get(message.id) ?? null);
      return view.element;
    });
    if (views.length === 0) this.#element.replaceChildren(welcome);
    else {
      // Elements already in place stay, and with them selection, focus and scrolling.
      views.forEach((view, at) => {
        if (this.#element.children[at] !== view) this.#element.insertBefore(view, this.#element.children[at] ?? null);
      });
      while (this.#element.children.length > views.length) this.#element.lastElementChild.remove();
    }
    if (this.#follows) this.toEnd();
  }

  /** An answer has changed. */
  refresh(run) {
    const view = this.#views.get(run.message.id);
    if (!view) return;
    view.refresh(run);
    if (this.#follows) this.toEnd();
    else this.#scrolled();
  }

  toEnd() {
    this.#follows = true;
    this.#scroll.scrollTop = this.#scroll.scrollHeight;
    byId("to-latest").hidden = true;
  }

  /** Opens the last message of the person for editing. */
  editLast() {
    const last = path(this.conversation).findLast((message) => message.role === "user");
    if (last) this.#views.get(last.id)?.edit();
    return Boolean(last);
  }

  /** Puts the focus on a button of a message's view, after versions were switched. */
  focusVersion(message, arrow) {
    const buttons = [...(this.#views.get(message.id)?.element.querySelectorAll(".versions button") ?? [])];
    const wanted = buttons[arrow === "left" ? 0 : 1];
    (wanted?.disabled ? buttons.find((button) => !button.disabled) : wanted)?.focus();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    this.#follows = scrollHeight - scrollTop - clientHeight < NEAR_END;
    byId("to-latest").hidden = this.#follows;
  }
}

/** What stands where no message stands yet. */
export function welcome(lead, examples, use) {
  return h(
    "div",
    { class: "welcome" },
    h("p", { class: "lead" }, lead.title),
    lead.text ? h("p", null, lead.text) : null,
    h("ul", { class: "examples", "aria-label": "Examples" }, examples.map((text) => h("li", null, h("button", { type: "button", onclick: () => use(text) }, text)))),
  );
}
