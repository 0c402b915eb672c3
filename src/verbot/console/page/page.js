"use strict";
// The connection, the instruction and the stop. Content from the server is set as text, never as markup.

const at = (id) => document.getElementById(id);
const STALE_MS = 2000, TYPING_MS = 250;
let socket = null, hello = null, about = null, state = null, drives = false, beat = -1, beaten = 0, framed = 0, typing = 0, waits = null;

function send(message) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

// The server holds a moving robot unless it hears this from the page that drives, once a second at least. Called from the animation,
// which stops with a page that is hidden or frozen. A page without the focus gets no keys, so for a real robot it is not alive.
function alive() {
  if (beat < 0 || !drives || document.visibilityState !== "visible" || (hello.is_real && !document.hasFocus())) return;
  beaten = performance.now();
  send({type: "alive", at: Math.floor(beaten), beat});
}

function animate() {
  const now = performance.now();
  if (now - beaten > 200) alive();
  if (socket && socket.readyState === WebSocket.OPEN && framed && now - framed > STALE_MS && waits === null) {
    lost(`No picture for ${Math.round((now - framed) / 1000)} s.`);
  }
  requestAnimationFrame(animate);
}

function lost(text) {
  at("lost").hidden = !text;
  if (at("lost").textContent !== text) at("lost").textContent = text;
}

function connect() {
  const base = location.pathname.endsWith("/") ? location.pathname : location.pathname + "/";
  socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + base + "socket");
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = (event) => {
    beat = -1;
    drives = false;
    waits = null;
    endFree("");
    showRole();
    badge("not connected", "");
    lost(event.code === 4000 ? "The session has ended. Trying whether there is a new one."
      : "The server does not answer: it was stopped, or the network fails. Trying again.");
    setTimeout(connect, event.code === 4000 ? 3000 : 1000);
  };
}

function receive(message) {
  switch (message.type) {
    case "hello": greet(message); break;
    case "role": drives = message.drives; beat = -1; if (!drives) endFree(""); showRole(); break;  // the next beat is the first for this page
    case "beat": beat = message.beat; alive(); break;
    case "state":
      framed = performance.now();
      waits = null;
      lost("");
      send({type: "seen", frame: message.frame});
      show(message);
      break;
    case "about": about = message.about; showAbout(); showHistory(message.history); break;
    case "preview": showPreview(message); break;
    case "stopped": at("message").textContent = "Stopped."; break;
    case "busy": waits = message.what; at("message").textContent = `Please wait: ${message.what}.`; break;
    case "heard": heard(message); break;
    case "listening": listening(message.on); break;
    case "hearing": at("free").classList.toggle("hearing", message.on); break;
    case "error": waits = null; at("error").textContent = message.message; break;
  }
}

function greet(message) {
  hello = message;
  lost("");
  framed = performance.now();
  at("views").textContent = "";
  at("talk").hidden = !hello.speech;
  at("free").hidden = !hello.hands_free;
  at("setup").hidden = hello.is_real;
  at("again").textContent = hello.is_real ? "Rest" : "Reset scene";
  fillChoices();
  at("reports").hidden = !hello.outputs;
  if (hello.outputs) loadOutputs();
}

function badge(text, kind) {
  at("phase").textContent = text;
  at("phase").className = "badge " + kind;
}

function showRole() {
  const open = socket && socket.readyState === WebSocket.OPEN;
  at("role").textContent = !open ? "" : drives ? "you drive" : "you watch";
  at("drive").hidden = !open || drives;
  if (about) showDrag();
  for (const id of ["obey", "again", "talk", "free", "open", "next", "anyway", "search"]) at(id).disabled = !drives;
  at("heat").disabled = !drives || !state || !state.has_heat;
}

function show(message) {
  state = message.state;
  showViews(message.images, message.heat);
  const kind = state.phase !== "ended" ? state.phase : state.outcome === "success" && state.judged ? "success"
    : state.judged ? "failure" : "";
  badge(kind === "success" || kind === "failure" ? kind : state.phase, kind);
  at("resume").disabled = !drives || state.phase !== "stopped";
  at("now").textContent = state.instruction ? `“${state.instruction}”` : "";
  if (at("message").textContent !== state.message) at("message").textContent = state.message;
  at("heat").disabled = !drives || !state.has_heat;
  at("heat").checked = state.heat;
  showNumbers();
}

