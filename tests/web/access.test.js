// For everybody: axe, the keyboard alone, a phone, both themes, less motion.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { test } from "node:test";
import { answered, ask, needsMock, shot, stage } from "./page.js";

const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const site = stage("--layout", "dense", "--tokens-per-s", "400");

/** What axe finds, in words. The debugger may run scripts that the page's policy forbids to the page. */
async function violations(page) {
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  return found.violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target, failureSummary }) => `${target} (${failureSummary.replace(/\s+/g, " ")})`).slice(0, 4).join("; ")}`);
}

for (const colorScheme of ["light", "dark"]) {
  test(`${colorScheme}: axe finds nothing, empty, full, and in a dialog`, async () => {
    const { page, context, problems } = await site.open({ colorScheme });
    await page.waitForSelector('#tide-link[data-state="live"]');
    assert.deepEqual(await violations(page), []);
    await ask(page, "kitchen sink");
    await answered(page);
    await ask(page, "think");
    await answered(page);
    await page.getByRole("button", { name: "On disk", exact: true }).click();
    await page.locator("#tide details summary").click();
    assert.deepEqual(await violations(page), []);
    await shot(page, `full-${colorScheme}`);
    await page.locator("#settings-open").click();
    assert.deepEqual(await violations(page), []);
    await shot(page, `settings-${colorScheme}`);
    assert.deepEqual(problems(), []);
    await context.close();
  });
}

for (const width of [320, 390, 768]) {
  test(`${width} pixels wide: nothing sticks out, everything can be reached`, async () => {
    const { page, context, problems } = await site.open({ viewport: { width, height: 720 }, hasTouch: true, isMobile: true });
    const fits = async (what) => {
      const wide = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide[0] <= wide[1], `${what}: ${wide[0]} > ${wide[1]}`);
      const out = await page.evaluate(() => [...document.querySelectorAll("button, input, textarea, h1, h2, h3, p, dd, summary")]
        .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest(".unseen, .skip, .table-box, pre") && one.getBoundingClientRect().width > 0)
        .filter((one) => { const box = one.getBoundingClientRect(); return box.right > innerWidth + 1 || box.left < -1; })
        .map((one) => one.outerHTML.slice(0, 100)));
      assert.deepEqual(out, [], what);
    };
    await fits("empty");
    if (width === 390) await shot(page, "phone-start");
    await ask(page, "kitchen sink");
    await answered(page);
    await fits("answer");
    if (width < 768) await shot(page, `phone-${width}`);
    await page.locator("#tide-toggle").tap();
    await page.locator("#tide").waitFor({ state: "visible" });
    await page.waitForTimeout(400);
    await fits("tide");
    if (width < 768) await shot(page, `phone-${width}-tide`);
    await page.locator("#tide-close").tap();
    await page.locator("#sidebar-toggle").tap();
    await page.locator("#sidebar").waitFor({ state: "visible" });
    await fits("conversations");
    if (width === 390) await shot(page, "phone-sidebar");
    await page.locator("#sidebar-close").tap();
    await page.locator("#settings-open").tap();
    await fits("settings");
    assert.deepEqual(await violations(page), []);
    assert.deepEqual(problems(), []);
    await context.close();
  });
}

test("the keyboard alone: skip, write, stop, retry, edit, versions, settings, tide, delete", async () => {
  const { page, context, problems } = await site.open();
  const focused = () => page.evaluate(() => document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent ?? "");
  const tabTo = async (name, key = "Tab") => {
    for (let press = 0; press < 60; press += 1) {
      if ((await focused()).startsWith(name)) return;
      await page.keyboard.press(key);
    }
    assert.fail(`no way to “${name}” by ${key}`);
  };
  // As after loading a page: the next Tab begins at its top.
  await page.evaluate(() => {
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
  });
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the message box");
  const ring = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
  assert.equal(ring, "solid");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "composer-text");
  await page.keyboard.type("line one");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.type("line two");
  assert.equal(await page.locator("#composer-text").inputValue(), "line one\nline two");
  await page.keyboard.press("Enter");
  await answered(page);
  assert.equal(await page.locator(".message.user .text").textContent(), "line one\nline two");
  await tabTo("Answer again", "Shift+Tab");
  await page.keyboard.press("Enter");
  await answered(page);
  await page.evaluate(() => document.querySelector("#composer-text").focus());
  await page.keyboard.press("ArrowUp");
  assert.equal(await focused(), "Edit your message");
  await page.keyboard.press("Escape");
  await page.keyboard.press("Alt+s");
  assert.equal(await page.getByRole("dialog", { name: "System prompt and sampling" }).count(), 1);
  await page.keyboard.press("Escape");
  assert.equal(await page.getByRole("dialog").count(), 0);
  await page.keyboard.press("Alt+t");
  assert.equal(await page.locator("#tide").isVisible(), false);
  await page.keyboard.press("Alt+t");
  assert.equal(await page.locator("#tide").isVisible(), true);
  await page.evaluate(() => document.querySelector("#composer-text").focus());
  await tabTo("On disk");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#legend-text").isVisible(), true);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("the theme follows the system until it is chosen, and the choice is kept", async () => {
  const { page, context } = await site.open({ colorScheme: "dark" });
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  assert.equal(await theme(), "dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.waitForFunction(() => document.documentElement.dataset.theme === "light");
  await page.locator("#theme-toggle").click();
  await page.locator("#theme-toggle").click();
  assert.equal(await page.locator("#theme-toggle").getAttribute("aria-label"), "Theme: dark");
  assert.equal(await theme(), "dark");
  await page.reload();
  assert.equal(await theme(), "dark");
  await context.close();
});

test("less motion: no animation runs, and no trace glows", needsMock, async () => {
  const { page, context } = await site.open({ reducedMotion: "reduce" });
  await ask(page, "a long one");
  await page.waitForSelector(".message.answer.writing");
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await page.keyboard.press("Escape");
  await context.close();
});
