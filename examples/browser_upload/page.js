// The page asks its own server for a token, and api.video's uploader does the rest.

const CHUNK = 10 * 1024 * 1024;
const at = (id) => document.getElementById(id);
const input = at("file");
const drop = at("drop");

async function ask(path, body) {
  const headers = body && { "content-type": "application/json" };
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const answer = response.status === 204 ? undefined : await response.json().catch(() => undefined);
  if (!response.ok) throw new Error(answer?.title ?? "The server can't be reached.");
  return answer;
}

function size(bytes) {
  return new Intl.NumberFormat("en", { style: "unit", unit: "megabyte", maximumFractionDigits: 1 }).format(bytes / 1e6);
}

function say(text, mood = "") {
  at("status").textContent = text;
  at("status").className = mood;
}

function show(file, bytes) {
  const percent = file.size ? Math.floor((Math.min(bytes, file.size) / file.size) * 100) : 0;
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
    for (const [name, text] of [["name", video.title], ["hint", size(video.size)]]) {
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

async function upload(file) {
  let token;
  let video;
  let cancelled = false;
  say("");
  at("name").textContent = file.name;
  show(file, 0);
  input.disabled = true;
  at("current").hidden = false;
  try {
    ({ token } = await ask("session/token", { size: file.size }));
    const uploader = new VideoUploader({
      file,
      uploadToken: token,
      apiHost: location.host,
      chunkSize: CHUNK,
      origin: { application: { name: "browser_upload", version: "1" } },
    });
    uploader.onProgress((progress) => show(file, progress.uploadedBytes));
    at("cancel").onclick = () => {
      cancelled = true;
      uploader.cancel();
    };
    video = await uploader.upload();
    say(`${file.name} is uploaded.`, "good");
  } catch (error) {
    if (cancelled) say("The upload was cancelled.");
    else say(error.title ?? error.message ?? "The connection was lost.", "bad");
  } finally {
    // Also after a failure: nobody needs the token any more.
    if (token) await ask("session/done", { token, videoId: cancelled ? undefined : video?.videoId }).catch(() => {});
    at("current").hidden = true;
    at("cancel").onclick = null;
    input.disabled = false;
    input.value = "";
    await list().catch((error) => say(error.message, "bad"));
  }
}

input.addEventListener("change", () => input.files[0] && upload(input.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    const file = kind === "drop" && event.dataTransfer.files[0];
    if (file && !input.disabled) upload(file);
  });
}
await list().catch((error) => say(error.message, "bad"));
