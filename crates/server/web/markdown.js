// An answer as it grows. Only the last block is built again when text arrives; an open code block only gets its new
// lines. What the model wrote becomes DOM nodes, never markup.

import { blocks } from "./blocks.js";
import { copyFrom, h, icon } from "./dom.js";
import { Highlighter } from "./highlight.js";
import { inline } from "./inline.js";

/** Shows growing markdown in an element. */
export class MarkdownView {
  #element;
  #text = "";
  /** The blocks shown: where each begins in the text, and its element. */
  #shown = [];
  #onBlock;

  /** `onBlock(text)` is called with each block when nothing can change it any more. */
  constructor(element, onBlock) {
    this.#element = element;
    this.#onBlock = onBlock;
  }

  /** Shows `text`; while `open`, more is to come. */
  update(text, open) {
    if (!text.startsWith(this.#text)) {
      this.#element.replaceChildren();
      this.#shown = [];
    }
    this.#text = text;
    const last = this.#shown.pop();
    const from = last?.from ?? 0;
    const lines = text.slice(from).split("\n");
    const starts = [from];
    for (const line of lines) starts.push(starts.at(-1) + line.length + 1);
    let reuse = last;
    for (const block of blocks(lines)) {
      const isLast = open && block.to >= lines.length;
      const shown = this.#grown(reuse, block, isLast);
      if (!shown) reuse?.element.remove();
      reuse = undefined;
      const element = shown ?? build(block, isLast, this.#rank(block));
      if (!shown) this.#element.append(element.node ?? element);
      if (this.#shown.length > 0) this.#finished(this.#shown.at(-1));
      this.#shown.push({ from: starts[block.from], element: element.node ?? element, code: shown ? last.code : element.code, block });
    }
    reuse?.element.remove();
    if (!open && this.#shown.length > 0) this.#finished(this.#shown.at(-1));
  }

  /**
   * The rank of a heading below the page's own: models begin with any level and leave some out, which is a broken
   * outline for screen readers. The look keeps the model's level.
   */
  #rank(block) {
    if (block.type !== "heading") return null;
    const before = this.#shown.filter((one) => one.block.type === "heading").map((one) => one.block);
    const wanted = 2 + Math.max(block.level - (before[0] ?? block).level, 0);
    block.rank = Math.min(wanted, (before.at(-1)?.rank ?? 1) + 1, 6);
    return block.rank;
  }

  /** An open code block that only grew is kept. */
  #grown(last, block, open) {
    if (!last?.code || block.type !== "code" || last.code.language !== block.language) return null;
    last.code.update(block, open);
    return last.element;
  }

  #finished(shown) {
    if (shown.said) return;
    shown.said = true;
    this.#onBlock?.(shown.code ? shown.code.description() : shown.element.textContent);
  }
}

/** Finished markdown as nodes. */
export function render(element, text) {
  new MarkdownView(element).update(text, false);
}

function build(block, open, rank) {
  switch (block.type) {
    case "heading": return withInline(h(rank ? `h${rank}` : "p", { class: `level-${block.level}` }), block.text, open);
    case "rule": return h("hr");
    case "quote": return h("blockquote", null, nested(block.children, open));
    case "list": return list(block, open);
    case "table": return table(block, open);
    case "code": return new CodeBlock(block, open);
    default: return withInline(h("p"), block.text, open);
  }
}

function withInline(element, text, open) {
  inline(element, text, open);
  return element;
}

function nested(children, open) {
  return children.map((child, at) => {
    const built = build(child, open && at === children.length - 1);
    return built.node ?? built;
  });
}

function list(block, open) {
  const items = block.items.map(({ done, children }, at) => {
    const isOpen = open && at === block.items.length - 1;
    const item = h("li", done === null ? null : { class: "task" });
    if (done !== null) item.append(h("input", { type: "checkbox", checked: done, disabled: true, "aria-label": done ? "done" : "to do" }));
    // In a tight list a paragraph is just its text.
    if (!block.loose && children[0]?.type === "paragraph") {
      inline(item, children[0].text, isOpen && children.length === 1);
      item.append(...nested(children.slice(1), isOpen));
    } else item.append(...nested(children, isOpen));
    return item;
  });
  return h(block.ordered ? "ol" : "ul", block.ordered && block.start !== 1 ? { start: block.start } : null, items);
}

function table(block, open) {
  const cell = (tag, text, column, isOpen) => withInline(h(tag, { class: `align-${block.align[column]}` }), text, isOpen);
  const head = h("tr", null, block.head.map((text, column) => cell("th", text, column, false)));
  const rows = block.rows.map((row, at) => h("tr", null, row.map((text, column) => cell("td", text, column, open && at === block.rows.length - 1))));
  const element = h("table", null, h("thead", null, head), h("tbody", null, rows));
  return h("div", { class: "table-box", tabindex: "0", role: "group", "aria-label": "Table" }, element);
}

/** A code block with its language and a copy button; takes new lines without building the old ones again. */
class CodeBlock {
  #lines = [];
  #code = h("code");
  #highlighter;
  #tail = null;

  constructor(block, open) {
    this.language = block.language;
    this.#highlighter = new Highlighter(block.language);
    const said = h("span", { class: "said" }, "Copy");
    const button = h("button", { type: "button", class: "quiet small", onclick: () => copyFrom(button, this.#lines.join("\n")) }, icon("copy"), said);
    this.node = h(
      "div",
      { class: "code-box" },
      h("div", { class: "code-head" }, h("span", null, block.language || "text"), button),
      h("pre", { tabindex: "0", role: "group", "aria-label": `Code, ${block.language || "text"}` }, this.#code),
    );
    this.code = this;
    this.update(block, open);
  }

  update(block, open) {
    this.#tail?.forEach((node) => node.remove());
    this.#tail = null;
    // The last line may still grow: it is shown, but not yet part of the highlighter's state.
    const growing = open && !block.closed;
    const complete = growing ? block.lines.slice(0, -1) : block.lines;
    for (const line of complete.slice(this.#done)) {
      this.#code.append(...this.#highlighter.line(line), "\n");
      this.#done += 1;
    }
    if (growing && block.lines.length > 0) {
      this.#tail = this.#highlighter.peek(block.lines.at(-1));
      this.#code.append(...this.#tail);
    }
    this.#lines = block.lines;
  }

  #done = 0;

  description() {
    return `Code, ${this.language || "text"}, ${this.#lines.length} lines.`;
  }
}
