// The page: which part of it is shown, and how one gets from one to another.

import { h, patch } from "./dom.js";
import * as live from "./live.js";
import { dead } from "./dead.js";
import { gpu, gpus } from "./gpus.js";
import { overview } from "./overview.js";
import { running } from "./running.js";
import { settings } from "./settings.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";
import { words } from "./parts.js";

// By the first part of the address: the page's name, its title, what shows it, and what shows one thing of it.
const PAGES = {
  "": { page: "overview", title: "Overview", show: overview },
  gpus: { page: "gpus", title: "GPUs", show: gpus, one: gpu, titleOfOne: "GPU" },
  tasks: { page: "tasks", title: "Tasks", show: tasks, one: task, titleOfOne: "Task" },
  running: { page: "running", title: "Running tasks", show: running },
  dead: { page: "dead", title: "Dead letters", show: dead },
  settings: { page: "settings", title: "Settings", show: settings },
};

const main = document.getElementById("main");
let close = () => {};
// Which address is shown.
window.gpufleet = { shown: null };

// What the address says: `#/tasks/ID?state=waiting`.
function route() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const [name, ...rest] = path.split("/");
  let id;
  try {
    id = rest.length > 0 && rest.join("/") !== "" ? decodeURIComponent(rest.join("/")) : undefined;
  } catch {
    id = rest.join("/");
  }
  return { name, id, search: new URLSearchParams(search) };
}

function show(first) {
  const { name, id, search } = route();
  const known = Object.hasOwn(PAGES, name) ? PAGES[name] : undefined;
  close();
  const ends = [];
  close = () => ends.splice(0).forEach((end) => end());
  const scope = { onClose: (end) => ends.push(end), id, search };
  const found = known && (id === undefined || known.one);
  const title = !found ? "No such page" : id === undefined ? known.title : `${known.titleOfOne} ${id}`;
  document.title = `${title} – gpufleet`;
  mark(found ? known.page : "");
  const heading = h("h1", { tabindex: "-1" }, title);
  const content = h("div", { class: "page" });
  main.replaceChildren(heading, content);
  window.scrollTo(0, 0);
  if (!found) {
    patch(content, h("p", {}, "Nothing is shown at this address. ", h("a", { href: "#/" }, "Overview")));
  } else {
    try {
      (id === undefined ? known.show : known.one)(content, scope);
    } catch (problem) {
      patch(content, h("p", { class: "trouble" }, words(problem)));
    }
  }
  window.gpufleet.shown = location.hash;
  if (!first) {
    heading.focus({ preventScroll: true });
  }
}

function mark(page) {
  for (const link of document.querySelectorAll("#pages a")) {
    if (link.dataset.page === page) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = document.getElementById("find-id").value.trim();
  if (id !== "") {
    location.hash = `#/tasks/${encodeURIComponent(id)}`;
  }
});

live.on("overview", ({ pool }) => {
  const place = document.getElementById("pool");
  place.textContent = `pool ${pool}`;
});

// For whoever wants to know, such as tests: how many streams were opened and closed.
window.gpufleet.streams = live.streams;
window.addEventListener("hashchange", () => show(false));
live.start();
show(true);
