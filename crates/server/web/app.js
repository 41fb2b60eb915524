// The page: brings the conversations, the answers under way and the tide together.

import { apiKey, request, ServerError, sleep } from "./api.js";
import { Answer } from "./answer.js";
import * as tree from "./conversation.js";
import { Composer } from "./composer.js";
import { askKey, openSettings, openShortcuts } from "./dialogs.js";
import { byId, saveFile, setText, toast } from "./dom.js";
import { bytes, grouped, rate } from "./format.js";
import { TidePanel } from "./panel.js";
import { bindPanels, bindTheme, closeDrawers, togglePanel, wide } from "./shell.js";
import { Sidebar } from "./sidebar.js";
import { openStore, settings } from "./store.js";
import { Thread, welcome } from "./thread.js";

const EXAMPLES = [
  "Explain memory mapping to someone who knows what a file is.",
  "Write a Python function that merges overlapping intervals, with tests.",
  "Compare a mixture-of-experts model with a dense one in a table.",
];
/** While an answer arrives the page is drawn and stored this seldom: the processor has a model to run. */
const REFRESH_MS = 50;
const STORE_MS = 1000;

class App {
  conversations = new Map();
  runs = new Map();
  props = null;

  async start() {
    this.store = await openStore();
    for (const one of await this.store.all().catch(() => [])) this.conversations.set(one.id, one);
    if (!this.store.persistent) setText(byId("storage-note"), "This browser keeps nothing: export what you need.");
    this.thread = new Thread({
      retry: (message) => this.retry(message),
      edit: (message, text) => this.edit(message, text),
      show: (message, arrow) => {
        tree.choose(this.current, message);
        this.save(this.current);
        this.show();
        this.thread.focusVersion(message, arrow);
      },
    });
    this.sidebar = new Sidebar({
      open: (id) => this.open(id),
      rename: (id, title) => this.rename(id, title),
      remove: (id) => this.remove(id),
      save: (id) => this.exportFile([this.conversations.get(id)]),
    });
    this.store.onChange((id) => this.changedElsewhere(id));
    this.bindButtons();
    bindPanels();
    bindTheme();
    this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop(), editLast: () => this.thread.editLast() });
    this.bindKeys();
    if (wide()) this.composer.focus();
    this.open(location.hash.slice(1), { keepPanels: true });
    addEventListener("hashchange", () => location.hash.slice(1) !== this.current.id && this.open(location.hash.slice(1)));
    addEventListener("pagehide", () => this.runs.forEach((run) => this.save(run.conversation)));
    this.panel = new TidePanel({
      askKey: (error) => this.key(error.detail, true),
      onEvent: (busy, speed) => setText(byId("tide-mini"), busy ? `${rate(speed)} tok/s` : ""),
      onLink: (state) => state === "live" && !this.props && this.loadProps(),
    });
    this.loadProps();
  }

  /** Asks what is served, until it is known. */
  async loadProps() {
    if (this.loadingProps) return;
    this.loadingProps = true;
    for (let wait = 1000; !this.props; wait = Math.min(wait * 1.5, 8000)) {
      try {
        this.props = await (await request("/props")).json();
        byId("banner").hidden = true;
      } catch (error) {
        this.banner(error);
        if (error.kind === "key" && (await this.key(error.detail, true))) continue;
        await sleep(wait);
      }
    }
    this.loadingProps = false;
    this.panel.setProps(this.props);
    this.showModel();
    this.show();
    this.loadModels();
  }

  banner(error) {
    const known = error instanceof ServerError ? error : { title: "The server's answer makes no sense.", advice: "Is it lowtide?" };
    const text = known.kind === "loading" ? `${sentence(known.detail) || "The model is loading."} You can write already: the message is sent when it is ready.` : `${known.title} ${known.advice ?? ""}`;
    byId("banner").hidden = false;
    byId("banner").dataset.kind = known.kind ?? "failed";
    setText(byId("banner"), text);
  }

  /** More than one model: a choice. */
  async loadModels() {
    try {
      const { data } = await (await request("/v1/models")).json();
      if (!Array.isArray(data) || data.length < 2) return;
      const choice = byId("model-choice");
      const kept = settings.get("model", "");
      const chosen = data.some(({ id }) => id === kept) ? kept : this.props.model;
      choice.replaceChildren(...data.map(({ id }) => new Option(id, id, false, id === chosen)));
      choice.hidden = false;
      choice.addEventListener("change", () => settings.set("model", choice.value));
    } catch {
      // One model is what /props says; the choice is an extra.
    }
  }

  model() {
    return byId("model-choice").value || this.props?.model;
  }

  showModel() {
    const { model, file_bytes: size, budget } = this.props;
    const within = budget?.total_bytes;
    setText(byId("model-line"), [model, size && bytes(size), within && `budget ${bytes(within)}`].filter(Boolean).join(" · "));
  }

  /** The key dialog, one at a time however many requests want it. Resolves to whether there is a key to try. */
  key(told, background = false) {
    if (background && Date.now() < (this.refusedUntil ?? 0)) return Promise.resolve(false);
    this.asking ??= askKey(told, apiKey.get() !== "").then((key) => {
      if (key) apiKey.set(key);
      // A person who closed the dialog is asked again only for something they want.
      else this.refusedUntil = Date.now() + 60_000;
      this.asking = null;
      return Boolean(key);
    });
    return this.asking;
  }

  // Conversations

  open(id, { keepPanels = false } = {}) {
    this.current = this.conversations.get(id) ?? tree.create(settings.get("defaults", {}));
    history.replaceState(null, "", this.conversations.has(this.current.id) ? `#${this.current.id}` : location.pathname);
    if (!keepPanels && closeDrawers()) byId("thread-scroll").focus({ preventScroll: true });
    this.thread.toEnd();
    this.show();
  }

  show() {
    const runs = new Map([...this.runs.values()].map((run) => [run.message.id, run]));
    const title = this.current.title || "New conversation";
    setText(byId("title"), title);
    document.title = this.current.title ? `${title} – lowtide` : "lowtide";
    this.thread.show(this.current, runs, welcome(this.lead(), EXAMPLES, (text) => this.send(text)));
    this.showList();
    this.showComposer();
  }

  lead() {
    if (!this.props) return { title: "What would you like to know?" };
    const { file_bytes: size, budget } = this.props;
    const total = budget?.total_bytes ?? 0;
    const text = size > total ? `The model is ${bytes(size)} on disk and answers within ${bytes(total)} of memory. The picture of the tide shows how.` : `The model's ${bytes(size)} fit into its budget of ${bytes(total)}.`;
    return { title: "What would you like to know?", text };
  }

  showList() {
    this.sidebar.show([...this.conversations.values()], this.current.id, new Set([...this.runs.values()].map((run) => run.conversation.id)));
  }

  async save(conversation) {
    if (conversation.messages.length === 0) return;
    this.conversations.set(conversation.id, conversation);
    try {
      await this.store.put(conversation);
    } catch {
      setText(byId("storage-note"), "The browser's storage is full: export or delete conversations.");
    }
  }

  rename(id, title) {
    const conversation = this.conversations.get(id);
    conversation.title = title;
    this.save(conversation);
    this.show();
  }

  remove(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    this.runs.get(id)?.stop();
    this.conversations.delete(id);
    this.store.remove(id);
    if (this.current.id === id) this.open("", { keepPanels: true });
    else this.showList();
    toast(`Deleted “${conversation.title || "Untitled"}”.`, {
      label: "Undo",
      run: () => {
        this.save(conversation);
        this.open(id, { keepPanels: true });
      },
    });
  }

  async changedElsewhere(id) {
    if (this.runs.has(id)) return;
    const stored = await this.store.get(id);
    if (stored) this.conversations.set(id, stored);
    else this.conversations.delete(id);
    if (this.current.id === id && stored) this.open(id, { keepPanels: true });
    else this.showList();
  }

  exportFile(conversations) {
    const day = new Date().toISOString().slice(0, 10);
    const name = conversations.length === 1 ? conversations[0].title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation" : "conversations";
    saveFile(`lowtide-${name}-${day}.json`, "application/json", tree.exportText(conversations));
  }

  async importFiles(files) {
    for (const file of files) {
      try {
        const found = tree.importText(await file.text());
        for (const one of found) {
          // The same conversation again is a second copy, never a loss of what is here.
          const here = this.conversations.get(one.id);
          if (here && JSON.stringify(here.messages) === JSON.stringify(one.messages)) continue;
          await this.save(here ? { ...one, id: tree.create().id } : one);
        }
        toast(`${found.length === 1 ? "One conversation" : `${grouped(found.length)} conversations`} imported.`);
        if (found.length === 1 && this.conversations.has(found[0].id)) this.open(found[0].id, { keepPanels: true });
      } catch (error) {
        toast(`${file.name} cannot be imported: ${error.message}.`);
      }
    }
    this.showList();
  }

  // Answers

  send(text) {
    if (!text.trim()) return;
    const { current } = this;
    this.runs.get(current.id)?.stop();
    const parent = tree.path(current).at(-1) ?? null;
    this.answer(current, tree.add(current, parent, "user", text.trim()));
    history.replaceState(null, "", `#${current.id}`);
  }

  edit(message, text) {
    const { current } = this;
    this.runs.get(current.id)?.stop();
    this.answer(current, tree.add(current, tree.find(current, message.parent) ?? null, "user", text));
  }

  retry(message) {
    const { current } = this;
    this.runs.get(current.id)?.stop();
    // A failed attempt without a word is no version worth keeping.
    const isParent = current.messages.some((one) => one.parent === message.id);
    if (message.end === "error" && !message.content && !isParent) current.messages = current.messages.filter((one) => one !== message);
    this.answer(current, tree.find(current, message.parent));
  }

  async answer(conversation, question) {
    const message = tree.add(conversation, question, "assistant", "");
    message.end = "running";
    const run = new Answer({ conversation, message, model: this.model(), askKey: (told) => this.key(told), onChange: (changed) => this.changed(changed) });
    this.runs.set(conversation.id, run);
    this.save(conversation);
    this.thread.toEnd();
    this.show();
    await run.run();
    if (this.runs.get(conversation.id) === run) this.runs.delete(conversation.id);
    conversation.updated = Date.now();
    if (this.conversations.has(conversation.id)) await this.save(conversation);
    if (this.current === conversation) this.show();
    else this.showList();
  }

  /** Draws and stores a running answer, seldom enough. */
  changed(run) {
    run.refresh ??= setTimeout(() => {
      run.refresh = null;
      if (this.current === run.conversation) this.thread.refresh(run);
    }, REFRESH_MS);
    run.storing ??= setTimeout(() => {
      run.storing = null;
      if (this.conversations.has(run.conversation.id)) this.save(run.conversation);
    }, STORE_MS);
  }

  // The page's parts

  bindButtons() {
    byId("new-chat").addEventListener("click", () => this.newChat());
    byId("export").addEventListener("click", () => (this.conversations.size > 0 ? this.exportFile([...this.conversations.values()]) : toast("There is nothing to export yet.")));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", async (event) => {
      await this.importFiles(event.target.files);
      event.target.value = "";
    });
    byId("settings-open").addEventListener("click", () => this.settings());
    byId("shortcuts-open").addEventListener("click", openShortcuts);
  }

  newChat() {
    this.open("");
    this.composer.focus();
  }

  settings() {
    const { current } = this;
    openSettings(current, this.props?.sampling, {
      changed: () => this.save(current),
      keep: () => {
        settings.set("defaults", { system: current.system, sampling: current.sampling });
        toast("New conversations begin with these settings.");
      },
    });
  }

  stop() {
    this.runs.get(this.current.id)?.stop();
    this.composer.focus();
  }

  showComposer() {
    const used = tree.path(this.current).findLast((message) => message.stats?.prompt)?.stats;
    const context = this.props?.context;
    this.composer.show({
      busy: this.runs.has(this.current.id),
      context: used && context ? `${grouped(used.prompt + (used.tokens ?? 0))} of ${grouped(context)} tokens of context` : "",
    });
  }

  bindKeys() {
    const keys = {
      KeyN: () => this.newChat(),
      KeyC: () => togglePanel("sidebar"),
      KeyT: () => togglePanel("tide"),
      KeyS: () => this.settings(),
      KeyR: () => {
        const last = tree.path(this.current).at(-1);
        if (last?.role === "assistant") this.retry(last);
      },
    };
    addEventListener("keydown", (event) => {
      if (document.querySelector("dialog[open]")) return;
      if (event.key === "Escape") {
        if (this.runs.has(this.current.id)) this.stop();
        else closeDrawers();
      } else if (event.altKey && !event.ctrlKey && !event.metaKey && keys[event.code]) {
        event.preventDefault();
        keys[event.code]();
      }
    });
  }
}

const sentence = (text) => text && text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

const app = new App();
app.start();
