"use strict";
// Push to talk: the microphone as 16-bit samples at 16 kHz over the page's websocket. What was heard is shown before it is obeyed.

const SAMPLES_HZ = 16000, LONGEST_MS = 14000;
let audio = null, talking = false, started = false, timer = 0;

async function openMicrophone() {
  if (!navigator.mediaDevices) throw new Error("a browser gives the microphone to pages of this machine, or with TLS, only");
  const stream = await navigator.mediaDevices.getUserMedia({audio: {channelCount: 1, echoCancellation: false}});
  const context = new AudioContext({sampleRate: SAMPLES_HZ});
  await context.audioWorklet.addModule("microphone.js");
  const node = new AudioWorkletNode(context, "microphone", {numberOfOutputs: 0});
  node.port.onmessage = (event) => { if (talking) sendSamples(event.data); };
  context.createMediaStreamSource(stream).connect(node);
  return {context, stream, node};
}

function sendSamples(samples) {
  if (!socket || socket.readyState !== WebSocket.OPEN) return;
  const words = new DataView(new ArrayBuffer(2 * samples.length));
  samples.forEach((value, i) => words.setInt16(2 * i, Math.max(-1, Math.min(1, value)) * 32767, true));
  socket.send(words.buffer);
}

async function talk(on) {
  if (on === talking || (on && !drives)) return;
  talking = on;
  clearTimeout(timer);
  at("talk").setAttribute("aria-pressed", String(on));
  at("talk").textContent = on ? "Listening" : "Hold to talk";
  if (!on) {
    if (audio) audio.stream.getTracks().forEach((track) => { track.enabled = false; });
    if (started && send({type: "talk", on: false})) at("heard").textContent = "Recognizing what you said.";
    started = false;
    return;
  }
  at("error").textContent = "";
  try {
    audio = audio || await openMicrophone();
    await audio.context.resume();
    audio.stream.getTracks().forEach((track) => { track.enabled = true; });
  } catch (error) {
    talking = false;
    at("talk").setAttribute("aria-pressed", "false");
    at("talk").textContent = "Hold to talk";
    at("error").textContent = `There is no microphone: ${error.message}.`;
    return;
  }
  if (!talking) return;  // it was let go while the browser asked
  started = send({type: "talk", on: true});
  timer = setTimeout(() => talk(false), LONGEST_MS);
}

function heard(message) {
  at("text").value = message.text;
  at("text").focus();
  preview();
  at("heard").textContent = message.text ? `Heard “${message.heard}”. Correct it, or Enter obeys.` : "Nothing was understood.";
}

at("talk").addEventListener("pointerdown", (event) => { at("talk").setPointerCapture(event.pointerId); talk(true); });
for (const kind of ["pointerup", "pointercancel"]) at("talk").addEventListener(kind, () => talk(false));
at("talk").addEventListener("click", (event) => { if (event.detail === 0) talk(!talking); });  // by the keyboard: on and off
