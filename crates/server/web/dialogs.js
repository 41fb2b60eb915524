// Dialogs: the key, the settings of a conversation, the keyboard.

import { h, iconButton } from "./dom.js";

/** Opens a dialog; the answer is what `close(value)` was given, or undefined. */
function open(title, build) {
  const before = document.activeElement;
  return new Promise((resolve) => {
    let result;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const dialog = h(
      "dialog",
      { "aria-label": title },
      h("div", { class: "dialog-head" }, h("h2", null, title), iconButton("close", "Close", () => close())),
    );
    dialog.append(build(close));
    dialog.addEventListener("close", () => {
      dialog.remove();
      before?.focus();
      resolve(result);
    });
    dialog.addEventListener("click", (event) => event.target === dialog && close());
    // Escape belongs to the dialog while it is open.
    dialog.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation());
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  });
}

/** Asks for the key; undefined when the person does not give one. `told` is what the server said. */
export function askKey(told, wrong) {
  return open("The server asks for a key", (close) => {
    const field = h("input", { type: "password", autocomplete: "off", id: "key", autofocus: true, required: true, spellcheck: "false", "aria-describedby": "key-note" });
    const form = h(
      "form",
      null,
      wrong ? h("p", { class: "error", role: "alert" }, "That key was not accepted.") : null,
      h("p", { id: "key-note" }, "It is the one the server was started with (--api-key-file). It stays in this tab and is forgotten when the tab closes."),
      h("label", { for: "key" }, "API key"),
      field,
      told ? h("p", { class: "note" }, `The server says: ${told}`) : null,
      h("div", { class: "row" }, h("button", { type: "button", onclick: () => close() }, "Cancel"), h("button", { type: "submit", class: "main" }, "Use this key")),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) close(field.value.trim());
    });
    return form;
  });
}

const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0 always takes the likeliest word; higher is more varied." },
  { name: "top_p", label: "Top-p", min: 0, max: 1, step: 0.05, hint: "Only the likeliest words that make up this share." },
  { name: "top_k", label: "Top-k", min: 0, step: 1, hint: "Only this many of the likeliest words; 0 is all." },
  { name: "min_p", label: "Min-p", min: 0, max: 1, step: 0.01, hint: "Only words at least this share as likely as the likeliest." },
  { name: "repeat_penalty", label: "Repeat penalty", min: 0, max: 2, step: 0.05, hint: "Above 1 makes repetition less likely." },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, hint: "Against words already there." },
  { name: "frequency_penalty", label: "Frequency penalty", min: -2, max: 2, step: 0.1, hint: "Against words already there often." },
  { name: "max_tokens", label: "Most tokens", min: 1, step: 1, hint: "Where an answer is cut off; empty is no limit." },
  { name: "seed", label: "Seed", min: 0, step: 1, hint: "The same seed gives the same answer." },
];

/** The settings of a conversation. `changed` is called on each change, `keep` makes them those of new conversations. */
export function openSettings(conversation, defaults, { changed, keep }) {
  return open("System prompt and sampling", (close) => {
    const system = h("textarea", { id: "system", rows: "4", placeholder: "You are …" });
    system.value = conversation.system;
    system.addEventListener("input", () => {
      conversation.system = system.value;
      changed();
    });
    const fields = FIELDS.map((field) => numberField(field, conversation, defaults, changed));
    const stop = h("input", { type: "text", id: "stop-words", placeholder: "none", "aria-describedby": "stop-hint", spellcheck: "false" });
    stop.value = (conversation.sampling.stop ?? []).join(", ");
    stop.addEventListener("change", () => {
      const words = stop.value.split(",").map((word) => word.trim()).filter(Boolean);
      if (words.length > 0) conversation.sampling.stop = words;
      else delete conversation.sampling.stop;
      changed();
    });
    const reset = () => {
      conversation.system = "";
      conversation.sampling = {};
      changed();
      close();
    };
    return h(
      "form",
      { class: "settings", onsubmit: (event) => { event.preventDefault(); close(); } },
      h("p", { class: "note" }, "For this conversation, from the next answer on. Empty fields take the server's value, shown in grey."),
      h("label", { for: "system" }, "System prompt"),
      system,
      h("div", { class: "fields" }, fields),
      h("div", { class: "field" }, h("label", { for: "stop-words" }, "Stop at"), stop, h("p", { class: "hint", id: "stop-hint" }, "Texts that end an answer, separated by commas.")),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", onclick: reset }, "Reset"),
        h("button", { type: "button", onclick: () => { keep(); close(); } }, "Use for new conversations"),
        h("button", { type: "submit", class: "main" }, "Done"),
      ),
    );
  });
}

function numberField({ name, label, hint, min, max, step }, conversation, defaults, changed) {
  const id = `set-${name}`;
  const field = h("input", { type: "number", id, min, max, step: step === 1 ? 1 : "any", "aria-describedby": `${id}-hint`, placeholder: defaults?.[name] ?? (name === "max_tokens" ? "no limit" : name === "seed" ? "random" : "") });
  field.value = conversation.sampling[name] ?? "";
  field.addEventListener("input", () => {
    const wrong = !field.checkValidity();
    field.setAttribute("aria-invalid", String(wrong));
    if (wrong) return;
    if (field.value === "") delete conversation.sampling[name];
    else conversation.sampling[name] = field.valueAsNumber;
    changed();
  });
  return h("div", { class: "field" }, h("label", { for: id }, label), field, h("p", { class: "hint", id: `${id}-hint` }, hint));
}

const KEYS = [
  ["Enter", "send the message"],
  ["Shift + Enter", "a new line"],
  ["Esc", "stop the answer"],
  ["↑ in the empty box", "edit your last message"],
  ["Alt + N", "new conversation"],
  ["Alt + C", "show or hide the conversations"],
  ["Alt + T", "show or hide the tide"],
  ["Alt + S", "system prompt and sampling"],
  ["Alt + R", "answer again"],
  ["F2, Delete", "rename or delete the conversation with the focus"],
  ["← → on the tide", "go through the pieces of the file"],
];

/** What the keyboard does. */
export function openShortcuts() {
  return open("Keyboard", () => h("dl", { class: "keys" }, KEYS.map(([key, what]) => h("div", null, h("dt", null, h("kbd", null, key)), h("dd", null, what)))));
}
