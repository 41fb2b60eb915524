// What the tests share: a mock server or the one at LOWTIDE_URL, a browser, a page that is watched.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { after, before } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

/** Tests run against this server when it is set; what needs the mock's tricks is skipped then. */
export const REAL_URL = process.env.LOWTIDE_URL ?? "";
export const needsMock = REAL_URL ? { skip: "needs the mock server" } : {};
const SHOTS = process.env.LOWTIDE_SHOTS ?? "";
const HERE = fileURLToPath(new URL(".", import.meta.url));
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync",
];

/** Starts a mock server; `stop` ends it. */
export async function startMock(...options) {
  const child = spawn("python3", [`${HERE}mock_server.py`, ...options], { stdio: ["ignore", "pipe", "inherit"] });
  // A test that fails must not leave its server behind.
  process.once("exit", () => child.kill());
  const url = await new Promise((resolve, reject) => {
    child.stdout.once("data", (data) => resolve(String(data).trim()));
    child.once("exit", (code) => reject(new Error(`mock server ended with ${code}`)));
  });
  return {
    url,
    stop: () => child.kill(),
    fail: (...next) => fetch(`${url}/mock`, { method: "POST", body: JSON.stringify({ next }) }),
    state: async () => (await fetch(`${url}/mock`)).json(),
  };
}

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });

/**
 * Opens the page in a fresh context. `problems()` lists console errors, uncaught errors, and requests to any other
 * origin; `expected` are patterns of console messages that a test provokes (a 429 is an error to the console).
 */
export async function openPage(browser, url, { expected = [], path = "/", ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => {
    if (!["error", "warning"].includes(message.type())) return;
    if (!expected.some((pattern) => pattern.test(message.text()))) problems.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => problems.push(`uncaught: ${error.stack}`));
  page.on("request", (request) => {
    const to = new URL(request.url());
    if (!["data:", "blob:"].includes(to.protocol) && to.origin !== new URL(url).origin) problems.push(`request to ${to}`);
  });
  await page.goto(url + path);
  await page.waitForSelector("#composer-text");
  return { page, context, problems: () => problems };
}

/**
 * What the tests of a file share: a browser, and a stand-in server made with these options, or the server at
 * LOWTIDE_URL. `open` gives a watched page.
 */
export function stage(...options) {
  const own = { browser: null, mock: null, url: REAL_URL, open: (settings) => openPage(own.browser, own.url, settings) };
  before(async () => {
    own.browser = await launch();
    if (REAL_URL) return;
    own.mock = await startMock(...options);
    own.url = own.mock.url;
  });
  after(async () => {
    await own.browser?.close();
    own.mock?.stop();
  });
  return own;
}

/** Sends a message by the keyboard. */
export async function ask(page, text) {
  await page.locator("#composer-text").fill(text);
  await page.locator("#composer-text").press("Enter");
}

/** The last answer, when it is finished. */
export async function answered(page, timeout = 60_000) {
  await page.locator("#send").waitFor({ state: "visible", timeout });
  return page.locator(".message.answer").last();
}

/** A picture for people to look at, where LOWTIDE_SHOTS names a folder. */
export async function shot(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: `${SHOTS}/${name}.png` });
}
