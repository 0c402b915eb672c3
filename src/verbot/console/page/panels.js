"use strict";
// Pictures, choices, numbers, history and reports.

let drag = null;

function showViews(images, heat) {
  for (const [name, data] of Object.entries(images)) {
    if (!data.startsWith("data:image/jpeg;base64,")) continue;
    const frame = document.getElementById("camera-" + name) || newView(name);
    frame.querySelector("img.camera").src = data;
    const layer = frame.querySelector("img.heat"), map = (heat || {})[name];
    layer.hidden = !map;
    if (map && map.startsWith("data:image/png;base64,")) layer.src = map;
  }
}

function newView(name) {
  const figure = document.createElement("figure"), frame = document.createElement("div"), image = document.createElement("img");
  const layer = document.createElement("img"), caption = document.createElement("figcaption");
  frame.id = "camera-" + name;
  frame.className = "frame";
  image.className = "camera";
  image.draggable = false;
  image.alt = `What the camera ${name} shows`;
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
  layer.className = "heat";
  layer.alt = "";
  layer.hidden = true;
  caption.textContent = name;
  frame.append(image, layer);
  figure.append(frame, caption);
  at("views").append(figure);
  frame.addEventListener("pointerdown", (event) => grab(frame, name, event));
  if (about) showDrag();
  return frame;
}

// A person moves an object: from where the pointer went down to where it goes up.
function grab(frame, name, event) {
  if (!drives || event.button !== 0 || !frame.classList.contains("movable")) return;
  const dot = document.createElement("div");
  dot.className = "dot";
  frame.append(dot);
  frame.setPointerCapture(event.pointerId);
  drag = {start: place(frame, event)};
  const mark = (moved) => { const [x, y] = place(frame, moved); dot.style.left = `${100 * x}%`; dot.style.top = `${100 * y}%`; };
  const drop = (moved) => {
    frame.onpointermove = frame.onpointerup = frame.onpointercancel = null;
    dot.remove();
    const end = place(frame, moved);
    const far = Math.hypot(end[0] - drag.start[0], end[1] - drag.start[1]);
    if (moved.type === "pointerup" && far > 0.02) { at("error").textContent = ""; send({type: "move", camera: name, start: drag.start, end}); }
    drag = null;
  };
  mark(event);
  frame.onpointermove = mark;
  frame.onpointerup = frame.onpointercancel = drop;
}

function place(frame, event) {
  const box = frame.getBoundingClientRect(), inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
}

function pairs(list, entries) {
  list.textContent = "";
  for (const [name, value] of entries) {
    list.append(Object.assign(document.createElement("dt"), {textContent: name}), Object.assign(document.createElement("dd"), {textContent: value}));
  }
}

function lines(list, texts) {
  const wanted = texts.join("\n");
  if (list.dataset.shown === wanted) return;
  list.dataset.shown = wanted;
  list.textContent = "";
  for (const text of texts) list.append(Object.assign(document.createElement("li"), {textContent: text}));
}

function showNumbers() {
  const latency = state.latency_ms, rate = state.rate_hz;
  pairs(at("numbers"), [
    ["time", `${state.seconds.toFixed(1)} s`],
    ["rate", rate === null ? `${hello.rate_hz.toFixed(0)} Hz when it moves` : `${rate.toFixed(1)} of ${hello.rate_hz.toFixed(0)} Hz, ${state.late} late`],
    ["prediction", latency === null ? "none yet" : `${latency[0].toFixed(0)} ms, 95 % within ${latency[1].toFixed(0)} ms`],
    ["judged goal", state.goal || "none"],
    ...(state.disturbed ? [["disturbed", "by you"]] : []),
    ["pages", String(state.pages)],
  ]);
  lines(at("narration"), state.narration);
  at("guard").hidden = state.events.length === 0;
  at("guard-count").textContent = state.events.length ? `(${state.events.length})` : "";
  lines(at("events"), [...state.events].reverse());
}

// Choices.

function fillChoices() {
  for (const id of ["choose", "axes", "examples"]) at(id).dataset.shown = "";
  at("policies").textContent = "";
  for (const name of hello.policies) at("policies").append(Object.assign(document.createElement("option"), {value: name}));
  at("suite").textContent = "";
  for (const name of hello.suites) at("suite").append(new Option(name, name));
}

function fillAxes(chosen) {
  const wanted = at("suite").value === about.suite ? about.known_axes : [];
  at("axes").textContent = wanted.length ? "" : at("suite").value === about.suite ? "This suite has none." : "Open the suite first.";
  for (const name of wanted) {
    const label = document.createElement("label"), select = document.createElement("select");
    select.dataset.axis = name;
    for (const strength of [0, 1, 2, 3]) select.append(new Option(strength ? String(strength) : "off", strength));
    select.value = String((chosen || {})[name] || 0);
    label.append(name.replaceAll("_", " "), select);
    at("axes").append(label);
  }
}

