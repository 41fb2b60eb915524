// The inside of a paragraph: emphasis, code, links. Builds DOM nodes; whatever is not understood stays text.
// Emphasis follows CommonMark's delimiter algorithm with the DOM's sibling list as its linked list, so the time is
// linear in the text however hostile it is.

import { h } from "./dom.js";

const PUNCTUATION = /[\p{P}\p{S}]/u;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", times: "×", rarr: "→", hellip: "…" };
/** Deeper nesting than any text has; layout recurses, so it must end somewhere. */
const DEPTH_MAX = 40;
const PLAIN = /[^\\`*_~[\]!<&\nhH]+/y;

/** Appends `text` to `parent`. While `open`, the text's end is still to come: unclosed marks count as closed there. */
export function inline(parent, text, open = false) {
  if (open) text = text.replace(/[*_~`[!]+$/, "");
  new Inline(parent, text, open).run();
}

class Inline {
  constructor(parent, text, open) {
    Object.assign(this, { parent, text, open, at: 0, written: "", delimiters: [], brackets: [], unclosed: new Set() });
  }

  run() {
    while (this.at < this.text.length) {
      PLAIN.lastIndex = this.at;
      const plain = PLAIN.exec(this.text)?.[0];
      if (plain) {
        this.write(plain);
        this.at += plain.length;
      } else this.special();
    }
    this.append();
    this.emphasise(0);
  }

  /** Text is gathered first: a text node that grows by characters is copied for each of them. */
  write(text) {
    this.written += text;
  }

  /** Appends a node, or only what was gathered. */
  append(...nodes) {
    if (this.written) this.parent.append(this.written);
    this.written = "";
    this.parent.append(...nodes);
  }

  /** A text node that later may become a mark; nothing else is written into it. */
  mark(text) {
    const node = document.createTextNode(text);
    this.append(node);
    return node;
  }

  special() {
    const char = this.text[this.at];
    switch (char) {
      case "\\": return this.escape();
      case "`": return this.code();
      case "*": case "_": case "~": return this.delimiter(char);
      case "[": return this.bracket("[");
      case "!": return this.text[this.at + 1] === "[" ? this.bracket("![") : this.plain();
      case "]": return this.close();
      case "<": return this.angle();
      case "&": return this.entity();
      case "\n": return this.newline();
      default: return this.bareLink();
    }
  }

