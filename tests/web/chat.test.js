// Chat: streaming, stop, edit, retry, thoughts, slow prompts, settings.

import assert from "node:assert/strict";
import { test } from "node:test";
import { answered, ask, needsMock, shot, stage } from "./page.js";

const site = stage();

test("an answer arrives bit by bit, with its statistics, and nothing is complained about", async () => {
  const { page, context, problems } = await site.open();
  await page.waitForFunction(() => document.querySelector("#model-line").textContent.includes("budget"));
  await shot(page, "start-light");
  await ask(page, "Explain memory mapping to someone who knows what a file is.");
  const text = page.locator(".message.answer .text").last();
  await page.waitForFunction(() => document.querySelector(".message.answer > .text")?.textContent.length > 30);
  const early = (await text.textContent()).length;
  assert.equal(await page.locator("#stop").isVisible(), true);
  assert.equal(await page.locator(".message.answer").getAttribute("aria-busy"), "true");
  await shot(page, "answer-light");
  const answer = await answered(page);
  assert.ok((await text.textContent()).length > early, "the answer grew");
  assert.match(await answer.locator(".stats").textContent(), /\d+ tokens · [\d.]+ tokens\/s · first after/);
  assert.match(await page.locator("#context-use").textContent(), /of [\d,]+ tokens of context/);
  assert.equal(await page.locator("#title").textContent(), "Explain memory mapping to someone who knows what a file is.");
  assert.ok((await page.locator("#announcer p").count()) > 0, "screen readers heard it");
  assert.deepEqual(problems(), []);
  await context.close();
});

test("the request carries the conversation, the system prompt and the settings, and no more", needsMock, async () => {
  const { page, context, problems } = await site.open();
  await page.locator("#settings-open").click();
  await page.locator("#system").fill("Answer in one line.");
  await page.locator("#set-temperature").fill("0.25");
  await page.locator("#set-seed").fill("42");
  await page.locator("#stop-words").fill("END, STOP");
  assert.equal(await page.locator("#set-top_p").getAttribute("placeholder"), "0.95");
  await page.locator("#set-top_p").fill("7");
  assert.equal(await page.locator("#set-top_p").getAttribute("aria-invalid"), "true");
  await shot(page, "settings-light");
  await page.getByRole("button", { name: "Done" }).click({ force: true });
  await page.keyboard.press("Escape");
  await ask(page, "one");
  await answered(page);
  await ask(page, "two");
  await answered(page);
  const { bodies } = await site.mock.state();
  const last = bodies.at(-1);
  assert.deepEqual(last.messages.map(({ role }) => role), ["system", "user", "assistant", "user"]);
  assert.equal(last.messages[0].content, "Answer in one line.");
  assert.equal(last.messages[3].content, "two");
  assert.equal(last.temperature, 0.25);
  assert.equal(last.seed, 42);
  assert.deepEqual(last.stop, ["END", "STOP"]);
  assert.equal("top_p" in last, false, "a value out of range is not sent");
  assert.equal(last.stream, true);
  assert.deepEqual(last.stream_options, { include_usage: true });
  assert.deepEqual(problems(), []);
  await context.close();
});

test("Escape stops an answer, keeps what came, and the server stops too", async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "Write a long answer about the sea, at least a thousand words.");
  await page.waitForFunction(() => document.querySelector(".message.answer > .text")?.textContent.length > 20);
  await page.keyboard.press("Escape");
  const answer = await answered(page, 5000);
  const kept = await answer.locator("> .text").textContent();
  assert.ok(kept.length > 20);
  assert.equal(await answer.locator(".note").textContent(), "Stopped.");
  await page.waitForTimeout(600);
  assert.equal(await answer.locator("> .text").textContent(), kept, "nothing more came");
  if (site.mock) assert.equal((await site.mock.state()).running, 0);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("a message edited becomes a second version; both can be seen again", async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "Say the word apple.");
  await answered(page);
  await page.locator(".message.user").hover();
  await page.getByRole("button", { name: "Edit this message" }).click();
  await page.getByLabel("Edit your message").fill("Say the word pear.");
  await page.keyboard.press("Enter");
  await answered(page);
  const shown = page.locator(".message.user .text");
  assert.equal(await shown.textContent(), "Say the word pear.");
  assert.match(await page.locator(".message.user .versions").textContent(), /2 of 2/);
  await page.getByRole("button", { name: "Earlier version" }).first().click();
  assert.equal(await shown.textContent(), "Say the word apple.");
  assert.match(await page.locator(".message.user .versions").textContent(), /1 of 2/);
  assert.equal(await page.locator(".message.answer").count(), 1);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("an answer asked again is a second version", async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "Say something.");
  const first = await (await answered(page)).locator("> .text").textContent();
  await page.getByRole("button", { name: "Answer again" }).click();
  await answered(page);
  assert.match(await page.locator(".message.answer .versions").textContent(), /2 of 2/);
  if (site.mock) assert.notEqual(await page.locator(".message.answer > .text").textContent(), first);
  await page.getByRole("button", { name: "Earlier version" }).click();
  assert.equal(await page.locator(".message.answer > .text").textContent(), first);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("a slow prompt shows how far it is read", needsMock, async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "slow prefill, please");
  await page.waitForSelector(".state progress");
  assert.match(await page.locator(".state").textContent(), /Reading the prompt: [\d,]+ of 2,048 tokens/);
  await shot(page, "prefill-light");
  await answered(page);
  assert.equal(await page.locator(".state").isVisible(), false);
  assert.deepEqual(problems(), []);
  await context.close();
});

test("thoughts are open while they come and folded afterwards", needsMock, async () => {
  const { page, context, problems } = await site.open();
  await ask(page, "think about it");
  await page.waitForFunction(() => document.querySelector(".thought")?.open);
  await answered(page);
  const thought = page.locator(".thought");
  assert.equal(await thought.evaluate((one) => one.open), false);
  await thought.locator("summary").click();
  assert.match(await thought.locator(".text").innerHTML(), /<strong>that<\/strong>/);
  assert.equal(await page.locator(".message.answer > .text").textContent(), "I have thought about it.");
  assert.deepEqual(problems(), []);
  await context.close();
});

test("an answer cut at the limit says so", needsMock, async () => {
  const { page, context } = await site.open();
  await ask(page, "run into the limit");
  const answer = await answered(page);
  assert.match(await answer.locator(".note").textContent(), /limit of tokens/);
  await context.close();
});

test("reading further up is not disturbed by what arrives below", needsMock, async () => {
  const { page, context } = await site.open({ viewport: { width: 1200, height: 560 } });
  await ask(page, "a long one");
  const scroll = page.locator("#thread-scroll");
  await page.waitForFunction(() => document.querySelectorAll(".message.answer > .text > p").length > 12);
  const distance = () => scroll.evaluate((one) => one.scrollHeight - one.scrollTop - one.clientHeight);
  assert.ok((await distance()) < 4, "it follows the end");
  await scroll.hover();
  await page.mouse.wheel(0, -300);
  await page.waitForSelector("#to-latest:not([hidden])");
  const before = await scroll.evaluate((one) => one.scrollTop);
  await page.waitForTimeout(700);
  assert.equal(await scroll.evaluate((one) => one.scrollTop), before);
  await page.locator("#to-latest").click();
  await page.waitForTimeout(200);
  assert.ok((await distance()) < 80);
  await page.keyboard.press("Escape");
  await context.close();
});