function fillTasks(chosen) {
  const tasks = at("suite").value === about.suite ? about.tasks : [];
  at("task").textContent = "";
  at("task").append(new Option("any", ""), ...tasks.map((name) => new Option(name.replaceAll("_", " "), name)));
  at("task").value = chosen;
}

function showDrag() {
  for (const frame of at("views").querySelectorAll(".frame")) {
    frame.classList.toggle("movable", drives && about.drag.cameras.includes(frame.id.replace("camera-", "")));
  }
  const {objects, cameras} = about.drag;
  at("drag").textContent = cameras.length && objects.length ? `Drag to disturb: ${objects.join(", ")} (camera ${cameras.join(", ")}).` : "";
}

function showAbout() {
  showDrag();
  at("place").textContent = hello.is_real ? hello.robot : `${about.policy} · ${about.suite} · scene ${about.scene}`;
  const opened = JSON.stringify([about.policy, about.suite, about.scene, about.task]);
  if (at("choose").dataset.shown !== opened) {  // what a person is about to choose stays while other news come
    at("choose").dataset.shown = opened;
    at("policy").value = about.policy;
    at("suite").value = about.suite;
    at("scene").value = about.scene;
    fillTasks(about.task);
  }
  const set = JSON.stringify([about.suite, about.axes]);
  if (at("axes").dataset.shown !== set) { at("axes").dataset.shown = set; fillAxes(about.axes); }
  const shown = about.examples.join("\n");
  if (at("examples").dataset.shown === shown) return;
  at("examples").dataset.shown = shown;
  at("examples").textContent = "";
  for (const text of about.examples) {
    const button = Object.assign(document.createElement("button"), {type: "button", textContent: text});
    button.addEventListener("click", () => { at("text").value = text; preview(); at("text").focus(); });
    at("examples").append(button);
  }
  preview();  // another scene may have no such goal
}

function choose(scene) {
  const axes = {};
  for (const select of at("axes").querySelectorAll("select")) if (select.value !== "0") axes[select.dataset.axis] = Number(select.value);
  at("error").textContent = "";
  send({type: "choose", policy: at("policy").value.trim(), suite: at("suite").value, scene, task: at("task").value, axes});
}

at("suite").addEventListener("change", () => { at("axes").dataset.shown = ""; fillAxes({}); fillTasks(""); });
at("choose").addEventListener("submit", (event) => { event.preventDefault(); choose(Number(at("scene").value)); });
at("next").addEventListener("click", () => choose(about.scene + 1));

// What was.

function showHistory(episodes) {
  at("count").textContent = episodes.length ? `(${episodes.length})` : "";
  at("history").textContent = "";
  for (const episode of episodes) {
    const item = document.createElement("li"), button = Object.assign(document.createElement("button"), {type: "button", textContent: "Replay"});
    item.value = episode.number;
    button.disabled = !episode.video;
    button.setAttribute("aria-label", `Replay episode ${episode.number}: ${episode.instruction}`);
    button.addEventListener("click", () => replay(episode));
    const more = [episode.judgement, `${episode.seconds} s`, ...(episode.disturbed ? ["disturbed"] : [])].join(", ");
    item.append(`${episode.instruction} — ${more} `, button);
    at("history").append(item);
  }
}

async function replay(episode) {
  const answer = await fetch(`history/${episode.number}.mp4`);
  if (!answer.ok) { at("error").textContent = "That episode is no longer kept."; return; }
  const video = at("video");
  if (video.src) URL.revokeObjectURL(video.src);
  video.src = URL.createObjectURL(await answer.blob());
  at("replay-title").textContent = `${episode.number}: ${episode.instruction}`;
  at("replay").showModal();
  video.play().catch(() => {});
}
at("replay").addEventListener("close", () => at("video").pause());

async function loadOutputs() {
  const list = at("outputs");
  let answer = await fetch("outputs.json").catch(() => null);
  while (answer && answer.status === 202) {  // it is being made
    await new Promise((resolve) => setTimeout(resolve, 200));
    answer = await fetch("outputs.json").catch(() => null);
  }
  list.textContent = "";
  if (!answer || !answer.ok) return;
  const entries = await answer.json();
  for (const entry of entries) {
    const item = document.createElement("li"), link = document.createElement("a");
    link.href = hello.outputs + entry.path.split("/").map(encodeURIComponent).join("/");
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    link.textContent = `${entry.kind}: ${entry.path.split("/").slice(0, -1).join("/") || "."}`;
    item.append(link, ` ${entry.when}`);
    list.append(item);
  }
  if (!entries.length) list.append(Object.assign(document.createElement("li"), {textContent: "There is none yet."}));
}
at("refresh").addEventListener("click", loadOutputs);