// The instruction.

function preview() {
  const text = at("text").value.trim();
  at("heard").textContent = "";
  at("ask").hidden = true;
  at("preview").textContent = "";
  at("preview").className = "";
  if (text && drives) send({type: "preview", text});
}

function obey(anyway, search) {
  const text = at("text").value.trim();
  at("error").textContent = at("heard").textContent = "";
  clearTimeout(typing);
  if (text) { alive(); send({type: "obey", text, anyway, search}); }
}

function showPreview(message) {
  if (message.text !== at("text").value.trim()) return;
  const known = message.goal !== "";
  at("preview").textContent = known ? `Understood: ${message.goal}.`
    : message.asks ? `${message.elsewhere ? "Not in this scene" : "Not understood"}: ${message.problem}.` : `${message.problem[0].toUpperCase()}${message.problem.slice(1)}.`;
  at("preview").className = known ? "known" : message.asks ? "unknown" : "";
  at("ask").hidden = !message.asks || message.obeyed === true;
  at("search").hidden = !message.elsewhere;
  if (message.obeyed === false) (message.elsewhere ? at("search") : at("anyway")).focus();
  if (message.obeyed === true && document.activeElement === at("text")) at("text").select();  // it takes no focus: Space stops
}

function stop() {
  alive();
  const sent = send({type: "stop"});
  at("message").textContent = sent ? "Stopping." : "There is no connection: the server holds the robot by itself.";
}

at("words").addEventListener("submit", (event) => { event.preventDefault(); obey(false, false); });
at("anyway").addEventListener("click", () => obey(true, false));
at("search").addEventListener("click", () => obey(false, true));
at("text").addEventListener("input", () => { edited = performance.now(); clearTimeout(typing); typing = setTimeout(preview, TYPING_MS); });
at("stop").addEventListener("pointerdown", stop);  // before the button is released
at("stop").addEventListener("click", (event) => { if (event.detail === 0) stop(); });  // by the keyboard or a screen reader
at("resume").addEventListener("click", () => { alive(); send({type: "resume"}); });
at("again").addEventListener("click", () => { at("error").textContent = ""; send({type: "again"}); });
at("drive").addEventListener("click", () => send({type: "drive"}));
at("heat").addEventListener("change", () => send({type: "heat", on: at("heat").checked}));

const isText = (element) => element instanceof HTMLInputElement ? !["checkbox", "button"].includes(element.type)
  : element instanceof HTMLTextAreaElement || element instanceof HTMLSelectElement;

document.addEventListener("keydown", (event) => {
  if (event.code === "Escape") {
    if (at("replay").open && state && state.phase !== "moving") return;
    event.preventDefault();
    stop();
    return;
  }
  if (isText(event.target) || event.ctrlKey || event.metaKey || event.altKey || at("replay").open) return;
  const moving = state && state.phase === "moving";
  if (event.code === "Space" && (moving || event.target === document.body)) {
    event.preventDefault();
    if (!event.repeat) stop();
  } else if (event.repeat) {
    if (event.code === "KeyM") event.preventDefault();
  } else if (event.code === "KeyT") {
    event.preventDefault();
    at("text").focus();
    at("text").select();
  } else if (event.code === "KeyM" && hello && hello.speech) {
    event.preventDefault();
    talk(true);
  } else if (event.code === "KeyH" && hello && hello.hands_free) {
    event.preventDefault();
    listen(!free);
  } else if (event.code === "KeyG" && !at("resume").disabled) {
    at("resume").click();
  }
}, true);
document.addEventListener("keyup", (event) => { if (event.code === "KeyM") talk(false); });
window.addEventListener("blur", () => talk(false));
window.addEventListener("load", () => { connect(); requestAnimationFrame(animate); });  // with the other scripts there
