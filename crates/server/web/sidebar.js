// The list of conversations.

import { byId, h, iconButton } from "./dom.js";

const DAY_MS = 24 * 3600 * 1000;
/** From this many on there is a field to search them. */
const FILTER_FROM = 6;

export class Sidebar {
  #list = byId("conversation-list");
  #filter = byId("conversation-filter");
  #actions;
  #last = null;

  /** `actions`: open, rename, remove, save (as a file). */
  constructor(actions) {
    this.#actions = actions;
    this.#filter.addEventListener("input", () => this.#last && this.show(...this.#last));
  }

  show(conversations, currentId, runningIds) {
    this.#last = [conversations, currentId, runningIds];
    if (this.#list.querySelector("input")) return;
    this.#filter.hidden = conversations.length < FILTER_FROM;
    const wanted = this.#filter.hidden ? "" : this.#filter.value.trim().toLowerCase();
    const shown = conversations
      .filter((one) => !wanted || matches(one, wanted))
      .sort((a, b) => b.updated - a.updated);
    const focused = this.#list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    this.#list.replaceChildren();
    let day = "";
    for (const conversation of shown) {
      const name = dayName(conversation.updated);
      if (name !== day) this.#list.append(h("li", { class: "day" }, name));
      day = name;
      this.#list.append(this.#item(conversation, conversation.id === currentId, runningIds.has(conversation.id)));
    }
    if (shown.length === 0) this.#list.append(h("li", { class: "none" }, wanted ? "Nothing found." : "Conversations appear here."));
    if (focused) this.#list.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  #item(conversation, current, running) {
    const title = conversation.title || "Untitled";
    const open = h("button", { type: "button", class: "open", title, "data-id": conversation.id, "aria-current": current ? "page" : null, onclick: () => this.#actions.open(conversation.id) }, title);
    if (running) open.append(h("span", { class: "running", role: "img", "aria-label": "is answering" }));
    open.addEventListener("keydown", (event) => {
      if (event.key === "F2") this.#rename(item, conversation);
      if (event.key === "Delete") this.#actions.remove(conversation.id);
    });
    const item = h(
      "li",
      { class: current ? "conversation current" : "conversation" },
      open,
      h(
        "span",
        { class: "item-actions" },
        iconButton("edit", `Rename “${title}”`, () => this.#rename(item, conversation)),
        iconButton("export", `Export “${title}”`, () => this.#actions.save(conversation.id)),
        iconButton("trash", `Delete “${title}”`, () => this.#actions.remove(conversation.id)),
      ),
    );
    return item;
  }

  #rename(item, conversation) {
    const field = h("input", { type: "text", maxlength: "200", "aria-label": "Title" });
    field.value = conversation.title;
    let over = false;
    const done = (keep) => {
      if (over) return;
      over = true;
      field.remove();
      this.#actions.rename(conversation.id, keep && field.value.trim() ? field.value.trim() : conversation.title);
      this.#list.querySelector(`[data-id="${CSS.escape(conversation.id)}"]`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") done(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        done(false);
      }
    });
    field.addEventListener("blur", () => done(true));
    item.replaceChildren(field);
    field.select();
  }
}

const matches = (conversation, wanted) =>
  conversation.title.toLowerCase().includes(wanted) || conversation.messages.some((message) => message.content.toLowerCase().includes(wanted));

function dayName(time) {
  const days = Math.floor((new Date().setHours(24, 0, 0, 0) - time) / DAY_MS);
  return days <= 0 ? "Today" : days === 1 ? "Yesterday" : days < 7 ? "This week" : "Earlier";
}
