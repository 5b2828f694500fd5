// Uses the page as people would, in headless Chromium: node test.mjs URL FILE [SCENARIO]

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { chromium } from "playwright-core";

const [url, film, only] = process.argv.slice(2);
const name = basename(film);
const UPLOAD = /\/upload\?token=/;

// SCREENSHOTS=examples/browser_upload renews the picture of the README, and makes some more.
const shots = process.env.SCREENSHOTS;
const shoot = async (page, file) => shots && (await page.screenshot({ path: join(shots, file) }));

const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"];
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
const requests = [];

// A person with a browser of their own: a session.
async function visit() {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 760, height: 640 } });
  context.on("request", (request) => requests.push(request));
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(String(error)));
  const network = await context.newCDPSession(page);
  page.limit = (uploadThroughput, offline = false) =>
    network.send("Network.emulateNetworkConditions", { offline, latency: 0, downloadThroughput: -1, uploadThroughput });
  page.pick = (files) => page.getByLabel("Choose a video").setInputFiles(files);
  page.says = (text, timeout = 20_000) => page.getByRole("status").getByText(text).waitFor({ timeout });
  page.cancel = () => page.getByRole("button", { name: "Cancel" }).click({ timeout: 1000 });
  page.reaches = (percent) => page.waitForFunction((percent) => document.getElementById("progress").value >= percent, percent);
  page.focuses = (id) => page.waitForFunction((id) => document.activeElement.id === id, id, { timeout: 1000 });
  page.sent = (pattern) => requests.filter((it) => it.frame().page() === page && pattern.test(it.url())).length;
  page.post = (path, body) =>
    page.evaluate(async ([path, body]) => {
      const headers = { "content-type": "application/json" };
      const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
      return [response.status, await response.json().catch(() => undefined)];
    }, [path, body]);
  page.drop = async (...names) => {
    const dataTransfer = await page.evaluateHandle((names) => {
      const data = new DataTransfer();
      for (const name of names) {
        const type = name.endsWith(".mp4") ? "video/mp4" : "image/png";
        data.items.add(new File([new Uint8Array(1000)], name, { type }));
      }
      return data;
    }, names);
    await page.dispatchEvent("#drop", "drop", { dataTransfer });
  };
  const answer = await page.goto(url);
  assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
  await page.getByText("Nothing yet.").waitFor();
  return page;
}

