// Uses the page as a person would, in headless Chromium: node test.mjs URL FILE

import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { chromium } from "playwright-core";

const [url, film] = process.argv.slice(2);
const profile = await mkdtemp(join(tmpdir(), "browser_upload-"));
const args = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args,
  ignoreHTTPSErrors: true,
  viewport: { width: 760, height: 640 },
});

try {
  const page = await browser.newPage();
  const requests = [];
  const complaints = [];
  browser.on("request", (request) => requests.push(request));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));

  // SCREENSHOTS=examples/browser_upload renews the picture of the README, and makes two more.
  const shots = process.env.SCREENSHOTS;
  const shoot = async (name) => shots && (await page.screenshot({ path: join(shots, name) }));

  const answer = await page.goto(url);
  assert.match(answer.headers()["content-security-policy"], /default-src 'none'/);
  await page.getByText("Nothing yet.").waitFor();

  // Picks a file, and sees the progress grow.
  await page.evaluate(() => {
    window.seen = [];
    const bar = document.getElementById("progress");
    const look = () => window.seen.at(-1) !== bar.value && window.seen.push(bar.value);
    new MutationObserver(look).observe(bar, { attributes: true });
  });
  await page.getByLabel("Choose a video").setInputFiles(film);
  await page.getByText("is uploaded.").waitFor({ timeout: 60_000 });
  const seen = await page.evaluate(() => window.seen);
  assert(seen.length >= 3, `progress: ${seen}`);
  assert.deepEqual(seen, seen.toSorted((a, b) => a - b), `progress: ${seen}`);
  assert.equal(seen.at(-1), 100);

  // Sees the video listed, also after a reload.
  const name = basename(film);
  await page.getByRole("listitem").filter({ hasText: name }).waitFor();
  await page.reload();
  await page.getByRole("listitem").filter({ hasText: name }).waitFor();

  // A phone, and the dark.
  await page.setViewportSize({ width: 360, height: 640 });
  const wider = await page.evaluate(() => document.documentElement.scrollWidth > window.innerWidth);
  assert(!wider, "the page is wider than a phone");
  await shoot("phone.png");
  await page.setViewportSize({ width: 760, height: 600 });
  await page.emulateMedia({ colorScheme: "dark" });
  await shoot("dark.png");
  await page.emulateMedia({ colorScheme: "light" });

  // An upload that is cancelled leaves nothing in the list.
  const network = await browser.newCDPSession(page);
  const slow = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: 6_000_000 };
  await network.send("Network.emulateNetworkConditions", slow);
  await page.getByLabel("Choose a video").setInputFiles(film);
  await page.waitForFunction(() => document.getElementById("progress").value >= 55);
  await shoot("screenshot.png");
  await page.getByRole("button", { name: "Cancel" }).click();
  await page.getByText("was cancelled").waitFor();
  assert.equal(await page.getByRole("listitem").count(), 1);
  await network.send("Network.emulateNetworkConditions", { ...slow, uploadThroughput: -1 });

  // Ten tokens a minute; two were used.
  const statuses = await page.evaluate(async () => {
    const mint = async () => {
      const headers = { "content-type": "application/json" };
      const response = await fetch("session/token", { method: "POST", headers, body: '{"size":1}' });
      if (response.ok) {
        const { token } = await response.json();
        await fetch("session/done", { method: "POST", headers, body: JSON.stringify({ token }) });
      }
      return response.status;
    };
    const all = [];
    for (let count = 0; count < 9; count++) all.push(await mint());
    return all;
  });
  assert.deepEqual(statuses, [...Array(8).fill(200), 429]);
  assert.deepEqual(complaints.filter((text) => !text.includes("429")), []);

  // Another site can't mint: neither by a script nor by a form.
  const foreign = createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>foreign</title>"));
  await new Promise((resolve) => foreign.listen(0, "127.0.0.1", resolve));
  const elsewhere = await browser.newPage();
  await elsewhere.goto(`http://127.0.0.1:${foreign.address().port}/`);
  const answers = [];
  const refused = async (send) => {
    const response = elsewhere.waitForResponse((response) => response.url() === `${url}/session/token`);
    await elsewhere.evaluate(send, `${url}/session/token`).catch(() => {});
    answers.push((await response).status());
  };
  await refused((url) => fetch(url, { method: "POST", mode: "no-cors", credentials: "include", body: '{"size":1}' }));
  await refused((url) => {
    const form = Object.assign(document.createElement("form"), { method: "POST", action: url });
    document.body.append(form);
    form.submit();
  });
  foreign.close();
  assert.deepEqual(answers, [403, 403], "cross-site");

  // Another session sees nothing of it.
  await browser.clearCookies();
  await page.reload();
  await page.getByText("Nothing yet.").waitFor();

  // No request of the browser had a bearer.
  assert(requests.some((request) => new URL(request.url()).pathname === "/upload"));
  for (const request of requests) {
    assert(!("authorization" in (await request.allHeaders())), request.url());
  }
  console.log(`${requests.length} requests, none with Authorization; progress ${seen.length} times; cross-site mint refused`);
} finally {
  await browser.close();
  await rm(profile, { recursive: true, force: true });
}
