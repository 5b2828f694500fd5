// What pages of other origins get from the gateway, in headless Chromium: node foreign.mjs
// It starts the gateway itself. playwright-core comes from the folder of the other server among the examples.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { chromium } from "../browser_upload/node_modules/playwright-core/index.mjs";

const gateway = spawn("cargo", ["run", "--quiet", "--example", "axum_gateway"], { stdio: ["ignore", "pipe", "inherit"] });
const lines = createInterface({ input: gateway.stdout });
const said = [];
lines.on("line", (line) => said.push(line));
const ended = once(gateway, "exit");
const foreign = createServer((_, response) => response.setHeader("content-type", "text/html").end("<title>foreign</title>"));
let browser;

try {
  const [first] = await Promise.race([once(lines, "line"), ended]);
  const [, username, password, url] = /--user (.*?):(.*?) (http.*)/.exec(first);
  foreign.listen(0, "127.0.0.1");
  await once(foreign, "listening");

  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  const visitor = await browser.newContext({ httpCredentials: { username, password } });
  const statuses = [];
  visitor.on("response", (response) => response.url().startsWith(url) && statuses.push(response.status()));

  // Its own pages can work.
  const own = await visitor.newPage();
  const list = await own.goto(url);
  assert.equal(list.status(), 200);
  const names = Object.keys(list.headers());
  assert.deepEqual(names.filter((name) => name.startsWith("access-control-") || name === "set-cookie"), []);
  const headers = { "content-type": "application/json" };
  const make = (options) => own.evaluate(async ([url, options]) => (await fetch(url, options)).status, [url, options]);
  assert.equal(await make({ method: "POST", headers, body: '{"title":"from its own page"}' }), 201);
  assert.equal(await own.evaluate(() => document.cookie), "");
  assert.deepEqual(await visitor.cookies(), []);

  // `localhost` is another site, another port of the same host another origin.
  const { port } = foreign.address();
  for (const site of [`http://localhost:${port}`, `http://127.0.0.1:${port}`]) {
    const page = await visitor.newPage();
    await page.goto(site);
    const read = (options) =>
      page.evaluate(([url, options]) => fetch(url, options).then((it) => it.text(), (error) => `${error}`), [url, options]);
    const authorization = `Basic ${Buffer.from(`${username}:${password}`).toString("base64")}`;
    for (const options of [{}, { credentials: "include" }, { headers: { authorization } }, { method: "DELETE" }]) {
      assert.match(await read(options), /TypeError: Failed to fetch/, `${site} ${JSON.stringify(options)}`);
    }
    // What needs no permission to be sent is refused.
    statuses.length = 0;
    await read({ method: "POST", mode: "no-cors", credentials: "include", body: '{"title":"from elsewhere"}' });
    const answer = page.waitForResponse(url);
    const submit = (action) => {
      const form = Object.assign(document.createElement("form"), { method: "POST", action });
      document.body.append(form);
      form.submit();
    };
    await page.evaluate(submit, url).catch(() => {});
    await answer;
    assert.deepEqual(statuses, [403, 403], site);
  }
  const titles = await own.evaluate(async (url) => (await (await fetch(url)).json()).data.map((video) => video.title), url);
  assert.deepEqual(titles, ["from its own page"]);
} finally {
  await browser?.close();
  foreign.close();
  gateway.kill("SIGINT");
  await ended;
}
assert.match(said.at(-1), /^axum_gateway: ok/);
console.log(`${said.at(-1)} (other origins read nothing and changed nothing)`);