const scenarios = {
  async "a video is uploaded, with tokens that live for less"(page) {
    await page.evaluate(() => {
      window.seen = [];
      const bar = document.getElementById("progress");
      const look = () => window.seen.at(-1) !== bar.value && window.seen.push(bar.value);
      new MutationObserver(look).observe(bar, { attributes: true });
    });
    await page.limit(3_000_000);
    await page.pick(film);
    await page.focuses("cancel");
    await page.says("is uploaded.", 60_000);
    await page.focuses("file");
    const seen = await page.evaluate(() => window.seen);
    assert(seen.length >= 3 && seen.at(-1) === 100, `progress: ${seen}`);
    assert.deepEqual(seen, seen.toSorted((a, b) => a - b), `progress: ${seen}`);
    assert(page.sent(/session\/token/) > 0, "no new token");

    await page.getByRole("listitem").filter({ hasText: name }).waitFor();
    await page.reload();
    await page.getByRole("listitem").filter({ hasText: name }).waitFor();

    // A phone, and the dark.
    await page.setViewportSize({ width: 360, height: 640 });
    const wider = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
    assert(!wider, "the page is wider than a phone");
    await shoot(page, "phone.png");
    await page.setViewportSize({ width: 760, height: 600 });
    await page.emulateMedia({ colorScheme: "dark" });
    await shoot(page, "dark.png");
    await page.emulateMedia({ colorScheme: "light" });

    // Cancelled in the middle, the next one leaves nothing.
    await page.limit(6_000_000);
    await page.pick(film);
    await page.reaches(55);
    await shoot(page, "screenshot.png");
    await page.cancel();
    await page.says("was cancelled", 1000);
    await sleep(500);
    assert.equal(await page.getByRole("listitem").count(), 1);
  },

  async "cancel works between two attempts"(page) {
    await page.route(UPLOAD, (route) => route.abort("connectionrefused"));
    await page.pick(film);
    await page.says("The connection was lost. Trying again.", 3000);
    await sleep(3000);
    await page.cancel();
    await page.says("was cancelled", 1000);
    await page.unroute(UPLOAD);
    const sent = page.sent(UPLOAD);
    await sleep(5000);
    assert.equal(page.sent(UPLOAD), sent, "something was sent after the cancel");
  },

  async "cancel works before there is a token"(page) {
    await page.route(/session\/upload/, async (route) => {
      await sleep(3000);
      await route.continue();
    });
    await page.pick(film);
    await page.cancel();
    await page.says("was cancelled", 1000);
    const done = await page.waitForRequest(/session\/done/);
    assert.equal(done.postDataJSON().cancelled, true);
    assert.equal(page.sent(UPLOAD), 0);
  },

  async "a lost connection is said at once, and the upload goes on when it is back"(page) {
    await page.limit(4_000_000);
    await page.pick(film);
    await page.reaches(20);
    await page.limit(-1, true);
    await page.says("The connection was lost.", 3000);
    await shoot(page, "lost.png");
    await sleep(2000);
    await page.limit(-1);
    await page.says("is uploaded.", 30_000);
  },

  async "a connection that stands still is said"(page) {
    await page.limit(4_000_000);
    await page.pick(film);
    await page.reaches(20);
    // The last bytes that move are those which are on their way already.
    const waited = page.evaluate(() => {
      const seen = (id, until) =>
        new Promise((resolve) => {
          const look = () => until(document.getElementById(id).textContent) && resolve();
          new MutationObserver(look).observe(document.getElementById(id), { childList: true, characterData: true });
        });
      let moved = performance.now();
      seen("detail", () => void (moved = performance.now()));
      return seen("status", (text) => text.startsWith("Nothing has moved")).then(() => performance.now() - moved);
    });
    await page.limit(1);
    await page.says("Nothing has moved", 10_000);
    assert((await waited) < 3000, `said after ${await waited} ms`);
    await page.cancel();
    await page.says("was cancelled", 1000);
  },

  async "what the API said is shown"(page) {
    const answers = [
      [400, "application/problem+json", '{"title":"The file is odd.","status":400}', "The file is odd. (400)"],
      [413, "text/html", "<h1>Too large</h1>", "(413)"],
    ];
    for (const [status, contentType, body, shown] of answers) {
      await page.route(UPLOAD, (route) => route.fulfill({ status, contentType, body }));
      await page.pick(film);
      await page.says(shown, 3000);
      await page.unroute(UPLOAD);
    }
    await page.route(UPLOAD, (route) => route.fulfill({ status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>" }));
    await page.pick(film);
    await page.says("(502) Trying again.", 3000);
    await page.unroute(UPLOAD);
    await page.says("is uploaded.");
  },

  async "of several files none vanishes silently"(page) {
    await page.drop("one.mp4", "two.mp4", "photo.png");
    await page.says("two.mp4 was not taken: one video at a time, please. photo.png is not a video.", 1000);
    await page.says("one.mp4 is uploaded.");
    await page.says("two.mp4 was not taken", 1000);
    await shoot(page, "two.png");
    await page.limit(1_000_000);
    await page.pick(film);
    await page.drop("three.mp4");
    await page.says("three.mp4 was not taken", 1000);
    await page.cancel();
    await page.says("was cancelled", 1000);
    await page.drop();
    await page.says("That is not a file.", 1000);
  },

  async "what is no video is not sent"(page) {
    const text = Buffer.from("Dear diary, ".repeat(200));
    for (const [name, mimeType, buffer] of [
      ["photo.png", "image/png", Buffer.alloc(1000)],
      ["diary.txt", "text/plain", text],
      ["diary.mp4", "video/mp4", text],
      ["empty.mp4", "video/mp4", Buffer.alloc(0)],
      ["folder", "", Buffer.alloc(1000)],
    ]) {
      await page.pick({ name, mimeType, buffer });
      await page.says(`${name} is not a video.`, 1000);
    }
    assert.equal(page.sent(/session\/upload/) + page.sent(UPLOAD), 0);
  },

  async "leaving in the middle asks"(page) {
    await page.limit(1_000_000);
    const asked = [];
    page.on("dialog", (dialog) => {
      asked.push(dialog.type());
      return dialog.dismiss();
    });
    // A browser asks only where somebody has done something.
    await page.getByRole("heading", { name: "Upload a video" }).click();
    await page.pick(film);
    await page.reaches(1);
    await page.close({ runBeforeUnload: true });
    for (let wait = 0; wait < 40 && !asked.length; wait++) await sleep(50);
    assert.deepEqual(asked, ["beforeunload"]);
    await page.cancel();
    await page.says("was cancelled", 1000);
    const closed = page.waitForEvent("close");
    await page.close({ runBeforeUnload: true });
    await closed;
    assert.deepEqual(asked, ["beforeunload"], "there is nothing to lose any more");
  },

  async "a foreign claim is refused"(page) {
    const begun = page.waitForResponse(/session\/upload/);
    await page.pick(film);
    const { videoId } = await (await begun).json();
    const other = await visit();
    const [status, own] = await other.post("session/upload", { name: "own.mp4", size: 1 });
    assert.equal(status, 200);
    const claim = async () => [await other.post("session/token", { videoId }), await other.post("session/done", { videoId, cancelled: true })];
    assert.deepEqual((await claim()).map(([status]) => status), [403, 403], "under way");
    await page.says("is uploaded.");
    await page.getByRole("listitem").filter({ hasText: name }).waitFor();
    assert.deepEqual((await claim()).map(([status]) => status), [403, 403], "complete");
    await other.post("session/done", { videoId: own.videoId, token: own.token });
    await other.reload();
    await other.getByText("Nothing yet.").waitFor();
    await page.reload();
    await page.getByRole("listitem").filter({ hasText: name }).waitFor();
    await other.context().close();
  },

  async "another site can begin nothing"(page) {
    const foreign = createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>foreign</title>"));
    foreign.listen(0, "127.0.0.1");
    await once(foreign, "listening");
    const target = `${url}/session/upload`;
    await page.goto(`http://127.0.0.1:${foreign.address().port}/`);
    const answers = [];
    const refused = async (send) => {
      const response = page.waitForResponse(target);
      await page.evaluate(send, target).catch(() => {});
      answers.push((await response).status());
    };
    const body = JSON.stringify({ name: "x", size: 1 });
    await refused(`fetch(${JSON.stringify(target)}, { method: "POST", mode: "no-cors", credentials: "include", body: '${body}' })`);
    await refused((action) => {
      const form = Object.assign(document.createElement("form"), { method: "POST", action });
      document.body.append(form);
      form.submit();
    });
    foreign.close();
    assert.deepEqual(answers, [403, 403]);
  },

  async "too many uploads are refused, in words"(page) {
    let status = 200;
    for (let count = 0; count < 30 && status === 200; count++) {
      const [answer, own] = await page.post("session/upload", { name: "x", size: 1 });
      status = answer;
      if (own.videoId) await page.post("session/done", { videoId: own.videoId, cancelled: true });
    }
    assert.equal(status, 429);
    await page.pick(film);
    await page.says("That was a lot of uploads.", 2000);
  },
};

try {
  const chosen = Object.entries(scenarios).filter(([title]) => !only || title.includes(only));
  for (const [title, scenario] of chosen) {
    const page = await visit();
    const begun = performance.now();
    try {
      await scenario(page);
      assert.deepEqual(page.errors, []);
      if (!page.isClosed()) {
        const cookies = await page.context().cookies();
        assert.deepEqual(cookies.map((cookie) => cookie.name), ["__Host-session"]);
      }
    } catch (error) {
      if (shots && !page.isClosed()) await page.screenshot({ path: join(shots, "failed.png") });
      throw new Error(`${title}: ${error.message}`, { cause: error });
    }
    console.log(`${title} (${((performance.now() - begun) / 1000).toFixed(1)} s)`);
    await page.context().close();
  }
  for (const request of requests) {
    // Of a page that is gone nothing more can be asked.
    assert(!("authorization" in request.headers()), request.url());
  }
  console.log(`${chosen.length} scenarios, ${requests.length} requests, none with Authorization`);
} finally {
  await browser.close();
}
