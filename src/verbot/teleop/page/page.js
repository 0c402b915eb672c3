"use strict";
// Sends keys and gamepad states, and shows the server's state. Content from the server is set as text, never as markup.

const at = (id) => document.getElementById(id);
const MOVES = ["KeyW", "KeyS", "KeyA", "KeyD", "KeyR", "KeyF", "KeyQ", "KeyE", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown",
  "Digit1", "Digit2", "Digit3", "Digit4", "Digit5", "Digit6", "Digit7", "Digit8", "Digit9"];
const COMMANDS = ["Space", "KeyC", "KeyV", "Enter", "KeyK", "Backspace", "KeyX", "KeyN", "KeyG", "KeyH", "Escape"];
const HELP = {
  teleop: [
    ["W S", "away from you (“backward”), toward you (“forward”)"], ["A D", "left, right"], ["R F", "up, down"],
    ["Q E", "turn the gripper"], ["arrows", "tilt the gripper"], ["1 … 9", "choose a discrete action", "discrete"],
    ["Space", "close or open the gripper", "gripper"], ["V", "drive the next end effector", "end_effectors"],
    ["C", "speed: fine, normal, fast"],
    ["Enter", "end the episode; then: save it"], ["Backspace", "repeat the scene"],
    ["X", "discard, next scene"], ["K", "keep a failure"], ["N", "next scene"], ["G", "another goal of this scene"],
    ["H", "hand back to the policy", "corrects"], ["T", "type a sentence"], ["Esc", "quit"],
  ],
  drive: [
    ["W S", "away from you, toward you"], ["A D", "left, right"], ["R F", "up, down"], ["Q E", "turn the gripper"],
    ["arrows", "tilt the gripper"], ["1 … 9", "choose a discrete action", "discrete"],
    ["Space", "close or open the gripper", "gripper"], ["V", "drive the next end effector", "end_effectors"],
    ["C", "speed: fine, normal, fast"], ["Enter", "let the robot rest; begin with a leader arm"], ["Esc", "quit"],
  ],
  annotate: [
    ["N", "next episode"], ["Backspace", "previous episode"], ["Space", "pause"], ["C", "speed"], ["T", "type a sentence"],
    ["Esc", "quit"],
  ],
};
const PAD = "Gamepad: left stick moves, right stick up/down and turn, D-pad tilts, A gripper, B repeat, X discard, Y next scene, " +
  "LB speed, RB hand back, RT other end effector, Back another goal, Start end or save.";
let socket = null, hello = null, pads = "", beat = -1, beaten = 0;

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function release() {
  pads = "";
  send({type: "release"});
}

// The dead-man's switch: the server releases all keys and sticks unless it hears this from a visible page in focus every 0.3 s.
// Called from the animation, which stops with the page, and before each key. The latest beat dates the page's clock.
function alive() {
  if (beat < 0 || document.visibilityState !== "visible" || !document.hasFocus()) return;
  beaten = performance.now();
  send({type: "alive", at: Math.floor(beaten), beat});
}

function connect() {
  const base = location.pathname.endsWith("/") ? location.pathname : location.pathname + "/";
  socket = new WebSocket("ws://" + location.host + base + "socket");
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "hello") greet(message);
    else if (message.type === "beat") { beat = message.beat; alive(); }
    else if (message.type === "error") at("error").textContent = message.message;
    else if (message.type === "state") { show(message.state); send({type: "seen", frame: message.frame}); }
  };
  socket.onclose = (event) => {
    beat = -1;
    badge("not connected", "");
    if (event.code === 4000) at("message").textContent = "The session has ended; you can close this page.";
    else if (event.code === 4001) at("message").textContent = "Another page took over.";
    else { at("message").textContent = "Connection lost; reconnecting."; setTimeout(connect, 1000); }
  };
}

