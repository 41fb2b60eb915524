// Conversations: kept over a reload, listed, renamed, deleted, exported, imported.

import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { answered, ask, needsMock, stage } from "./page.js";

const folder = mkdtempSync(join(tmpdir(), "lowtide-web-"));
const site = stage();

const titles = (page) => page.locator(".conversation .open").allTextContents();

test("a reload brings back the conversation, the list and the draft", async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "First conversation.");
  await answered(page);
  const said = await page.locator(".message.answer > .text").textContent();
  await page.keyboard.press("Alt+n");
  await ask(page, "Second conversation.");
  await answered(page);
  await page.locator("#composer-text").fill("a draft");
  await page.reload();
  await page.waitForSelector(".message.answer");
  assert.deepEqual(await titles(page), ["Second conversation.", "First conversation."]);
  assert.equal(await page.locator("#composer-text").inputValue(), "a draft");
  await page.getByRole("button", { name: "First conversation.", exact: true }).click();
  assert.equal(await page.locator(".message.answer > .text").textContent(), said);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("a reload in the middle of an answer keeps what had come", needsMock, async () => {
  const { page, context } = await site.open();
  await ask(page, "a long one");
  await page.waitForTimeout(2500);
  await page.reload();
  await page.waitForSelector(".message.answer");
  assert.ok((await page.locator(".message.answer > .text").textContent()).length > 100);
  await page.getByText("This answer was not finished.").waitFor();
  await page.getByRole("button", { name: "Answer again" }).waitFor();
  await context.close();
});

test("rename, delete and undo", async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "To be renamed.");
  await answered(page);
  await page.locator(".conversation .open").focus();
  await page.keyboard.press("F2");
  await page.keyboard.type("Renamed");
  await page.keyboard.press("Enter");
  assert.deepEqual(await titles(page), ["Renamed"]);
  assert.equal(await page.locator("#title").textContent(), "Renamed");
  await page.locator(".conversation .open").focus();
  await page.keyboard.press("Delete");
  await page.waitForSelector(".toast");
  assert.deepEqual(await titles(page), []);
  await page.getByRole("button", { name: "Undo" }).click();
  assert.deepEqual(await titles(page), ["Renamed"]);
  await page.reload();
  await page.waitForSelector(".message.answer");
  assert.deepEqual(await titles(page), ["Renamed"]);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("what is exported can be imported elsewhere, versions included", async () => {
  const here = await site.open();
  await ask(here.page, "Export me, with ümlauts and “quotes”.");
  await answered(here.page);
  await here.page.getByRole("button", { name: "Answer again" }).click();
  await answered(here.page);
  const [download] = await Promise.all([here.page.waitForEvent("download"), here.page.locator("#export").click()]);
  const path = join(folder, "export.json");
  await download.saveAs(path);
  assert.match(download.suggestedFilename(), /^lowtide-.*\.json$/);
  const file = JSON.parse(await readFile(path, "utf8"));
  assert.equal(file.format, "lowtide-conversations");
  const said = await here.page.locator(".message.answer > .text").textContent();

  const there = await site.open();
  await there.page.locator("#import-file").setInputFiles(path);
  await there.page.waitForSelector(".message.answer");
  assert.equal(await there.page.locator(".message.user .text").textContent(), "Export me, with ümlauts and “quotes”.");
  assert.equal(await there.page.locator(".message.answer > .text").textContent(), said);
  assert.match(await there.page.locator(".message.answer .versions").textContent(), /2 of 2/);
  // Once more: nothing is doubled.
  await there.page.locator("#import-file").setInputFiles(path);
  await there.page.waitForTimeout(300);
  assert.equal((await titles(there.page)).length, 1);
  assert.deepEqual([...here.problems(), ...there.problems()], []);
  await here.context.close();
  await there.context.close();
});

test("files that are no conversations are refused with the reason, and change nothing", async () => {
  const { page, context, problems } = await site.open();
  const cyclic = { format: "lowtide-conversations", version: 1, conversations: [{ id: "x", messages: [{ id: "a", parent: "b", role: "user", content: "" }, { id: "b", parent: "a", role: "user", content: "" }] }] };
  const cases = [
    ["{", /not JSON/],
    ["[1, 2]", /holds no conversations/],
    ["null", /holds no conversations/],
    [JSON.stringify(cyclic), /does not belong to the tree/],
    [JSON.stringify({ ...cyclic, version: 9 }), /version is 9/],
    [JSON.stringify({ messages: [{ role: "root", content: "x" }] }), /role "root"/],
    [JSON.stringify({ messages: [{ role: "user", content: [1] }] }), /no text/],
  ];
  for (const [text, reason] of cases) {
    const path = join(folder, "bad.json");
    await writeFile(path, text);
    await page.locator("#import-file").setInputFiles(path);
    await page.locator(".toast").filter({ hasText: reason }).waitFor({ timeout: 5000 });
    await page.evaluate(() => document.querySelector("#toasts").replaceChildren());
  }
  assert.deepEqual(await titles(page), []);
  await writeFile(join(folder, "openai.json"), JSON.stringify({ messages: [{ role: "system", content: "Be brief." }, { role: "user", content: "Hello there" }, { role: "assistant", content: "Hi." }] }));
  await page.locator("#import-file").setInputFiles(join(folder, "openai.json"));
  await page.waitForSelector(".message.answer");
  assert.deepEqual(await titles(page), ["Hello there"]);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("a second tab sees what the first one did", async () => {
  const { page, context } = await site.open();
  const other = await context.newPage();
  await other.goto(site.url);
  await ask(page, "Seen from elsewhere.");
  await answered(page);
  await other.getByRole("button", { name: "Seen from elsewhere." }).first().waitFor({ timeout: 5000 });
  await context.close();
});