  plain(length = 1) {
    this.write(this.text.slice(this.at, this.at + length));
    this.at += length;
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === "\n") this.lineBreak(2);
    else if (next && /[!-/:-@[-`{-~]/.test(next)) {
      this.write(next);
      this.at += 2;
    } else this.plain();
  }

  code() {
    let end = this.at;
    while (this.text[end] === "`") end += 1;
    const ticks = end - this.at;
    const close = this.unclosed.has(ticks) ? -1 : this.closingTicks(end, ticks);
    if (close < 0) {
      this.unclosed.add(ticks);
      if (!this.open || end === this.text.length) return this.plain(ticks);
    }
    let body = this.text.slice(end, close < 0 ? undefined : close).replaceAll("\n", " ");
    if (/^ .* $/.test(body) && body.trim()) body = body.slice(1, -1);
    this.append(h("code", null, body));
    this.at = close < 0 ? this.text.length : close + ticks;
  }

  closingTicks(from, ticks) {
    const runs = /`+/g;
    runs.lastIndex = from;
    for (let run = runs.exec(this.text); run; run = runs.exec(this.text)) {
      if (run[0].length === ticks) return run.index;
    }
    return -1;
  }

  delimiter(char) {
    let end = this.at;
    while (this.text[end] === char) end += 1;
    const count = end - this.at;
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[end] ?? " ";
    const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
    const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
    const inWord = char === "_";
    const node = this.mark(this.text.slice(this.at, end));
    this.at = end;
    if (char === "~" && count !== 2) return;
    this.delimiters.push({
      char, node, count, length: count,
      opens: left && (!inWord || !right || PUNCTUATION.test(before)),
      closes: right && (!inWord || !left || PUNCTUATION.test(after)),
    });
  }

  /** Pairs the delimiters from number `bottom` on. */
  emphasise(bottom) {
    const list = this.delimiters;
    const floor = {};
    for (let at = bottom; at < list.length; at += 1) {
      const closer = list[at];
      while (closer.closes && closer.count > 0) {
        const key = `${closer.char}${closer.opens}${closer.length % 3}`;
        let from = at - 1;
        while (from >= (floor[key] ?? bottom) && !pairs(list[from], closer)) from -= 1;
        if (from < (floor[key] ?? bottom)) {
          floor[key] = at;
          break;
        }
        this.wrap(list[from], closer.node, Math.min(list[from].count, closer.count, 2), closer);
        // Marks between a pair can pair no more.
        for (let between = from + 1; between < at; between += 1) list[between].count = 0;
      }
    }
    if (this.open && bottom === 0) {
      const opener = list.findLast((one) => one.opens && one.count === 2 && one.node.nextSibling);
      if (opener) this.wrap(opener, null, 2, null);
    }
    list.length = bottom;
  }

  /** Moves what stands between an opener and `end` into an element. */
  wrap(opener, end, use, closer) {
    const element = h(opener.char === "~" ? "del" : use === 2 ? "strong" : "em");
    let depth = 0;
    for (let node = opener.node.nextSibling; node && node !== end; node = node.nextSibling) depth = Math.max(depth, node.depth ?? 0);
    for (const side of closer ? [opener, closer] : [opener]) {
      side.count -= use;
      side.node.data = side.node.data.slice(use);
    }
    if (depth >= DEPTH_MAX) return;
    element.depth = depth + 1;
    while (opener.node.nextSibling && opener.node.nextSibling !== end) element.append(opener.node.nextSibling);
    opener.node.after(element);
  }

  bracket(text) {
    this.brackets.push({ node: this.mark(text), delimiters: this.delimiters.length, image: text[0] === "!" });
    if (this.brackets.length > 200) this.brackets.shift();
    this.at += text.length;
  }

  close() {
    const opener = this.brackets.pop();
    const target = opener && linkTarget(this.text, this.at + 1);
    if (!target) return this.plain();
    this.at = target.end;
    this.append();
    const inside = document.createDocumentFragment();
    this.emphasise(opener.delimiters);
    while (opener.node.nextSibling) inside.append(opener.node.nextSibling);
    opener.node.remove();
    // Pictures are never fetched: what is said about them becomes the link.
    if (!opener.image) this.brackets.length = 0;
    else if (!inside.textContent) inside.append("picture");
    this.append(link(target.url, inside));
  }

  angle() {
    const found = /^<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>|^<br\s*\/?>/i.exec(this.text.slice(this.at, this.at + 2100));
    if (!found) return this.plain();
    if (!found[1]) return this.lineBreak(found[0].length);
    this.append(link(found[1], found[1]));
    this.at += found[0].length;
  }

  lineBreak(length) {
    this.append(h("br"));
    this.at += length;
    if (this.text[this.at] === "\n") this.at += 1;
  }

  entity() {
    const found = /^&(?:#(\d{1,7})|#x([\da-f]{1,6})|([a-z]{2,8}));/i.exec(this.text.slice(this.at, this.at + 12));
    const code = found && (found[1] ? Number(found[1]) : found[2] ? parseInt(found[2], 16) : 0);
    const char = code > 0 && code < 0x110000 ? String.fromCodePoint(code) : ENTITIES[found?.[3]];
    if (!char) return this.plain();
    this.write(char);
    this.at += found[0].length;
  }

  newline() {
    if (this.written.endsWith("  ")) {
      this.written = this.written.trimEnd();
      this.lineBreak(1);
    } else {
      this.write("\n");
      this.at += 1;
    }
  }

  bareLink() {
    const inWord = /\w/.test(this.text[this.at - 1] ?? "");
    const found = !inWord && /^https?:\/\/[^\s<>"'`*\])|]{3,2000}/i.exec(this.text.slice(this.at, this.at + 2010));
    if (!found) return this.plain();
    const url = found[0].replace(/[.,;:!?]+$/, "");
    if (this.brackets.length > 0) this.plain(url.length);
    else {
      this.append(link(url, url));
      this.at += url.length;
    }
  }
}

function pairs(opener, closer) {
  if (opener.char !== closer.char || !opener.opens || opener.count === 0) return false;
  const both = opener.closes || closer.opens;
  return !both || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/** `(url "title")` from `at` on. */
function linkTarget(text, at) {
  const found = /^\(\s*(?:<([^<>\n]{0,2000})>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.){0,500}\)){0,2000}))(?:\s+(?:"[^"]{0,500}"|'[^']{0,500}'))?\s*\)/.exec(text.slice(at, at + 3000));
  return found && { url: (found[1] ?? found[2]).replace(/\\(.)/g, "$1"), end: at + found[0].length };
}

/** A link that is followed only by a click, opens apart, tells the other side nothing, and shows where it leads. */
export function link(url, content) {
  let target;
  try {
    target = new URL(url);
  } catch {
    target = null;
  }
  if (!target || !["http:", "https:", "mailto:"].includes(target.protocol)) {
    return h("span", { class: "not-a-link", title: url }, content);
  }
  const anchor = h("a", { href: target.href, target: "_blank", rel: "noopener noreferrer nofollow ugc", title: target.href }, content);
  const place = target.host || target.pathname;
  if (anchor.textContent.includes(place)) return anchor;
  const both = document.createDocumentFragment();
  both.append(anchor, h("span", { class: "link-place" }, ` (${place})`));
  return both;
}
