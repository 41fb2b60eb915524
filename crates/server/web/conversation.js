// A conversation is a tree: editing or retrying adds a sibling and hides the old version, it loses nothing.
// `messages` holds parents before children; `choice` names the child shown under each parent ("" is the top).
// Pure data, so that import, export and storage are one shape.

const FORMAT = "lowtide-conversations";
const ROLES = ["user", "assistant"];
/** The numbers of a request that a conversation may set, as the API names them. */
export const SAMPLING = [
  "temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed", "max_tokens",
];

export function create(from = {}) {
  const now = Date.now();
  return { id: crypto.randomUUID?.() ?? fallbackId(), title: "", created: now, updated: now, system: "", sampling: {}, messages: [], choice: {}, ...from };
}

// crypto.randomUUID needs a secure context, and a server on a home network has none.
function fallbackId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Adds a message under `parent` (null: at the top) and shows it. */
export function add(conversation, parent, role, content) {
  const message = { id: create().id, parent: parent?.id ?? null, role, content, created: Date.now() };
  conversation.messages.push(message);
  choose(conversation, message);
  if (!conversation.title && role === "user") conversation.title = titleOf(content);
  conversation.updated = Date.now();
  return message;
}

/** Shows this version among its siblings. */
export function choose(conversation, message) {
  conversation.choice[message.parent ?? ""] = message.id;
}

/** The messages shown, first to last. */
export function path(conversation) {
  const shown = [];
  const byParent = new Map();
  for (const message of conversation.messages) {
    const key = message.parent ?? "";
    if (!byParent.has(key)) byParent.set(key, []);
    byParent.get(key).push(message);
  }
  let key = "";
  while (byParent.has(key)) {
    const versions = byParent.get(key);
    const next = versions.find((message) => message.id === conversation.choice[key]) ?? versions.at(-1);
    shown.push(next);
    key = next.id;
  }
  return shown;
}

/** All versions of a message, oldest first. */
export const versions = (conversation, message) =>
  conversation.messages.filter((other) => other.parent === message.parent && other.role === message.role);

export const find = (conversation, id) => conversation.messages.find((message) => message.id === id);

/** What the API is sent: the system prompt and every message up to and with `last`. */
export function toRequest(conversation, last) {
  const messages = [];
  if (conversation.system.trim()) messages.push({ role: "system", content: conversation.system });
  for (const message of path(conversation)) {
    // An answer that never came would be an empty turn.
    if (message.role === "user" || message.content) messages.push({ role: message.role, content: message.content });
    if (message.id === last.id) break;
  }
  return messages;
}

/** The first words of a message, cut at a word's end. */
export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  if (line.length <= 60) return line;
  const cut = line.slice(0, 60);
  return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), 40))}…`;
}

/** A file of conversations. */
export function exportText(conversations) {
  return `${JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1)}\n`;
}

/** Reads a file: ours, or any JSON with OpenAI-shaped `messages`. Throws an error that says what is wrong. */
export function importText(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("it is not JSON");
  }
  if (file?.format === FORMAT) {
    if (file.version !== 1) throw new Error(`its version is ${file.version}; this page reads version 1`);
    if (!Array.isArray(file.conversations)) throw new Error("it has no list of conversations");
    return file.conversations.map(checked);
  }
  const list = Array.isArray(file) && file.every((one) => Array.isArray(one?.messages)) ? file : [file];
  if (!list.every((one) => Array.isArray(one?.messages))) throw new Error("it holds no conversations");
  return list.map(fromPlain);
}

/** Takes over only what a conversation has, each of the right type. */
function checked(given, index) {
  const where = `conversation ${index + 1}`;
  if (typeof given !== "object" || given === null || !Array.isArray(given.messages)) throw new Error(`${where} has no messages`);
  const known = new Set();
  const messages = given.messages.map((message, at) => {
    const place = `message ${at + 1} of ${where}`;
    if (typeof message?.id !== "string" || typeof message.content !== "string") throw new Error(`${place} lacks its id or text`);
    if (!ROLES.includes(message.role)) throw new Error(`${place} is of role ${JSON.stringify(message.role)}`);
    const parent = message.parent ?? null;
    // Parents come first, so there can be no cycle.
    if (known.has(message.id) || (parent !== null && !known.has(parent))) throw new Error(`${place} does not belong to the tree`);
    known.add(message.id);
    return { ...kept(message), id: message.id, parent, role: message.role, content: message.content };
  });
  const choice = {};
  for (const [parent, child] of Object.entries(given.choice ?? {})) {
    if (known.has(child) && (parent === "" || known.has(parent))) choice[parent] = child;
  }
  return create({
    ...(typeof given.id === "string" && given.id ? { id: given.id } : {}),
    title: string(given.title),
    created: time(given.created),
    updated: time(given.updated),
    system: string(given.system),
    sampling: samplingOf(given.sampling),
    messages,
    choice,
  });
}

function kept(message) {
  const result = { created: time(message.created) };
  if (typeof message.reasoning === "string") result.reasoning = message.reasoning;
  if (typeof message.end === "string") result.end = message.end;
  if (typeof message.stats === "object" && message.stats !== null) {
    result.stats = Object.fromEntries(Object.entries(message.stats).filter(([, value]) => Number.isFinite(value)));
  }
  return result;
}

function fromPlain({ messages }) {
  const conversation = create();
  let parent = null;
  for (const { role, content } of messages) {
    if (typeof content !== "string") throw new Error("a message has no text");
    if (role === "system" || role === "developer") conversation.system = content;
    else if (ROLES.includes(role)) parent = add(conversation, parent, role, content);
    else throw new Error(`a message is of role ${JSON.stringify(role)}`);
  }
  return conversation;
}

/** The known numbers of `given`. */
export function samplingOf(given) {
  const result = {};
  for (const name of SAMPLING) {
    if (Number.isFinite(given?.[name])) result[name] = given[name];
  }
  if (Array.isArray(given?.stop)) result.stop = given.stop.filter((one) => typeof one === "string" && one).slice(0, 16);
  return result;
}

const string = (value) => (typeof value === "string" ? value : "");
const time = (value) => (Number.isFinite(value) ? value : Date.now());
