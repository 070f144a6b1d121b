// The page of `mien serve`: send a video, follow its job, show the timeline under the player.
"use strict";

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f"];
const HEIGHT = 176, LEFT = 34, TOP = 10, BOTTOM = 24, LANE = 22;
const $ = (id) => document.getElementById(id);
const state = { job: null, upload: null, timeline: null, events: null, seconds: 1, url: null, model: null, at: 0, width: 1000, columns: [] };

function headers() {
  const token = sessionStorage.getItem("mien-token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (answer.status === 401) { $("token-form").hidden = false; $("token").focus(); }
  if (!answer.ok) throw new Error(await reason(answer));
  return answer;
}

async function reason(answer) {
  try { return String((await answer.json()).detail); } catch { return `The service answered ${answer.status}.`; }
}

function problem(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

async function describe() {
  try {
    const model = await (await ask("v1/model")).json();
    state.model = model;
    $("title").textContent = model.target;
    $("subtitle").textContent = `Expression ${model.annotated_by}; predicted by ${model.label}.`;
    const mb = Math.round(model.max_upload_bytes / 1e6).toLocaleString("en");
    $("limits").textContent = `Up to ${mb} MB and ${Math.round(model.max_duration_s / 60)} minutes. The video is deleted ` +
      `when it is predicted, the results ${Math.round(model.keep_s / 60)} minutes later.`;
    $("use").textContent = `Intended use: ${model.intended_use} Not for: ${model.prohibited_use}`;
    $("token-form").hidden = true;
    problem("");
  } catch (error) { $("subtitle").textContent = ""; problem(error.message); }
}

function show(name) {
  for (const id of ["drop", "work", "result"]) $(id).hidden = id !== name && !(id === "drop" && name === "result");
}

function send(file) {
  problem("");
  forget();
  state.file = file;
  show("work");
  $("work-title").textContent = file.name;
  tell("Sending", 0, 1);
  const request = new XMLHttpRequest();
  state.upload = request;
  request.open("POST", `v1/jobs?name=${encodeURIComponent(file.name)}`);
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  request.setRequestHeader("Content-Type", "application/octet-stream");
  request.upload.onprogress = (event) => tell("Sending", event.loaded, event.total);
  request.onerror = () => fail("The service can't be reached, or it ended the upload.");
  request.onload = () => {
    state.upload = null;
    let answer = {};
    try { answer = JSON.parse(request.responseText); } catch { /* said below */ }
    if (request.status !== 202) return fail(answer.detail ? String(answer.detail) : `The service answered ${request.status}.`);
    state.job = answer.job_id;
    follow(answer.job_id).catch((error) => fail(error.message));
  };
  request.send(file);
}

function tell(what, done, total) {
  const bar = $("bar");
  if (total > 0) { bar.max = total; bar.value = Math.min(done, total); } else bar.removeAttribute("value");
  $("state").textContent = total > 1 ? `${what}: ${Math.round((100 * Math.min(done, total)) / total)} %` : what;
}

function fail(text) {
  show("drop");
  problem(text);
  $("file").focus();
}

async function follow(job) {
  const answer = await ask(`v1/jobs/${job}/progress`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "", last = null;
  for (;;) {
    // A connection that breaks says nothing of the job, which is asked for below.
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done || state.job !== job) break;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts.filter((each) => each.startsWith("data: "))) { last = JSON.parse(part.slice("data: ".length)); followed(last); }
  }
  if (state.job !== job) return;
  last = await (await ask(`v1/jobs/${job}`)).json();
  if (last.state === "done") await results(job, last);
  else if (last.state === "failed" || last.state === "cancelled") fail(last.reason || "The job failed.");
  else {
    await new Promise((go) => setTimeout(go, 500));
    if (state.job === job) await follow(job);
  }
}

function followed(job) {
  if (job.state === "queued") tell(job.position ? `Waiting behind ${job.position} other videos` : "Waiting", 0, 0);
  if (job.state === "running") tell(job.what || "Predicting", job.done, job.total);
}

async function results(job, facts) {
  const [timeline, events] = await Promise.all(["timeline", "events"].map(async (kind) =>
    (await ask(`v1/jobs/${job}/${kind}`)).json()));
  state.timeline = records(timeline);
  state.events = records(events);
  state.seconds = state.timeline.reduce((end, row) => Math.max(end, row.end_s), 1e-3);
  const columns = timeline.columns.filter((name) => /^(prob|value)_/.test(name));
  $("result-title").textContent = `${facts.name}: ${facts.frames} frames, a face in ${facts.faces}`;
  play(state.file);
  list(events.columns.length > 0);
  state.columns = columns;
  state.at = 0;
  show("result");
  draw();  // as wide as it is shown
  $("result").scrollIntoView({ block: "start" });
  $("timeline").focus({ preventScroll: true });
}

function records(table) {
  return table.rows.map((row) => Object.fromEntries(table.columns.map((name, index) => [name, row[index]])));
}

function play(file) {
  const player = $("player");
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(file);
  player.hidden = false;
  $("no-player").hidden = true;
  player.onerror = () => { player.hidden = true; $("no-player").hidden = false; };
  player.ontimeupdate = () => moved(player.currentTime);
  player.src = state.url;
}

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

const x = (seconds) => LEFT + ((state.width - LEFT - 8) * seconds) / state.seconds;

function draw() {
  const columns = state.columns;
  state.width = Math.max(240, $("timeline").clientWidth);
  const numbers = columns.some((name) => name.startsWith("value_"));
  const values = state.timeline.flatMap((row) => columns.map((name) => row[name])).filter((value) => value !== null);
  const low = numbers && values.length ? values.reduce((least, value) => Math.min(least, value)) : 0;
  const high = numbers && values.length ? values.reduce((most, value) => Math.max(most, value)) : 1;
  const floor = HEIGHT - BOTTOM - LANE;
  const y = (value) => floor - ((floor - TOP) * (value - low)) / (high - low || 1);
  const picture = svg("svg", { viewBox: `0 0 ${state.width} ${HEIGHT}`, "aria-hidden": "true" });
  for (const value of [low, (low + high) / 2, high]) {
    picture.append(svg("line", { class: "grid", x1: LEFT, x2: state.width - 8, y1: y(value), y2: y(value) }));
    picture.append(svg("text", { x: 2, y: y(value) + 4 }, Number(value.toFixed(2)).toString()));
  }
  const step = [0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600].find((each) => state.seconds / each <= state.width / 80) || 7200;
  for (let at = 0; at <= state.seconds; at += step) {
    const anchor = x(at) > state.width - 40 ? "end" : "start";  // the last one isn't cut off
    picture.append(svg("text", { x: anchor === "end" ? state.width - 2 : x(at), y: HEIGHT - 6, "text-anchor": anchor }, clock(at)));
  }
  for (const row of state.timeline) {
    if (!row.abstained && columns.some((name) => row[name] !== null)) continue;
    picture.append(svg("rect", { class: "gap", x: x(row.start_s), y: TOP, width: x(row.end_s) - x(row.start_s), height: floor - TOP }));
  }
  columns.forEach((name, index) => {
    let path = "", open = false;
    for (const row of state.timeline) {
      if (row[name] === null) { open = false; continue; }
      path += `${open ? "L" : "M"}${x(row.start_s).toFixed(1)} ${y(row[name]).toFixed(1)}L${x(row.end_s).toFixed(1)} ${y(row[name]).toFixed(1)}`;
      open = true;
    }
    picture.append(svg("path", { d: path, fill: "none", stroke: colour(index), "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
  });
  const labels = [...new Set(state.events.map((row) => row.label))];
  for (const row of state.events) {
    const width = Math.max(2, x(row.offset_s) - x(row.onset_s));
    const index = Math.max(0, columns.findIndex((name) => name.replace(/^(prob|value)_/, "") === row.label));
    picture.append(svg("rect", { class: "event", x: x(row.onset_s), y: floor + 6, width, height: LANE - 8, fill: colour(index) }));
  }
  picture.append(svg("line", { class: "head", id: "head", x1: LEFT, x2: LEFT, y1: 2, y2: HEIGHT - BOTTOM + 4, "vector-effect": "non-scaling-stroke" }));
  $("timeline").replaceChildren(picture);
  const legend = columns.map((name, index) => {
    const part = document.createElement("span"), swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour(index);
    part.append(swatch, `${name.replace(/^(prob|value)_/, "")}`);
    part.className = "entry";
    return part;
  });
  $("legend").replaceChildren(...legend, labels.length ? "Bars below: events.   " : "", "Grey: nothing is said, or it doesn't count: no face, or one that is seen badly.");
  $("timeline").setAttribute("aria-valuemax", state.seconds.toFixed(2));
  moved(state.at);
}

const colour = (index) => COLOURS[index % COLOURS.length];

function clock(seconds) {
  const whole = Math.floor(seconds / 60), rest = seconds - 60 * whole;
  return `${whole}:${rest < 9.95 ? "0" : ""}${Number.isInteger(seconds) ? rest : rest.toFixed(1)}`;
}

function moved(seconds) {
  state.at = seconds;
  const head = $("head");
  if (!head) return;
  head.setAttribute("x1", x(seconds));
  head.setAttribute("x2", x(seconds));
  const slider = $("timeline");
  slider.setAttribute("aria-valuenow", seconds.toFixed(2));
  slider.setAttribute("aria-valuetext", `${clock(Math.round(seconds * 10) / 10)} of ${clock(Math.round(state.seconds))}`);
}

function jump(seconds) {
  const to = Math.min(state.seconds, Math.max(0, seconds));
  moved(to);
  if (!$("player").hidden) $("player").currentTime = to;
}

function list(tuned) {
  const rows = state.events.map((event) => {
    const row = document.createElement("tr"), go = document.createElement("button");
    go.type = "button";
    go.textContent = clock(Math.round(event.onset_s * 100) / 100);
    go.setAttribute("aria-label", `Jump to ${event.label} at ${event.onset_s.toFixed(2)} seconds`);
    go.onclick = () => jump(event.onset_s);
    const edges = event.onset_low_s == null ? "" :
      `±${(Math.max(event.onset_high_s - event.onset_low_s, event.offset_high_s - event.offset_low_s) / 2).toFixed(2)} s`;
    const cells = [go, clock(Math.round(event.offset_s * 100) / 100), event.label, Number(event.confidence).toFixed(2), edges];
    row.append(...cells.map((content) => { const cell = document.createElement("td"); cell.append(content); return cell; }));
    return row;
  });
  document.querySelector("#events tbody").replaceChildren(...rows);
  $("events").hidden = !rows.length;
  $("no-events").hidden = rows.length > 0;
  $("no-events").textContent = tuned ? "No event was found." :
    `This model places no events: it samples ${state.model ? state.model.fps : "too few"} per second.`;
  document.querySelector('[data-kind="events"]').hidden = !tuned;
}

async function download(kind) {
  try {
    const answer = await ask(`v1/jobs/${state.job}/${kind}${kind === "page" ? "" : "?format=csv"}`);
    const name = /filename(?:\*=utf-8''|="?)([^";]+)/i.exec(answer.headers.get("content-disposition") || "");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = name ? decodeURIComponent(name[1]) : `${kind}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } catch (error) { problem(error.message); }
}

function forget() {
  const job = state.job;
  state.job = null;
  if (state.upload) { state.upload.abort(); state.upload = null; }
  if (job) ask(`v1/jobs/${job}`, { method: "DELETE" }).catch(() => {});
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("mien-token", $("token").value);
  describe();
});
$("file").addEventListener("change", () => { if ($("file").files.length) send($("file").files[0]); $("file").value = ""; });
$("cancel").addEventListener("click", () => { forget(); show("drop"); $("file").focus(); });
$("delete").addEventListener("click", () => { forget(); $("player").removeAttribute("src"); show("drop"); $("file").focus(); });
for (const button of document.querySelectorAll("[data-kind]")) button.addEventListener("click", () => download(button.dataset.kind));
for (const kind of ["dragenter", "dragover"]) $("drop").addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.add("over"); });
for (const kind of ["dragleave", "drop"]) $("drop").addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.remove("over"); });
$("drop").addEventListener("drop", (event) => { if (event.dataTransfer.files.length) send(event.dataTransfer.files[0]); });
$("timeline").addEventListener("click", (event) => {
  const box = $("timeline").getBoundingClientRect();
  jump(((((event.clientX - box.left) / box.width) * state.width - LEFT) / (state.width - LEFT - 8)) * state.seconds);
});
$("timeline").addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
  if (event.key in steps) jump(state.at + steps[event.key]);
  else if (event.key === "Home") jump(0);
  else if (event.key === "End") jump(state.seconds);
  else return;
  event.preventDefault();
});
new ResizeObserver(() => {
  if (state.timeline && !$("result").hidden && $("timeline").clientWidth !== state.width) draw();
}).observe($("timeline"));
describe();
