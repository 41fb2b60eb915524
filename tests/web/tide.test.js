// The tide: it moves while an answer is made, rests when nothing happens, explains itself, and stays smooth.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { answered, ask, launch, needsMock, openPage, REAL_URL, shot, startMock } from "./page.js";

let browser;

before(async () => (browser = await launch()));
after(() => browser.close());

async function on(layout, run, options = {}) {
  const mock = REAL_URL ? null : await startMock("--layout", layout, "--tokens-per-s", "60");
  const opened = await openPage(browser, REAL_URL || mock.url, options);
  try {
    await opened.page.waitForSelector('#tide-link[data-state="live"]');
    await run(opened.page, mock);
    assert.deepEqual(opened.problems(), []);
  } finally {
    await opened.context.close();
    mock?.stop();
  }
}

const picture = (page) => page.locator(".tide-map").evaluate((canvas) => canvas.toDataURL());

for (const layout of ["moe", "dense"]) {
  test(`${layout}: the picture changes during an answer and the figures are there`, () =>
    on(layout, async (page, mock) => {
      await page.waitForTimeout(500);
      const before = await picture(page);
      await ask(page, "Explain memory mapping in a long answer.");
      await page.waitForFunction(() => Number(document.querySelector(".big .value").textContent) > 0);
      const during = new Set();
      for (let look = 0; look < 4; look += 1) {
        during.add(await picture(page));
        await page.waitForTimeout(300);
      }
      assert.ok([...during].some((one) => one !== before), "the tide moves");
      // A small real model uses all of its file between two looks; the stand-in's are large.
      if (mock) assert.ok(during.size >= 2, "and goes on moving");
      await shot(page, `tide-${layout}-light`);
      assert.match(await page.locator(".tide-share").textContent(), /of [\d.]+ [GM]B in memory/);
      assert.match(await page.locator("#tables-title ~ .figure").textContent(), /[MK]iB/);
      const rss = page.getByRole("meter", { name: "RSS" });
      const share = Number(await rss.getAttribute("aria-valuenow"));
      assert.ok(share > 0 && share <= 100);
      await page.keyboard.press("Escape");
      await answered(page);
    }, needsMockOptions(layout)));
}

/** The dense layout is worth a look in the dark. */
function needsMockOptions(layout) {
  return layout === "dense" ? { colorScheme: "dark" } : {};
}

test("each colour explains itself after one click, and picks its pieces out", needsMock, () =>
  on("dense", async (page) => {
    const before = await picture(page);
    for (const name of ["Kept in memory", "In memory now", "Being read", "Used by this token", "On disk"]) {
      const button = page.getByRole("button", { name, exact: true });
      await button.click();
      assert.equal(await button.getAttribute("aria-expanded"), "true");
      assert.ok((await page.locator("#legend-text").textContent()).length > 40);
      assert.equal(await page.locator('.legend-item[aria-expanded="true"]').count(), 1);
      assert.notEqual(await picture(page), before);
    }
    await page.getByRole("button", { name: "On disk", exact: true }).click();
    assert.equal(await page.locator("#legend-text").isVisible(), false);
    assert.equal(await picture(page), before);
  }));

test("a piece is named by pointing at it and by the arrow keys", needsMock, () =>
  on("dense", async (page) => {
    const map = page.locator(".tide-map");
    await map.hover({ position: { x: 200, y: 100 } });
    assert.match(await page.locator(".tide-tip").textContent(), /blk\.\d+.*MB at [\d.]+ GB, (kept in memory|on disk)/);
    await map.focus();
    await page.keyboard.press("Home");
    assert.match(await map.getAttribute("aria-valuetext"), /token_embd/);
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("ArrowRight");
    assert.match(await map.getAttribute("aria-valuetext"), /blk\.0/);
    await page.keyboard.press("End");
    assert.match(await map.getAttribute("aria-valuetext"), /output/);
  }));

test("a slow model's speed is that of its last tokens, not of a fifth of a second", needsMock, () =>
  on("fits", async (page) => {
    const speeds = await page.evaluate(async () => {
      const { Pace } = await import("/assets/pace.js");
      const pace = new Pace();
      const said = [];
      // One token every 2 s: nine events without, one with 5 tokens a second.
      for (let step = 0; step <= 200; step += 1) {
        said.push(pace.take({ t_ms: step * 200, tok_s: step % 10 === 9 ? 5 : 0, disk_share: 0.5, read_bytes_s: 1e9, busy: true }));
      }
      return said.slice(100).map(({ speed, disk, read }) => [speed, disk, read]);
    });
    for (const [speed, disk, read] of speeds) {
      assert.ok(Math.abs(speed - 0.5) < 0.06, `${speed}`);
      assert.ok(Math.abs(disk - 0.5) < 1e-9 && Math.abs(read - 1e9) < 1);
    }
  }));

test("a model that fits is all in memory", needsMock, () =>
  on("fits", async (page) => {
    await page.waitForFunction(() => /152 MB of 152 MB/.test(document.querySelector(".tide-share").textContent));
    await page.getByText("fit into its budget").waitFor();
    await shot(page, "tide-fits-light");
  }));

test("at rest the page does next to nothing", needsMock, async (t) => {
  const mock = await startMock("--layout", "huge");
  const { page, context } = await openPage(browser, mock.url);
  await page.waitForSelector('#tide-link[data-state="live"]');
  await page.waitForTimeout(2500);
  const session = await context.newCDPSession(page);
  await session.send("Performance.enable");
  const work = async () => {
    const { metrics } = await session.send("Performance.getMetrics");
    return Object.fromEntries(metrics.map(({ name, value }) => [name, value]));
  };
  const before = await work();
  await page.waitForTimeout(6000);
  const after = await work();
  const busy = (after.TaskDuration - before.TaskDuration) / 6;
  t.diagnostic(`busy ${(100 * busy).toFixed(2)} % of the time at rest`);
  assert.ok(busy < 0.02, `busy ${(100 * busy).toFixed(2)} % of the time at rest`);
  await context.close();
  mock.stop();
});

test("5,000 tiles: an event is drawn in a few milliseconds", needsMock, (t) =>
  on("huge", async (page) => {
    await ask(page, "a long one");
    await page.waitForFunction(() => Number(document.querySelector(".big .value").textContent) > 0);
    const ms = await page.evaluate(async () => {
      const { Tiles } = await import("/assets/tide.js");
      const { TideMap } = await import("/assets/tidemap.js");
      const layout = await (await fetch("/tide/layout")).json();
      const map = new TideMap();
      document.querySelector("#tide-body").prepend(map.element);
      const tiles = new Tiles(layout);
      map.setTiles(tiles);
      await new Promise((resolve) => setTimeout(resolve, 100));
      const times = [];
      for (let step = 0; step < 40; step += 1) {
        const start = performance.now();
        tiles.apply({ reading: [step, step + 1], used: [step * 100, step * 100 + 99] });
        map.draw();
        times.push(performance.now() - start);
      }
      map.element.remove();
      return times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
    });
    t.diagnostic(`${ms.toFixed(2)} ms an event`);
    assert.ok(ms < 16, `${ms.toFixed(1)} ms an event`);
    await page.keyboard.press("Escape");
  }));
