// The page asks its own server for a video and a token, and api.video's uploader does the rest.

const CHUNK = 10 * 1024 * 1024;

// Milliseconds without progress until the page says so, and the pauses before the attempts after the first.
const SILENCE = 2000;
const PAUSES = [500, 1000, 2000, 4000, 8000, 15000, 15000, 15000, 15000, 15000];

// What a browser that has no type for a file may not know to be a video.
const VIDEO_NAMES = /\.(3gp|avi|flv|m2ts|m4v|mkv|mov|mp4|mpe?g|mts|mxf|ogv|ts|vob|webm|wmv)$/i;

const CANCELLED = Symbol("cancelled");
const at = (id) => document.getElementById(id);
const input = at("file");
let busy = false;

class Uploader extends VideoUploader {
  constructor(file, own, onTrouble) {
    super({
      file,
      uploadToken: own.token,
      videoId: own.videoId,
      apiHost: location.host,
      chunkSize: CHUNK,
      origin: { application: { name: "browser_upload", version: "1" } },
      retryStrategy: (attempts, error) => {
        const refused = error.status >= 400 && error.status < 500 && ![401, 408, 429].includes(error.status);
        // A token may have expired while the computer slept. A new one is refused for some other reason.
        if (error.status === 401) this.renewAt = 0;
        if (refused || attempts >= (error.status === 401 ? 1 : PAUSES.length)) return null;
        onTrouble(error);
        return PAUSES[attempts];
      },
    });
    this.use(own);
  }

  use({ token, expiresIn }) {
    this.uploadEndpoint = `https://${location.host}/upload?token=${token}`;
    this.renewAt = Date.now() + expiresIn * 500;
  }

  // Before each attempt: a token with at least half of its life left, and nothing any more after a cancel.
  async ready() {
    if (!this.canceled && Date.now() >= this.renewAt) {
      // If it fails, the old one may still do.
      await ask("session/token", { videoId: this.videoId }).then((own) => this.use(own), () => {});
    }
    if (this.canceled) await new Promise(() => {});
  }

  xhrWithRetrier(request) {
    let attempts;
    const result = this.ready().then(() => (attempts = super.xhrWithRetrier(request)).result);
    return { result, cancel: () => attempts?.cancel() };
  }

  // By itself, the uploader sleeps through a cancel and then sends once more, and through the network's return.
  async sleep(duration) {
    await new Promise((resolve) => {
      setTimeout(resolve, duration);
      addEventListener("online", resolve, { once: true });
    });
    await this.ready();
  }
}

async function ask(path, body) {
  const headers = body && { "content-type": "application/json" };
  const request = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) };
  const response = await fetch(path, request).catch(() => undefined);
  const answer = response && response.status !== 204 ? await response.json().catch(() => undefined) : undefined;
  if (!response?.ok) throw new Error(answer?.title ?? "The server can't be reached.");
  return answer;
}

// The uploader's errors have a status and perhaps a title if the API responded, else a reason.
function explain({ title, status, reason, message }) {
  if (status) return `${title ?? "The API refused the upload."} (${status})`;
  if (reason?.startsWith("NETWORK_")) return "The connection was lost.";
  return title ?? message ?? reason ?? "The upload failed.";
}

function size(bytes) {
  return new Intl.NumberFormat("en", { style: "unit", unit: "megabyte", maximumFractionDigits: 1 }).format(bytes / 1e6);
}

function say(text, mood = "") {
  // Nothing is announced twice.
  if (at("status").textContent !== text) at("status").textContent = text;
  at("status").className = mood;
}

function show(file, bytes) {
  const percent = Math.floor((Math.min(bytes, file.size) / file.size) * 100);
  at("progress").value = percent;
  at("percent").textContent = `${percent} %`;
  at("detail").textContent = `${size(Math.min(bytes, file.size))} of ${size(file.size)}`;
}

async function list() {
  const videos = await ask("session/videos");
  at("empty").hidden = videos.length > 0;
  const items = videos.map((video) => {
    const item = document.createElement("li");
    const row = document.createElement("div");
    row.className = "row";
    for (const [name, text] of [["name", video.title], ["hint", video.size === null ? "" : size(video.size)]]) {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = text;
      row.append(span);
    }
    item.append(row);
    return item;
  });
  at("videos").replaceChildren(...items);
}

// Sends a file, and says how it goes on. The promise is rejected if it fails, and with CANCELLED by the button.
async function send(file, begun) {
  let uploader;
  let trouble = "";
  let heard = Date.now();
  const watch = setInterval(() => {
    if (!navigator.onLine) say("The connection was lost. Waiting for it.", "bad");
    else if (trouble) say(`${trouble} Trying again.`, "bad");
    else if (Date.now() - heard > SILENCE) say("Nothing has moved for some seconds. Still trying.", "bad");
  }, 250);
  const cancelled = new Promise((_, reject) => {
    at("cancel").onclick = () => reject(CANCELLED);
  });
  const uploaded = begun.then((own) => {
    uploader = new Uploader(file, own, (error) => (trouble = explain(error)));
    uploader.onProgress(({ uploadedBytes }) => {
      show(file, uploadedBytes);
      heard = Date.now();
      trouble = "";
      say("");
    });
    return uploader.upload();
  });
  try {
    await Promise.race([uploaded, cancelled]);
  } finally {
    clearInterval(watch);
    uploader?.cancel();
  }
}

async function upload(file) {
  const begun = ask("session/upload", { name: file.name, size: file.size });
  const warn = (event) => event.preventDefault();
  addEventListener("beforeunload", warn);
  say("");
  at("name").textContent = file.name;
  show(file, 0);
  input.disabled = true;
  at("current").hidden = false;
  at("cancel").focus();
  let cancelled = false;
  try {
    await send(file, begun);
    say(`${file.name} is uploaded.`, "good");
  } catch (error) {
    cancelled = error === CANCELLED;
    if (cancelled) say("The upload was cancelled.");
    else say(`${file.name} was not uploaded. ${explain(error)}`, "bad");
  }
  removeEventListener("beforeunload", warn);
  const focused = [at("cancel"), document.body].includes(document.activeElement);
  at("current").hidden = true;
  input.disabled = false;
  if (focused) input.focus();
  busy = false;
  // Nobody needs the token any more, and the server asks the API what has arrived.
  const own = await begun.catch(() => undefined);
  if (own) await ask("session/done", { videoId: own.videoId, cancelled }).catch(() => {});
  await list().catch(() => {});
}

// A text that calls itself a video is none either.
async function isVideo(file) {
  const named = file.type.startsWith("video/") || VIDEO_NAMES.test(file.name);
  const start = named && file.size > 0 ? await file.slice(0, 1024).arrayBuffer().catch(() => undefined) : undefined;
  return start !== undefined && !/^[\t\n\r -\uFFFC]*$/.test(new TextDecoder().decode(start, { stream: true }));
}

// One video at a time; of all others it is said why they are not sent.
async function take(files) {
  const notes = files.length ? [] : ["That is not a file."];
  let chosen;
  for (const file of files) {
    if (!(await isVideo(file))) {
      notes.push(`${file.name} is not a video.`);
    } else if (busy) {
      notes.push(`${file.name} was not taken: one video at a time, please.`);
    } else {
      chosen = file;
      busy = true;
    }
  }
  at("note").textContent = notes.join(" ");
  if (chosen) await upload(chosen);
}

input.addEventListener("change", () => {
  take([...input.files]);
  input.value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take([...event.dataTransfer.files]);
  });
}
await list().catch((error) => say(error.message, "bad"));
