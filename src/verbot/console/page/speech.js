"use strict";
// The microphone as 16-bit samples at 16 kHz over the page's websocket: while a key is held, or hands free, where the server finds
// the pauses. What was heard is shown before it is obeyed.

const SAMPLES_HZ = 16000, LONGEST_MS = 14000, EDITING_MS = 4000;
const LISTENS = "Listening all the time. Say an instruction; “do it” obeys what stands here, “stop” stops.";
let audio = null, talking = false, started = false, timer = 0, free = false, edited = -EDITING_MS;

async function openMicrophone() {
  if (!navigator.mediaDevices) throw new Error("a browser gives the microphone to pages of this machine, or with TLS, only");
  const stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1, echoCancellation: false}});
  const context = new AudioContext({sampleRate: SAMPLES_HZ});
  await context.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(context, "microphone", {numberOfOutputs: 0});
  node.port.onmessage = (event) => { if (talking || free) sendSamples(event.data); };
  context.createMediaStreamSource(stream).connect(node);
  return {context, stream, node};
}

function sendSamples(samples) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return;
  const words = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((value, i) => words.setInt16(2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  socket.send(words.buffer);
}

function unmute(on) { if (audio) audio.stream.getTracks().forEach((track) => { track.enabled = on; }); }

function closeMicrophone() {  // the browser shows that nothing is heard any more
  if (!audio) return;
  audio.stream.getTracks().forEach((track) => track.stop());
  audio.context.close();
  audio = null;
}

async function begin() {  // whether there is a microphone
  at("error").textContent = "";
  try {
    audio = audio || await openMicrophone();
    await audio.context.resume();
    unmute(true);
    return true;
  } catch (error) {
    at("error").textContent = `There is no microphone: ${error.message}.`;
    return false;
  }
}

async function listen(on) {
  if (on === free || (on && (!drives || talking))) return;
  if (!on) {
    send({type: "listen", on: false});
    endFree("Hands free is off: the microphone is closed.");
    return;
  }
  free = true;
  showFree();
  at("heard").textContent = "Preparing to listen.";
  const opened = await begin();
  if (!opened) endFree("");
  else if (!free) closeMicrophone();  // it was switched off while the browser asked
  else if (drives) send({type: "listen", on: true});  // the server says when it listens
}

function listening(on) {
  if (on) at("heard").textContent = LISTENS;
  else endFree("Hands free is off.");
}

function endFree(text) {
  if (!free) return;
  free = false;
  closeMicrophone();
  showFree();
  at("heard").textContent = text;
}

function showFree() {
  at("free").setAttribute("aria-pressed", String(free));
  at("free").textContent = free ? "Hands free: on" : "Hands free";
  if (!free) at("free").classList.remove("hearing");
  at("talk").disabled = free || !drives;
}

async function talk(on) {
  if (on === talking || (on && (!drives || free))) return;
  talking = on;
  clearTimeout(timer);
  at("talk").setAttribute("aria-pressed", String(on));
  at("talk").textContent = on ? "Listening" : "Hold to talk";
  if (!on) {
    unmute(false);
    if (started && send({type: "talk", on: false})) at("heard").textContent = "Recognizing what you said.";
    started = false;
    return;
  }
  if (!await begin()) {
    talking = false;
    at("talk").setAttribute("aria-pressed", "false");
    at("talk").textContent = "Hold to talk";
    return;
  }
  if (!talking) return;  // it was let go while the browser asked
  started = send({type: "talk", on: true});
  timer = setTimeout(() => talk(false), LONGEST_MS);
}

function heard(message) {
  const said = `Heard “${message.heard.replace(/[.\s]+$/, "")}”`, editing = document.activeElement === at("text") && performance.now() - edited < EDITING_MS;
  if (message.command === "stop" && !message.text) { at("heard").textContent = `${said}: the robot is held.`; return; }
  if (message.command === "obey") {
    const wanted = at("text").value.trim();
    if (!editing) at("text").blur();
    obey(false, false);
    at("heard").textContent = wanted ? `${said}.` : `${said}, but there is no instruction yet.`;
    return;
  }
  if (!message.text) { at("heard").textContent = free ? LISTENS : "Nothing was understood."; return; }
  if (free && editing) { at("heard").textContent = `${said}; your text stays while you type.`; return; }
  at("text").value = message.text;
  // Hands free takes no focus away, and none while the robot moves: Space stops it outside the text field.
  if (!free || (document.activeElement === document.body && state && state.phase !== "moving")) at("text").focus();
  preview();
  at("heard").textContent = `${said}. Correct it, or ${free ? "say “do it”, or press Enter" : "Enter obeys"}.`;
}

at("free").addEventListener("click", () => listen(!free));
at("talk").addEventListener("pointerdown", (event) => { at("talk").setPointerCapture(event.pointerId); talk(true); });
for (const kind of ["pointerup", "pointercancel"]) at("talk").addEventListener(kind, () => talk(false));
at("talk").addEventListener("click", (event) => { if (event.detail === 0) talk(!talking); });  // by the keyboard: on and off