function greet(message) {
  hello = message;
  document.title = "verbot: " + hello.mode;
  const table = at("keys");
  table.textContent = "";
  for (const [key, meaning, condition] of HELP[hello.mode]) {
    const shown = condition === "corrects" ? hello.corrects : condition === "end_effectors" ? hello.end_effectors.length > 1
      : !condition || hello.kinds.includes(condition);
    if (!shown) continue;
    const row = table.insertRow();
    row.insertCell().textContent = key;
    row.insertCell().textContent = meaning;
  }
  at("pad").textContent = hello.gamepad ? PAD : "";
  at("views").textContent = "";
  pads = "";
  for (const name of hello.cameras) {
    const figure = document.createElement("figure"), image = document.createElement("img"), caption = document.createElement("figcaption");
    image.id = "camera-" + name;
    image.alt = caption.textContent = name;
    image.onload = () => image.classList.toggle("small", image.naturalWidth <= 128);
    figure.append(image, caption);
    at("views").append(figure);
  }
}

function badge(text, kind) {
  at("phase").textContent = text;
  at("phase").className = "badge " + kind;
}

function show(state) {
  for (const [name, data] of Object.entries(state.images)) {
    const image = at("camera-" + name);
    if (image && data.startsWith("data:image/jpeg;base64,")) image.src = data;
  }
  badge(state.success && state.phase === "review" ? "success" : state.phase, state.success && state.phase === "review" ? "good" : state.phase);
  at("instruction").textContent = state.instruction;
  const list = at("added");
  list.textContent = "";
  for (const sentence of state.added) list.appendChild(document.createElement("li")).textContent = sentence;
  at("message").textContent = state.message;
  if (hello.mode !== "annotate") {
    at("driver").textContent = `${state.driver === "nobody" ? "" : state.driver + " drive" + (state.driver === "you" ? "" : "s") + " · "}` +
      `${state.seconds.toFixed(1)} s · ${hello.end_effectors.length > 1 ? state.end_effector + " " : ""}gripper ${state.gripper} · speed ${state.speed}`;
    if (hello.mode === "teleop") at("count").textContent = `scene ${state.scene} · saved ${state.saved}${state.wanted === null ? "" : " of " + state.wanted}`;
  } else {
    at("driver").textContent = `${state.seconds.toFixed(1)} s · speed ${state.speed}`;
    at("count").textContent = `episode ${state.episode} of ${state.episodes} · annotated ${state.annotated}`;
  }
}

document.addEventListener("keydown", (event) => {
  if (event.target === at("text")) {
    if (event.code === "Escape") at("text").blur();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.tagName === "BUTTON" && (event.code === "Enter" || event.code === "Space")) return;
  if (event.code === "KeyT") { event.preventDefault(); release(); at("text").focus(); return; }
  if (!MOVES.includes(event.code) && !COMMANDS.includes(event.code)) return;
  event.preventDefault();
  if (!event.repeat) { at("error").textContent = ""; alive(); send({type: "key", code: event.code, down: true}); }
});
document.addEventListener("keyup", (event) => {
  if (event.target !== at("text") && MOVES.includes(event.code)) send({type: "key", code: event.code, down: false});
});
window.addEventListener("blur", release);
document.addEventListener("visibilitychange", () => { if (document.hidden) release(); });

function say(add) {
  const text = at("text").value.trim();
  if (text) send({type: "say", text, add});
  at("text").value = "";
  at("text").blur();
}
at("words").addEventListener("submit", (event) => { event.preventDefault(); say(false); });
at("add").addEventListener("click", () => { say(true); at("add").blur(); });
at("say").addEventListener("click", () => at("say").blur());

// Browsers send no events for gamepad sticks, so they are polled with every animation frame.
function poll() {
  if (performance.now() - beaten > 95) alive();
  const pad = hello && hello.gamepad && !document.hidden ? [...navigator.getGamepads()].find((p) => p && p.mapping === "standard") : null;
  if (pad) {
    const state = {
      type: "pad",
      axes: pad.axes.slice(0, 4).map((v) => Math.round(v * 1000) / 1000),
      buttons: pad.buttons.slice(0, 17).map((b) => Math.round(b.value * 1000) / 1000),
    };
    const text = JSON.stringify(state);
    if (text !== pads) { pads = text; send(state); }
  } else if (pads) release();
  requestAnimationFrame(poll);
}
connect();
requestAnimationFrame(poll);
