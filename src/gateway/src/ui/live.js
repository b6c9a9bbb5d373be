// What the gateway tells by itself: one stream of server-sent events for the whole page, closed while nobody sees it.

import { get } from "./api.js";
import { moment, noteTime } from "./format.js";

const RECONNECT_MS = 3_000;
// Without an event for so long the figures are old.
const STALE_MS = 10_000;
// Points of each GPU that the page keeps while it is open.
const SAMPLES_MAX = 300;

const WORDS = {
  connecting: "Connecting",
  live: "Live",
  stale: "Live, but silent",
  reconnecting: "Reconnecting",
  paused: "Paused",
};

const listeners = { overview: new Set(), gpus: new Set(), failed: new Set() };
// What was heard last.
export const heard = { overview: null, gpus: null, failure: null, samples: new Map() };
// For whoever wants to see that a hidden page holds no stream.
export const streams = { opened: 0, closed: 0, state: "connecting" };

let stream = null;
let retry = null;
let lastMs = 0;

// Calls `listener` with each body of this name, and at once with the last one. Returns what ends that.
export function on(name, listener) {
  listeners[name].add(listener);
  const known = name === "failed" ? heard.failure : heard[name];
  if (known) {
    listener(known);
  }
  return () => listeners[name].delete(listener);
}

export function start() {
  document.addEventListener("visibilitychange", follow);
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", follow);
  setInterval(showTime, 1_000);
  follow();
}

// Asks for everything now, beside the stream: after an action nobody wants to wait for the next event.
export async function refresh() {
  try {
    const [overview, gpus] = await Promise.all([get("/api/v1/overview"), get("/api/v1/gpus")]);
    take("overview", overview);
    take("gpus", gpus);
  } catch (problem) {
    fail(problem);
  }
}

function follow() {
  if (document.hidden) {
    close();
    show("paused");
  } else if (!stream) {
    open();
  }
}

function open() {
  clearTimeout(retry);
  show(heard.overview ? "reconnecting" : "connecting");
  streams.opened += 1;
  const mine = new EventSource("/api/v1/live");
  stream = mine;
  for (const name of ["overview", "gpus"]) {
    mine.addEventListener(name, (event) => {
      if (stream === mine) {
        take(name, JSON.parse(event.data));
        show("live");
      }
    });
  }
  mine.addEventListener("error", () => {
    if (stream !== mine) {
      return;
    }
    close();
    show("reconnecting");
    if (!document.hidden) {
      retry = setTimeout(follow, RECONNECT_MS);
      // It says what is wrong; a stream does not.
      void refresh();
    }
  });
}

function close() {
  clearTimeout(retry);
  if (stream) {
    stream.close();
    stream = null;
    streams.closed += 1;
  }
}

function take(name, body) {
  lastMs = Date.now();
  heard[name] = body;
  heard.failure = null;
  if (name === "overview") {
    noteTime(body.at_ms);
  } else {
    keepSamples(body.gpus);
  }
  for (const listener of listeners[name]) {
    listener(body);
  }
}

function fail(problem) {
  heard.failure = problem;
  for (const listener of listeners.failed) {
    listener(problem);
  }
}

function keepSamples(gpus) {
  const living = new Set();
  for (const { gpu, sample, held, slots } of gpus) {
    living.add(gpu.gpu_id);
    const samples = heard.samples.get(gpu.gpu_id) ?? [];
    samples.push({ at_ms: Date.now(), ...sample, held, slots });
    if (samples.length > SAMPLES_MAX) {
      samples.shift();
    }
    heard.samples.set(gpu.gpu_id, samples);
  }
  for (const gone of [...heard.samples.keys()].filter((id) => !living.has(id))) {
    heard.samples.delete(gone);
  }
}

function show(state) {
  streams.state = state;
  const place = document.getElementById("live-state");
  if (place.textContent !== WORDS[state]) {
    place.textContent = WORDS[state];
    place.dataset.state = state;
  }
  showTime();
}

function showTime() {
  const place = document.getElementById("live-time");
  if (!place) {
    return;
  }
  if (streams.state === "live" && Date.now() - lastMs > STALE_MS) {
    show("stale");
  }
  place.textContent = lastMs ? `as of ${moment(lastMs)}` : "";
}
