// Figures for people. Every one has its unit.

import { h } from "./dom.js";

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

// How far the fleet's clock is ahead of this browser's, in ms.
let ahead = 0;

// Notes what the fleet's clock says now.
export function noteTime(atMs) {
  ahead = atMs - Date.now();
}

// The fleet's clock, in Unix ms.
export function now() {
  return Date.now() + ahead;
}

export function count(number) {
  return number === null || number === undefined ? "–" : NUMBERS.format(number);
}

// A number with a word that follows it: `1 task`, `2 tasks`.
export function many(number, one, more = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : more}`;
}

// Three significant digits at most.
export function figure(number) {
  if (number === null || number === undefined || !Number.isFinite(number)) {
    return "–";
  }
  const size = Math.abs(number);
  if (size >= 100 || Number.isInteger(number)) {
    return NUMBERS.format(number);
  }
  return number.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, "");
}

export function measured(number, unit) {
  if (unit === "ms") {
    return duration(number);
  }
  if (unit === "MB") {
    return megabytes(number);
  }
  return unit === "" ? figure(number) : `${figure(number)} ${unit}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) {
    return "–";
  }
  const size = Math.max(0, ms);
  if (size < SECOND) {
    return `${figure(size)} ms`;
  }
  if (size < MINUTE) {
    return `${figure(Math.floor(size / 100) / 10)} s`;
  }
  if (size < HOUR) {
    return two(size, MINUTE, "min", SECOND, "s");
  }
  return size < DAY ? two(size, HOUR, "h", MINUTE, "min") : two(size, DAY, "d", HOUR, "h");
}

function two(ms, large, largeUnit, small, smallUnit) {
  const rest = Math.floor((ms % large) / small);
  const whole = `${count(Math.floor(ms / large))} ${largeUnit}`;
  return rest === 0 ? whole : `${whole} ${rest} ${smallUnit}`;
}

export function megabytes(mb) {
  return mb >= 1000 ? `${figure(mb / 1000)} GB` : `${figure(mb)} MB`;
}

export function bytes(number) {
  if (number < 1000) {
    return many(number, "byte");
  }
  return number < 1e6 ? `${figure(number / 1000)} kB` : megabytes(number / 1e6);
}

export function percent(share) {
  return `${figure(Math.round(share * 1000) / 10)} %`;
}

// A moment, as the clock and the calendar say it here.
export function moment(ms) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) {
    return "–";
  }
  const pad = (number) => String(number).padStart(2, "0");
  const time = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
  const today = new Date().toDateString() === at.toDateString();
  return today ? time : `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${time}`;
}

export function time(ms) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) {
    return "–";
  }
  return h("time", { datetime: at.toISOString(), title: at.toISOString() }, moment(ms));
}

// How long ago a moment was.
export function age(ms) {
  return duration(now() - ms);
}

// `90s`, `15m`, `6h`, `2d` or a plain number of seconds, as ms; null where it is nothing of that.
export function readDuration(text) {
  const read = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?\s*$/.exec(text);
  if (!read) {
    return null;
  }
  const unit = { ms: 1, s: SECOND, m: MINUTE, min: MINUTE, h: HOUR, d: DAY }[read[2] ?? "s"];
  return Math.round(Number(read[1]) * unit);
}

// The same the other way round.
export function writeDuration(ms) {
  for (const [size, unit] of [[DAY, "d"], [HOUR, "h"], [MINUTE, "m"], [SECOND, "s"]]) {
    if (ms % size === 0) {
      return `${ms / size}${unit}`;
    }
  }
  return `${ms}ms`;
}

// A text of anybody's, cut where it is long.
export function short(text, most = 160) {
  const characters = [...String(text)];
  return characters.length > most ? `${characters.slice(0, most - 1).join("")}…` : characters.join("");
}
