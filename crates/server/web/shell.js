// What stands around the conversation: the panels at both sides, which are drawers on a narrow screen, and the theme.

import { byId, setIcon } from "./dom.js";
import { settings } from "./store.js";

const NAMES = ["sidebar", "tide"];
const narrow = matchMedia("(max-width: 1099px)");

/** Is there room for the panels beside the chat? */
export const wide = () => !narrow.matches;

export function bindPanels() {
  const initial = () => NAMES.forEach((name) => show(name, wide() && settings.get(name, true)));
  for (const name of NAMES) {
    byId(`${name}-toggle`).addEventListener("click", () => togglePanel(name));
    byId(`${name}-close`).addEventListener("click", () => togglePanel(name));
  }
  byId("shade").addEventListener("click", closeDrawers);
  narrow.addEventListener("change", initial);
  initial();
}

export function togglePanel(name) {
  const on = document.documentElement.dataset[name] === "off";
  if (on) closeDrawers();
  show(name, on);
  if (wide()) settings.set(name, on);
  else byId(on ? `${name}-close` : `${name}-toggle`).focus();
}

/** Closes what lies over the chat. Returns whether anything did. */
export function closeDrawers() {
  if (wide()) return false;
  const open = NAMES.filter((name) => document.documentElement.dataset[name] === "on");
  open.forEach((name) => show(name, false));
  return open.length > 0;
}

function show(name, on) {
  document.documentElement.dataset[name] = on ? "on" : "off";
  byId(`${name}-toggle`).setAttribute("aria-expanded", String(on));
  const covered = !wide() && NAMES.some((one) => document.documentElement.dataset[one] === "on");
  byId("shade").hidden = !covered;
  // What lies under a drawer cannot be reached by Tab either.
  byId("chat").inert = covered;
}

const THEMES = { auto: ["auto", "as the system"], light: ["sun", "light"], dark: ["moon", "dark"] };

/** The button that goes through the themes; theme.js does the rest. */
export function bindTheme() {
  const button = byId("theme-toggle");
  const shown = () => {
    const [icon, words] = THEMES[document.documentElement.dataset.themeChoice] ?? THEMES.auto;
    setIcon(button, icon);
    button.title = `Theme: ${words}`;
    button.setAttribute("aria-label", button.title);
  };
  button.addEventListener("click", () => {
    const order = Object.keys(THEMES);
    const next = order[(order.indexOf(document.documentElement.dataset.themeChoice) + 1) % order.length];
    try {
      localStorage.setItem("lowtide.theme", next);
    } catch {
      // Where nothing is kept, the system's theme stays.
    }
    document.dispatchEvent(new Event("themechoice"));
  });
  document.addEventListener("themechange", shown);
  shown();
}
