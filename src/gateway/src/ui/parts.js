// What several pages are made of.

import { Problem } from "./api.js";
import { h, patch } from "./dom.js";
import { moment } from "./format.js";

let panels = 0;

// A part of a page that loads, fails and is empty by itself.
export function panel(title, ...beside) {
  panels += 1;
  const id = `panel-${panels}`;
  const notice = h("div", { role: "status" });
  const body = h("div", { class: "panel-body", "aria-busy": "true" }, h("p", { class: "quiet" }, "Loading …"));
  const heading = h("h2", { id }, title);
  const node = h("section", { class: "panel", "aria-labelledby": id }, h("div", { class: "panel-head" }, heading, beside), notice, body);
  let shownMs = 0;
  const settle = () => {
    body.removeAttribute("aria-busy");
    shownMs = Date.now();
    patch(notice);
  };
  return {
    node,
    show(...children) {
      settle();
      patch(body, ...children);
    },
    // What is shown already holds.
    fresh: settle,
    empty(text) {
      settle();
      patch(body, h("p", { class: "quiet" }, text));
    },
    // What was shown stays, and says how old it is.
    failed(problem, again) {
      body.removeAttribute("aria-busy");
      const old = shownMs ? ` What follows is as of ${moment(shownMs)}.` : "";
      if (!shownMs) {
        patch(body);
      }
      const retry = again ? h("button", { type: "button", on: { click: again } }, "Try again") : null;
      patch(notice, h("p", { class: "trouble" }, h("strong", {}, "Not known: "), words(problem), old, " ", retry));
    },
  };
}

export function words(problem) {
  if (problem instanceof Problem) {
    return problem.message;
  }
  return `the page itself failed: ${problem?.message ?? problem}`;
}

const STATES = {
  delayed: ["◷", "delayed"],
  waiting: ["○", "waiting"],
  running: ["▶", "running"],
  retrying: ["↻", "retrying"],
  succeeded: ["✓", "succeeded"],
  failed: ["✕", "failed"],
  cancelled: ["⊘", "cancelled"],
  expired: ["⌛︎", "expired"],
};

// The states of a task, as the API names them.
export const TASK_STATES = Object.keys(STATES);
// Those in which something will still happen.
export const OPEN_STATES = ["delayed", "waiting", "running", "retrying"];

export function badge(symbol, text, tone) {
  return h("span", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, symbol), " ", text);
}

const TONES = { running: "good", succeeded: "good", failed: "bad", expired: "bad", retrying: "warn", delayed: "calm", waiting: "calm", cancelled: "calm" };

export function stateBadge(state) {
  const [symbol, text] = STATES[state] ?? ["?", state];
  return badge(symbol, text, TONES[state] ?? "calm");
}

export function taskLink(taskId) {
  return h("a", { class: "id", href: `#/tasks/${encodeURIComponent(taskId)}` }, taskId);
}

export function gpuLink(gpuId) {
  return h("a", { class: "id", href: `#/gpus/${encodeURIComponent(gpuId)}` }, gpuId);
}

// The same where there is little room: of a UUID its beginning.
export function briefGpuLink(gpuId) {
  return h("a", { class: "id brief", title: gpuId, href: `#/gpus/${encodeURIComponent(gpuId)}` }, gpuId.length > 16 ? `${gpuId.slice(0, 13)}…` : gpuId);
}

// Head cells of a table: texts, or [text, class].
export function table(caption, heads, rows, { hideCaption = true } = {}) {
  const cells = heads.map((head) => {
    const [text, kind] = Array.isArray(head) ? head : [head, ""];
    return h("th", { scope: "col", class: kind || null }, text);
  });
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: hideCaption ? "unseen" : null }, caption), h("thead", {}, h("tr", {}, cells)), h("tbody", {}, rows)),
  );
}

export function row(key, head, ...cells) {
  return h("tr", { key }, h("th", { scope: "row" }, head), cells);
}

export function cell(content, kind) {
  return h("td", { class: kind ?? null }, content);
}

export function number(content) {
  return cell(content, "number");
}

// A list of names and what they are.
export function facts(...pairs) {
  const shown = pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

// A bar with parts: [share of the whole, class].
export function bar(label, ...parts) {
  const widths = parts.map(([share, kind]) => h("span", { class: kind, style: { width: `${Math.min(100, Math.max(0, share * 100)).toFixed(1)}%` } }));
  return h("span", { class: "bar", role: "img", "aria-label": label }, widths);
}

export function button(text, press, { tone, label, disabled } = {}) {
  return h("button", { type: "button", class: tone ?? null, "aria-label": label ?? null, disabled: disabled ?? false, on: { click: press } }, text);
}

// Text of anybody's, as it is, to its first 100,000 characters.
const TEXT_MAX = 100_000;

export function verbatim(label, text) {
  const cut = text.length > TEXT_MAX;
  return h("div", {}, h("pre", { tabindex: "0", "aria-label": label }, cut ? text.slice(0, TEXT_MAX) : text), cut ? h("p", { class: "quiet" }, `Cut: it has ${text.length.toLocaleString("en")} characters.`) : null);
}

// Says something that just happened, to eyes and ears.
export function say(text, tone = "good") {
  const place = document.getElementById("notices");
  const notice = h("p", { class: `notice ${tone}` }, h("span", {}, text), " ");
  notice.append(button("Dismiss", () => notice.remove(), { label: `Dismiss: ${text}` }));
  place.append(notice);
  while (place.children.length > 3) {
    place.firstElementChild.remove();
  }
  setTimeout(() => notice.remove(), tone === "good" ? 15_000 : 60_000);
}

// Does something that an operator asked for, and says what came of it.
export async function act(work) {
  try {
    say(await work());
  } catch (problem) {
    say(words(problem), "bad");
  }
}

// Asks before something is done. True: do it.
export function confirm({ title, text, action, tone = "danger" }) {
  return new Promise((answer) => {
    let agreed = false;
    const dialog = h("dialog", { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" });
    const end = (yes) => () => {
      agreed = yes;
      dialog.close();
    };
    const stay = h("button", { type: "button", autofocus: true, on: { click: end(false) } }, "Leave it");
    const go = h("button", { type: "button", class: tone, "data-confirm": "yes", on: { click: end(true) } }, action);
    dialog.append(h("h2", { id: "confirm-title" }, title), h("div", { id: "confirm-text" }, [text].flat().map((line) => h("p", {}, line))), h("p", { class: "actions" }, stay, go));
    dialog.addEventListener("close", () => {
      dialog.remove();
      answer(agreed);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

// Does `work` now and then every so often while the page is seen; it is never done twice at a time. `scope` ends it.
export function repeat(scope, everyMs, work) {
  let timer = null;
  let busy = false;
  let again = false;
  let ended = false;
  const aborter = new AbortController();
  const run = async () => {
    clearTimeout(timer);
    if (ended || document.hidden) {
      return;
    }
    if (busy) {
      again = true;
      return;
    }
    busy = true;
    again = false;
    try {
      await work(aborter.signal);
    } catch (problem) {
      if (!aborter.signal.aborted) {
        throw problem;
      }
    } finally {
      busy = false;
      if (!ended) {
        timer = setTimeout(run, again ? 0 : typeof everyMs === "function" ? everyMs() : everyMs);
      }
    }
  };
  document.addEventListener("visibilitychange", run);
  scope.onClose(() => {
    ended = true;
    clearTimeout(timer);
    aborter.abort();
    document.removeEventListener("visibilitychange", run);
  });
  void run();
  return run;
}
