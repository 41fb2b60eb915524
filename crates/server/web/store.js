// Conversations in the browser's IndexedDB. Where it is refused (private windows), they live as long as the page.

const NAME = "lowtide";
const TABLE = "conversations";

const wait = (call) =>
  new Promise((resolve, reject) => {
    call.onsuccess = () => resolve(call.result);
    call.onerror = () => reject(call.error);
  });

/** Opens the store. `persistent` says whether it outlives the page. */
export async function openStore() {
  try {
    const open = indexedDB.open(NAME, 1);
    open.onupgradeneeded = () => open.result.createObjectStore(TABLE, { keyPath: "id" });
    return new Store(await wait(open));
  } catch {
    return new Memory();
  }
}

class Store {
  persistent = true;
  #database;
  #channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("lowtide") : null;

  constructor(database) {
    this.#database = database;
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }

  all() {
    return wait(this.#table("readonly").getAll());
  }

  get(id) {
    return wait(this.#table("readonly").get(id));
  }

  async put(conversation) {
    await wait(this.#table("readwrite").put(structuredClone(conversation)));
    this.#channel?.postMessage(conversation.id);
  }

  async remove(id) {
    await wait(this.#table("readwrite").delete(id));
    this.#channel?.postMessage(id);
  }

  /** Calls back when another tab has changed a conversation. */
  onChange(callback) {
    this.#channel?.addEventListener("message", (event) => callback(event.data));
  }
}

class Memory {
  persistent = false;
  #map = new Map();

  async all() {
    return [...this.#map.values()];
  }

  async get(id) {
    return this.#map.get(id);
  }

  async put(conversation) {
    this.#map.set(conversation.id, structuredClone(conversation));
  }

  async remove(id) {
    this.#map.delete(id);
  }

  onChange() {}
}

/** Small settings of the page in localStorage; a page that may not keep any still works. */
export const settings = {
  get(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(`lowtide.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`lowtide.${name}`, JSON.stringify(value));
    } catch {
      // Not kept; nothing depends on it.
    }
  },
};
