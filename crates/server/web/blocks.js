// Markdown's blocks as data: `{ type, from, to, ... }` with line numbers. No DOM, no text lost: what fits no rule is a
// paragraph. One pass over the lines; nesting is bounded.

const DEPTH_MAX = 16;
const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\s`]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|\t|$)/;
const SETEXT = /^ {0,3}(={2,}|-{3,})[ \t]*$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** The blocks of `lines`, in order. */
export function* blocks(lines, depth = 0) {
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const block = next(lines, at, depth);
    block.from = at;
    at = block.to;
    yield block;
  }
}

const isBlank = (line) => /^[ \t]*$/.test(line);
const indentOf = (line) => line.replaceAll("\t", "    ").search(/\S|$/);

function next(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return fence(lines, at);
  if (indentOf(line) >= 4) return indented(lines, at);
  const heading = HEADING.exec(line);
  if (heading) return { type: "heading", level: heading[1].length, text: heading[2] ?? "", to: at + 1 };
  if (RULE.test(line)) return { type: "rule", to: at + 1 };
  if (depth < DEPTH_MAX && QUOTE.test(line)) return quote(lines, at, depth);
  if (depth < DEPTH_MAX && ITEM.test(line)) return list(lines, at, depth);
  if (isTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

/** Does this line end a paragraph above it? */
function interrupts(lines, at) {
  const line = lines[at];
  const item = ITEM.exec(line);
  const starts = item && !isBlank(line.slice(item[0].length)) && (!/\d/.test(item[2]) || /^1[.)]$/.test(item[2]));
  return isBlank(line) || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || starts || isTable(lines, at);
}

function fence(lines, at) {
  const [, indent, marks, language] = FENCE.exec(lines[at]);
  const close = new RegExp(`^ {0,3}\\${marks[0]}{${marks.length},}[ \\t]*$`);
  const body = [];
  let to = at + 1;
  while (to < lines.length && !close.test(lines[to])) {
    body.push(lines[to].replace(new RegExp(`^ {0,${indent.length}}`), ""));
    to += 1;
  }
  const closed = to < lines.length;
  return { type: "code", language, lines: body, closed, to: closed ? to + 1 : to };
}

function indented(lines, at) {
  let to = at;
  while (to < lines.length && (isBlank(lines[to]) || indentOf(lines[to]) >= 4)) to += 1;
  while (isBlank(lines[to - 1])) to -= 1;
  const body = lines.slice(at, to).map((line) => line.replace(/^(?: {1,4}|\t)/, ""));
  return { type: "code", language: "", lines: body, closed: true, to };
}

function quote(lines, at, depth) {
  let to = at;
  const inner = [];
  while (to < lines.length) {
    if (QUOTE.test(lines[to])) inner.push(lines[to].replace(QUOTE, ""));
    // A lazy line goes on with the quoted paragraph.
    else if (isBlank(lines[to]) || isBlank(inner.at(-1)) || interrupts(lines, to)) break;
    else inner.push(lines[to]);
    to += 1;
  }
  return { type: "quote", children: [...blocks(inner, depth + 1)], to };
}

function list(lines, at, depth) {
  const kindOf = (marker) => (/\d/.test(marker) ? marker.at(-1) : marker);
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const block = { type: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, loose: false, items: [], to: at };
  let gap = false;
  while (block.to < lines.length) {
    const item = ITEM.exec(lines[block.to]);
    if (!item || kindOf(item[2]) !== kindOf(first[2]) || RULE.test(lines[block.to])) break;
    if (gap) block.loose = true;
    const { inner, to, blankAfter, blankInside } = itemLines(lines, block.to, item);
    if (blankInside) block.loose = true;
    gap = blankAfter;
    const task = /^\[([ xX])\]\s+/.exec(inner[0]);
    if (task) inner[0] = inner[0].slice(task[0].length);
    block.items.push({ done: task ? task[1] !== " " : null, children: [...blocks(inner, depth + 1)] });
    block.to = to;
  }
  return block;
}

/** The lines of one item, its indentation taken off. */
function itemLines(lines, at, item) {
  const spaces = item[3].replace("\t", "  ").length;
  const width = item[1].length + item[2].length + (spaces >= 1 && spaces <= 4 ? spaces : 1);
  const inner = [lines[at].slice(Math.min(width, item[0].length))];
  let to = at + 1;
  let end = to;
  let blankInside = false;
  while (to < lines.length) {
    const line = lines[to];
    const indent = indentOf(line);
    const blank = isBlank(line);
    // Models indent nested lists by two spaces below "1. " too; markers deeper than the outer one belong inside.
    const nested = !blank && (indent >= width || (indent >= 2 && indent > item[1].length && ITEM.test(line.trimStart())));
    const lazy = !blank && !isBlank(lines[to - 1]) && !ITEM.test(line) && !interrupts(lines, to);
    if (!blank && !nested && !lazy) break;
    if (nested && end < to) blankInside = true;
    inner.push(line.replaceAll("\t", "    ").slice(Math.min(indent, width)));
    to += 1;
    if (!blank) end = to;
  }
  const blankAfter = end < to;
  inner.length -= to - end;
  return { inner, to: blankAfter && to < lines.length ? to : end, blankAfter, blankInside };
}

function isTable(lines, at) {
  const rule = lines[at + 1];
  return (
    rule !== undefined && lines[at].includes("|") && rule.includes("-") && TABLE_RULE.test(rule) &&
    cells(lines[at]).length === cells(rule).length
  );
}

function table(lines, at) {
  const align = cells(lines[at + 1]).map((cell) => (/^:-*:$/.test(cell) ? "center" : /-:$/.test(cell) ? "right" : "left"));
  const head = cells(lines[at]);
  const rows = [];
  let to = at + 2;
  while (to < lines.length && !isBlank(lines[to]) && lines[to].includes("|")) {
    const row = cells(lines[to]);
    rows.push(head.map((_, column) => row[column] ?? ""));
    to += 1;
  }
  return { type: "table", align, head, rows, to };
}

/** The cells of a row: `|` parts them unless escaped or inside code. */
function cells(line) {
  const found = [];
  let cell = "";
  const body = line.trim().replace(/^\|/, "");
  let ticks = "";
  for (const part of body.match(/\\.|`+|\||[^\\`|]+|\\/g) ?? []) {
    if (part === "|" && !ticks) {
      found.push(cell.trim());
      cell = "";
      continue;
    }
    if (part[0] === "`") ticks = ticks === part ? "" : ticks || part;
    cell += part === "\\|" ? "|" : part;
  }
  if (cell.trim() || !body.endsWith("|")) found.push(cell.trim());
  return found;
}

function paragraph(lines, at) {
  let to = at + 1;
  while (to < lines.length && !SETEXT.test(lines[to]) && !interrupts(lines, to)) to += 1;
  const text = lines.slice(at, to).map((line) => line.trimStart()).join("\n").trimEnd();
  const setext = to < lines.length && SETEXT.exec(lines[to]);
  if (setext) return { type: "heading", level: setext[1][0] === "=" ? 1 : 2, text, to: to + 1 };
  return { type: "paragraph", text, to };
}
