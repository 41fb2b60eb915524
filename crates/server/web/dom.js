// Building the page: elements, icons, toasts, and what is said to screen readers. Text that comes from
// outside becomes text nodes only; nothing in this page assigns innerHTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** An element: `h("p", { class: "note", onclick: f }, "text", child)`. */
export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value === "boolean") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An icon of icons.svg, decorative: the button around it carries the name. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/assets/icons.svg#${name}`);
  svg.append(use);
  return svg;
}

/** Changes the icon inside a button. */
export function setIcon(button, name) {
  button.querySelector("use").setAttribute("href", `/assets/icons.svg#${name}`);
}

/** A button with an icon and a name for those who do not see it. */
export function iconButton(name, label, onclick, props) {
  return h("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick, ...props }, icon(name));
}

/** Changes text only where it differs: no layout, no event for screen readers otherwise. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Says a piece of an answer to screen readers. */
export function announce(text) {
  const log = byId("announcer");
  log.append(h("p", null, text));
  while (log.childElementCount > 40) log.firstElementChild.remove();
}

/** A short message at the bottom, with an action if there is one to offer. */
export function toast(text, action) {
  const close = () => element.remove();
  const element = h("div", { class: "toast" }, h("span", null, text));
  if (action) {
    element.append(h("button", { type: "button", onclick: () => { close(); action.run(); } }, action.label));
  }
  byId("toasts").append(element);
  setTimeout(close, action ? 10_000 : 5_000);
}

/** Copies text and shows on the button that it did. */
export async function copyFrom(button, text) {
  const done = await copyText(text);
  setIcon(button, done ? "check" : "close");
  const said = button.querySelector(".said");
  if (said) said.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => {
    setIcon(button, "copy");
    if (said) said.textContent = "Copy";
  }, 1600);
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard interface outside of loopback and https: the old way still works there.
    const area = h("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    const before = document.activeElement;
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  }
}

/** Offers text as a file to save. */
export function saveFile(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
