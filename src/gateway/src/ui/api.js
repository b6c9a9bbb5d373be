// The gateway's routes.

// What the gateway, or the way to it, had against a request.
export class Problem extends Error {
  constructor(title, detail, status) {
    super(detail ? `${title}: ${detail}` : title);
    this.title = title;
    this.detail = detail;
    this.status = status;
  }

  // Whether the fleet may not be operated from here.
  get notOperated() {
    return this.status === 403;
  }
}

// An id as a part of a path.
export function part(id) {
  if (id === "." || id === "..") {
    throw new Problem("no browser can name this id", `it is ${JSON.stringify(id)}, which an address swallows; use the command line`, 0);
  }
  return encodeURIComponent(id);
}

// A query string: lists repeat their key, what is empty is left out.
export function query(fields) {
  const written = new URLSearchParams();
  for (const [name, value] of Object.entries(fields)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) {
        written.append(name, String(one));
      }
    }
  }
  const text = written.toString();
  return text === "" ? "" : `?${text}`;
}

// With `exact` the body has a function of that name, which reads it once more so that its numbers are shown as they were written.
export async function get(path, { signal, exact = false } = {}) {
  return ask("GET", path, undefined, { signal, exact });
}

export async function send(method, path, body) {
  return ask(method, path, body, {});
}

// A request that takes longer than this has failed.
const LONGEST_MS = 60_000;

async function ask(method, path, body, { signal, exact }) {
  const patience = AbortSignal.timeout(LONGEST_MS);
  const options = { method, headers: { accept: "application/json" }, signal: signal ? AbortSignal.any([signal, patience]) : patience };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer, text;
  try {
    answer = await fetch(path, options);
    text = await answer.text();
  } catch (error) {
    if (signal?.aborted) {
      throw error;
    }
    throw new Problem("the gateway does not answer", patience.aborted ? "no answer within 60 s" : "is it running, and is the network up?", 0);
  }
  if (!answer.ok) {
    throw problem(answer, text);
  }
  try {
    const read = JSON.parse(text);
    return exact ? Object.assign(read, { exact: () => parseExactly(text) }) : read;
  } catch {
    throw new Problem("the answer is no JSON", `${method} ${path.split("?")[0]}`, answer.status);
  }
}

function problem(answer, text) {
  try {
    const document = JSON.parse(text);
    return new Problem(String(document.title), String(document.detail), answer.status);
  } catch {
    return new Problem(`the gateway answered ${answer.status}`, "", answer.status);
  }
}

// JSON whose numbers are written again as they were, where the browser can: 1.50 stays 1.50. Such a number is only to be shown.
function parseExactly(text) {
  if (typeof JSON.rawJSON !== "function") {
    return JSON.parse(text);
  }
  return JSON.parse(text, (_key, value, context) => {
    const written = typeof value === "number" ? context?.source : undefined;
    return written !== undefined && String(value) !== written ? JSON.rawJSON(written) : value;
  });
}
