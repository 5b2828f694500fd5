// Presses the buttons of the page in headless Chromium, and makes the picture of it: node live.mjs
// It starts the example itself. playwright-core comes from the folder of `browser_upload`.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { chromium } from "../browser_upload/node_modules/playwright-core/index.mjs";

const server = spawn("cargo", ["run", "--quiet", "--example", "observe"], { stdio: ["ignore", "pipe", "inherit"] });
const lines = createInterface({ input: server.stdout });
const said = [];
lines.on("line", (line) => said.push(line));
const ended = once(server, "exit");
let browser;

try {
  const [first] = await Promise.race([once(lines, "line"), ended]);
  const [url] = /http:\S+\//.exec(first);
  assert.equal((await fetch(`${url}do/revoke`, { method: "POST", headers: { origin: "http://localhost:1" } })).status, 403);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  const page = await browser.newPage({ viewport: { width: 800, height: 520 } });
  const errors = [];
  page.on("pageerror", (error) => errors.push(error));
  await page.goto(url);
  const shows = (id, pattern) =>
    page.waitForFunction(([id, text]) => new RegExp(text).test(document.getElementById(id).textContent), [id, pattern], { timeout: 60_000 });
  await shows("perSecond", "^[1-9]");
  await page.getByRole("button", { name: "Revoke the token" }).click();
  await shows("renewals", "Unauthorized 1");
  await page.getByRole("button", { name: "Take the token endpoint down" }).click();
  await shows("expiresIn", "^0$");
  await shows("failures", "^[1-9]");
  await page.getByRole("button", { name: "Bring it back" }).click();
  await shows("expiresIn", "^[12][0-9]$");
  await shows("renewals", "Early [1-9]");
  const metrics = await (await fetch(`${url}metrics`)).text();
  for (const name of ["renewals", "token_calls", "replays", "token_expiry", "cool_down"]) {
    assert.match(metrics, new RegExp(`^apivideo_auth_${name}[{ ]`, "m"), name);
  }
  assert.doesNotMatch(metrics + (await page.content()), /test-only/);
  await page.screenshot({ path: new URL("screenshot.png", import.meta.url).pathname });
  assert.deepEqual(errors, []);
} finally {
  await browser?.close();
  server.kill("SIGINT");
  await ended;
}
assert.match(said.at(-1), /^observe: ok/);
console.log(`${said.at(-1)} (three buttons, no secret)`);
