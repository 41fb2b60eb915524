// Errors of the server: in words, with what to do, and done by the page where it can.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { answered, ask, launch, needsMock, openPage, shot, startMock } from "./page.js";

const NETWORK = [/Failed to load resource/, /net::ERR_/];
let browser;

before(async () => (browser = await launch()));
after(() => browser.close());

async function withMock(options, run, pageOptions = {}) {
  const mock = await startMock(...options);
  const opened = await openPage(browser, mock.url, { expected: NETWORK, ...pageOptions });
  try {
    await run(mock, opened.page);
    assert.deepEqual(opened.problems(), []);
  } finally {
    await opened.context.close();
    mock.stop();
  }
}

test("429: waits as long as the server says, then the answer comes", needsMock, () =>
  withMock([], async (mock, page) => {
    await mock.fail({ status: 429, retry_after: 2 });
    await ask(page, "patience");
    await page.getByText(/The server is busy. Trying again in \d s/).waitFor();
    assert.equal(await page.locator("#stop").isVisible(), true);
    const answer = await answered(page);
    assert.match(await answer.textContent(), /You said: patience/);
    assert.equal((await mock.state()).bodies.length, 2);
  }));

test("429: stopping ends the waiting", needsMock, () =>
  withMock([], async (mock, page) => {
    await mock.fail({ status: 429, retry_after: 60 });
    await ask(page, "impatience");
    await page.getByText(/The server is busy/).waitFor();
    await page.keyboard.press("Escape");
    const answer = await answered(page, 2000);
    assert.equal(await answer.locator(".note").textContent(), "Stopped.");
  }));

test("503 while loading: the page says so, and sends when the model is there", needsMock, () =>
  withMock(["--loading", "8"], async (mock, page) => {
    await page.getByText("Loading the model. You can write already").waitFor();
    await ask(page, "early");
    await page.getByText(/Waiting for the model to be ready/).waitFor();
    const answer = await answered(page);
    assert.match(await answer.textContent(), /You said: early/);
    assert.equal(await page.locator("#banner").isVisible(), false);
    await page.waitForSelector('#tide-link[data-state="live"]');
  }));

test("401: asks for the key, says when it is wrong, keeps it for the tab only", needsMock, () =>
  withMock(["--key", "sesame"], async (mock, page) => {
    const dialog = page.getByRole("dialog");
    await dialog.waitFor();
    await shot(page, "key-light");
    assert.equal(await page.evaluate(() => document.activeElement.id), "key");
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.getByText("That key was not accepted.").waitFor();
    await page.keyboard.type("sesame");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#model-line").textContent.includes("budget"));
    await page.waitForSelector('#tide-link[data-state="live"]');
    await ask(page, "open");
    assert.match(await (await answered(page)).textContent(), /You said: open/);
    assert.equal(await page.evaluate(() => sessionStorage.getItem("lowtide.key")), "sesame");
    assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("sesame")), false);
    await page.reload();
    await page.waitForSelector('#tide-link[data-state="live"]');
    assert.equal(await dialog.count(), 0, "a reload does not ask again");
  }));

test("401: no key given is an error with a way back, and no second dialog by itself", needsMock, () =>
  withMock(["--key", "sesame"], async (mock, page) => {
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.waitForTimeout(2500);
    assert.equal(await page.getByRole("dialog").count(), 0);
    await ask(page, "without");
    await page.getByRole("dialog").waitFor();
    await page.keyboard.press("Escape");
    await page.getByText("The server asks for a key.").first().waitFor();
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByRole("dialog").waitFor();
    await page.keyboard.type("sesame");
    await page.keyboard.press("Enter");
    assert.match(await (await answered(page)).textContent(), /You said: without/);
    assert.equal(await page.locator(".versions").count(), 0, "the failed attempt is no version");
  }));

const CASES = [
  [{ status: 400, message: "9,000 tokens are more than the context of 8,192" }, /longer than the model's context/, /8,192/],
  [{ status: 400, message: "temperature must not be negative" }, /does not accept this request/, /temperature/],
  [{ status: 403, message: "host not allowed" }, /refuses this page/, /host not allowed/],
  [{ status: 500, message: "disk error at 3.2 GB" }, /could not finish this answer/, /disk error/],
  [{ error_after: 5 }, /could not finish this answer/, /model_fault/],
  [{ cut_after: 5 }, /connection was cut/, /not complete/],
];
for (const [failure, title, detail] of CASES) {
  test(`${JSON.stringify(failure)} is told in words, and can be tried again`, needsMock, () =>
    withMock([], async (mock, page) => {
      await mock.fail(failure);
      await ask(page, "will it work?");
      const answer = await answered(page);
      const box = answer.getByRole("alert");
      assert.match(await box.textContent(), title);
      assert.match(await box.textContent(), detail);
      if (failure.status === 500) await shot(page, "error-light");
      await box.getByRole("button", { name: "Try again" }).click();
      await page.locator(".message.answer", { hasText: "You said: will it work?" }).waitFor();
    }));
}

test("a server that is gone is noticed and, when it is back, found again", needsMock, async () => {
  const first = await startMock();
  const port = new URL(first.url).port;
  const { page, context, problems } = await openPage(browser, first.url, { expected: NETWORK });
  await page.waitForSelector('#tide-link[data-state="live"]');
  first.stop();
  await page.waitForSelector('#tide-link[data-state="lost"]');
  await ask(page, "anyone?");
  const answer = await answered(page);
  assert.match(await answer.getByRole("alert").textContent(), /does not answer.*lowtide serve/);
  const second = await startMock("--port", port);
  await page.waitForSelector('#tide-link[data-state="live"]', { timeout: 20_000 });
  await answer.getByRole("button", { name: "Try again" }).click();
  await page.locator(".message.answer", { hasText: "You said: anyone?" }).waitFor();
  assert.deepEqual(problems(), []);
  await context.close();
  second.stop();
});
