// Markdown: what it becomes, that growing text ends as the same nodes as finished text, and that nothing gets out of it.

import assert from "node:assert/strict";
import { readdir, readFile } from "node:fs/promises";
import { after, before, test } from "node:test";
import { answered, ask, launch, needsMock, openPage, startMock } from "./page.js";

let browser;
let mock;
let opened;

before(async () => {
  browser = await launch();
  mock = await startMock("--tokens-per-s", "3000");
  opened = await openPage(browser, mock.url);
});
after(async () => {
  await browser.close();
  mock.stop();
});

const html = (text) =>
  opened.page.evaluate(async (given) => {
    const { render } = await import("/assets/markdown.js");
    const box = document.createElement("div");
    render(box, given);
    box.normalize();
    return box.innerHTML;
  }, text);

const CASES = [
  ["plain", "<p>plain</p>"],
  ["a *b* **c** ***d*** _e_ __f__ ~~g~~", "<p>a <em>b</em> <strong>c</strong> <em><strong>d</strong></em> <em>e</em> <strong>f</strong> <del>g</del></p>"],
  ["**bold *and italic* bold**", "<p><strong>bold <em>and italic</em> bold</strong></p>"],
  ["2 * 3 * 4 and snake_case_name and a*b*c", "<p>2 * 3 * 4 and snake_case_name and a<em>b</em>c</p>"],
  ["*unclosed and **also", "<p>*unclosed and **also</p>"],
  ["`a` ``b ` c`` `unclosed", "<p><code>a</code> <code>b ` c</code> `unclosed</p>"],
  ["\\*not\\* &lt;b&gt; &amp; &#65; &nope;", "<p>*not* &lt;b&gt; &amp; A &amp;nope;</p>"],
  ["<b>x</b><br>y", "<p>&lt;b&gt;x&lt;/b&gt;<br>y</p>"],
  ["a  \nb\nc", "<p>a<br>b\nc</p>"],
  ["# One\n## Two ##\n####### seven", '<h2 class="level-1">One</h2><h3 class="level-2">Two</h3><p>####### seven</p>'],
  ["Title\n===\ntext", '<h2 class="level-1">Title</h2><p>text</p>'],
  ["### a\n##### b\n# c", '<h2 class="level-3">a</h2><h3 class="level-5">b</h3><h2 class="level-1">c</h2>'],
  ["- a\n- b", "<ul><li>a</li><li>b</li></ul>"],
  ["- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"],
  ["1. a\n2. b\n   - c", "<ol><li>a</li><li>b<ul><li>c</li></ul></li></ol>"],
  ["1. a\n  - two spaces only\n2. b", "<ol><li>a<ul><li>two spaces only</li></ul></li><li>b</li></ol>"],
  ["3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'],
  ["* a\n* * *\n* b", "<ul><li>a</li></ul><hr><ul><li>b</li></ul>"],
  ["text\n- item", "<p>text</p><ul><li>item</li></ul>"],
  ["year was\n1984. It", "<p>year was\n1984. It</p>"],
  ["> a\n> > b\n\nc", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote><p>c</p>"],
  ["---", "<hr>"],
  ["[a](javascript:alert(1))", '<p><span class="not-a-link" title="javascript:alert(1)">a</span></p>'],
  ["[a](data:text/html,x)", '<p><span class="not-a-link" title="data:text/html,x">a</span></p>'],
  ["not a [link] here (x)", "<p>not a [link] here (x)</p>"],
];
for (const [text, expected] of CASES) {
  test(`markdown: ${JSON.stringify(text)}`, needsMock, async () => assert.equal(await html(text), expected));
}

test("links show where they lead and tell the other side nothing", needsMock, async () => {
  const found = await html("[text](https://example.invalid/a) and https://example.invalid/b. ![alt](https://example.invalid/c.png)");
  assert.match(found, /<a href="https:\/\/example\.invalid\/a" target="_blank" rel="noopener noreferrer nofollow ugc"[^>]*>text<\/a><span class="link-place"> \(example\.invalid\)<\/span>/);
  assert.match(found, /<a href="https:\/\/example\.invalid\/b"[^>]*>https:\/\/example\.invalid\/b<\/a>\. /);
  assert.match(found, /<a href="https:\/\/example\.invalid\/c\.png"[^>]*>alt<\/a>/);
  assert.doesNotMatch(found, /<img/);
});

test("tables: alignment, code with bars, short rows", needsMock, async () => {
  const found = await html("| a | b | c |\n|:--|--:|:-:|\n| `x \\| y` | 2 |\n| 1 | 2 | 3 | 4 |\nafter");
  assert.match(found, /<th class="align-left">a<\/th><th class="align-right">b<\/th><th class="align-center">c<\/th>/);
  assert.match(found, /<td class="align-left"><code>x \| y<\/code><\/td><td class="align-right">2<\/td><td class="align-center"><\/td>/);
  assert.match(found, /<p>after<\/p>/);
});

test("code is coloured and its text unchanged", needsMock, async () => {
  const code = 'fn main() {\n    let s = "a // b"; /* two\n    lines */ let n = 0x1f; // end\n}\n<script>&amp;</script>';
  const [text, found] = await opened.page.evaluate(async (given) => {
    const { render } = await import("/assets/markdown.js");
    const box = document.createElement("div");
    render(box, `\`\`\`rust\n${given}\n\`\`\``);
    return [box.querySelector("pre").textContent, box.innerHTML];
  }, code);
  assert.equal(text, `${code}\n`);
  assert.match(found, /<span class="c-word">let<\/span>/);
  assert.match(found, /<span class="c-string">"a \/\/ b"<\/span>/);
  assert.match(found, /<span class="c-comment">\s*lines \*\/<\/span>/);
});

test("text that grows by random pieces ends as the same nodes", needsMock, async () => {
  const texts = [await readFile(new URL("kitchen.md", import.meta.url), "utf8"), "```c\nint a; /* x\ny */\n", "- a\n  ```py\n  '''x\n  ```\n- b\n\ntext **b", "a\n---\nb\n\n| x |\n|---|\n| y |"];
  const differing = await opened.page.evaluate(async (given) => {
    const { MarkdownView } = await import("/assets/markdown.js");
    let seed = 1;
    const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
    const bad = [];
    for (const text of given) {
      const whole = document.createElement("div");
      new MarkdownView(whole).update(text, false);
      whole.normalize();
      for (let round = 0; round < 30; round += 1) {
        const box = document.createElement("div");
        const view = new MarkdownView(box);
        for (let at = 0; at < text.length; at += 1 + Math.floor(random() * 12)) view.update(text.slice(0, at), true);
        view.update(text, false);
        box.normalize();
        if (box.innerHTML !== whole.innerHTML) bad.push([whole.innerHTML, box.innerHTML]);
      }
    }
    return bad.slice(0, 1);
  }, texts);
  assert.deepEqual(differing, []);
});

test("hostile text takes linear time and runs nothing", needsMock, async () => {
  const texts = ["*a ".repeat(50_000), "**a ".repeat(50_000), "*a*".repeat(50_000), "[".repeat(100_000), "[a](".repeat(30_000), "`a``b".repeat(30_000), "> ".repeat(20_000), "- ".repeat(20_000), "<".repeat(100_000), "a|".repeat(20_000), "_a __b ".repeat(30_000), "x".repeat(1_000_000), "\n- a".repeat(20_000), "http://".repeat(20_000), "&".repeat(100_000)];
  for (const text of texts) {
    const [ms, kept] = await opened.page.evaluate(async (given) => {
      const { render } = await import("/assets/markdown.js");
      const box = document.createElement("div");
      const start = performance.now();
      render(box, given);
      return [performance.now() - start, box.textContent.length];
    }, text);
    assert.ok(ms < 2500, `${JSON.stringify(text.slice(0, 12))} took ${Math.round(ms)} ms`);
    assert.ok(kept >= 0);
  }
  await ask(opened.page, "hostile");
  await answered(opened.page);
  assert.equal(await opened.page.evaluate(() => window.pwned), undefined);
  assert.equal(await opened.page.locator(".message.answer img, .message.answer script").count(), 0);
  assert.deepEqual(opened.problems(), []);
});

test("no file of the page turns text into markup or code", async () => {
  const folder = new URL("../../crates/server/web/", import.meta.url);
  const files = (await readdir(folder)).filter((name) => /\.(js|html)$/.test(name));
  assert.ok(files.length > 15);
  for (const name of files) {
    const text = (await readFile(new URL(name, folder), "utf8")).replace(/^\s*(\/\/|\*|\/\*).*$/gm, "");
    assert.doesNotMatch(text, /\.(inner|outer)HTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setHTML|srcdoc|createContextualFragment/, name);
    assert.doesNotMatch(text, /https?:\/\/(?!www\.w3\.org\/2000\/svg)[a-z]/, `${name} names another place`);
    if (name.endsWith(".html")) assert.doesNotMatch(text, /<script(?![^>]*\ssrc=)|<style|\sstyle=|\son[a-z]+=/, name);
  }
});
