// Elements made by hand. Text becomes a text node and nothing else: what a task's id, kind or error says can never be markup.

const SVG = "http://www.w3.org/2000/svg";
// Links lead within this page, or to this gateway.
const OWN_ADDRESS = /^(#|\/(?!\/))/;

// An element of HTML. Attributes: `on` holds listeners by event, `style` holds properties by name, `key` is what the element is told apart by when it is patched,
// `true` sets an empty attribute, `false`, `null` and `undefined` set none.
export function h(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

// An element of SVG.
export function s(tag, attributes, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    set(element, name, value);
  }
  append(element, children);
  return element;
}

function set(element, name, value) {
  if (value === false || value === null || value === undefined) {
    return;
  }
  if (name === "on") {
    for (const [event, listener] of Object.entries(value)) {
      listen(element, event, listener);
    }
  } else if (name === "key") {
    element.patchKey = String(value);
  } else if (name === "style") {
    for (const [property, text] of Object.entries(value)) {
      element.style.setProperty(property, text);
    }
  } else if (name.startsWith("on")) {
    throw new Error(`${name}: listeners go into "on"`);
  } else if (name === "href" && !OWN_ADDRESS.test(value)) {
    throw new Error("a link leads to this gateway or nowhere");
  } else {
    element.setAttribute(name, value === true ? "" : String(value));
  }
}

// One listener per event and element, so that a patch can replace it.
function listen(element, event, listener) {
  element.listeners ??= {};
  if (!(event in element.listeners)) {
    element.addEventListener(event, (happened) => element.listeners[event]?.(happened));
  }
  element.listeners[event] = listener;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) {
      continue;
    }
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

// Makes the children of an element what `children` says and leaves alone what is the same already: focus, selection and scroll positions stay.
export function patch(parent, ...children) {
  const wanted = document.createElement("div");
  append(wanted, children);
  patchChildren(parent, [...wanted.childNodes]);
}

function patchChildren(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.childNodes) {
    if (child.patchKey !== undefined) {
      keyed.set(child.patchKey, child);
    }
  }
  let here = parent.firstChild;
  for (const next of wanted) {
    const named = next.patchKey === undefined ? undefined : keyed.get(next.patchKey);
    if (named) {
      keyed.delete(next.patchKey);
    }
    const old = named ?? (here && here.patchKey === undefined ? here : null);
    if (old === next) {
      here = old.nextSibling;
    } else if (old && alike(old, next)) {
      if (old === here) {
        here = old.nextSibling;
      } else {
        parent.insertBefore(old, here);
      }
      patchNode(old, next);
    } else if (old && old === here && old.patchKey === next.patchKey) {
      here = old.nextSibling;
      old.replaceWith(next);
    } else {
      parent.insertBefore(next, here);
    }
  }
  while (here) {
    const after = here.nextSibling;
    here.remove();
    here = after;
  }
}

function alike(old, next) {
  return old.nodeType === next.nodeType && old.nodeName === next.nodeName && old.patchKey === next.patchKey && !old.opaque && !next.opaque;
}

// What people change by themselves, and a patch therefore leaves.
const OF_PEOPLE = new Set(["open", "value", "checked"]);

function patchNode(old, next) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== next.data) {
      old.data = next.data;
    }
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!next.hasAttribute(name) && !OF_PEOPLE.has(name)) {
      old.removeAttribute(name);
    }
  }
  for (const { name, value } of next.attributes) {
    if (OF_PEOPLE.has(name) || old.getAttribute(name) === value) {
      continue;
    }
    if (name === "style") {
      // The policy forbids the attribute, and not its properties one by one.
      old.style.cssText = next.style.cssText;
    } else {
      old.setAttribute(name, value);
    }
  }
  if (old.listeners || next.listeners) {
    for (const event of Object.keys(old.listeners ?? {})) {
      old.listeners[event] = next.listeners?.[event];
    }
    for (const [event, listener] of Object.entries(next.listeners ?? {})) {
      listen(old, event, listener);
    }
  }
  patchChildren(old, [...next.childNodes]);
}

// Keeps an element as it is when its surroundings are patched, but for being moved.
export function opaque(element) {
  element.opaque = true;
  return element;
}
