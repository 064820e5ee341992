"use strict";
// What the pages share: nodes, colours, and maps of attention. Everything is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const seen = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "∅";
const percent = (p) => (p === null ? "" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const shade = (node, share, colour = "--for") => {
  node.style.backgroundColor = `rgba(var(${colour}), ${Math.max(0, Math.min(1, share)) * 0.75})`;
  return node;
};

// The tokens as buttons. surprise: bits of each, null where nothing precedes it; pressed: the chosen one; choose(at).
function tokenButtons(names, surprise, pressed, choose) {
  return names.map((name, at) => {
    const node = make("button", { type: "button", className: "token", textContent: seen(name) });
    node.setAttribute("aria-pressed", at === pressed);
    if (surprise) node.title = surprise[at] === null ? "nothing precedes it" : `${surprise[at].toFixed(2)} bits`;
    node.addEventListener("click", () => choose(at));
    return shade(node, ((surprise && surprise[at]) ?? 0) / 16, "--other");
  });
}

// A small map of each head. maps: {title, names, layers, heads, weight(layer, head, query, key)}; choose(layer, head).
function headButtons(maps, choose) {
  const [red, green, blue] = getComputedStyle(document.documentElement).getPropertyValue("--for").split(",").map(Number);
  const T = maps.names.length;
  const grid = make("div", { className: "grid" });
  grid.style.gridTemplateColumns = `repeat(${maps.heads}, 1fr)`;
  for (let layer = 0; layer < maps.layers; layer++) {
    for (let head = 0; head < maps.heads; head++) {
      const canvas = make("canvas", { width: T, height: T });
      const context = canvas.getContext("2d");
      const image = context.createImageData(T, T);
      for (let query = 0; query < T; query++) {
        for (let key = 0; key <= query; key++) {
          image.data.set([red, green, blue, 255 * Math.sqrt(maps.weight(layer, head, query, key))], 4 * (query * T + key));
        }
      }
      context.putImageData(image, 0, 0);
      const label = `layer ${layer + 1}, head ${head + 1}`;
      const button = make("button", { type: "button", title: label, "aria-label": `${maps.title}, ${label}` }, canvas);
      button.addEventListener("click", () => choose(layer, head));
      grid.append(button);
    }
  }
  return make("div", {}, make("h3", { textContent: maps.title }), make("p", { className: "soft", textContent: "Layers from top to bottom, heads from left to right." }), grid);
}

// One head as a table: each row is a token, each column one that it attends to.
function headTable(maps, layer, head) {
  const names = maps.names.map(seen);
  const top = make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col", textContent: name })));
  const rows = names.map((name, query) =>
    make("tr", {}, make("th", { scope: "row", textContent: name }), ...names.slice(0, query + 1).map((key, at) => {
      const weight = maps.weight(layer, head, query, at);
      return shade(make("td", { title: `${name} → ${key}: ${weight.toFixed(4)}` }), Math.sqrt(weight));
    })),
  );
  return make("table", { className: "map" }, make("thead", {}, top), make("tbody", {}, ...rows));
}

// One head of every map, large, and its button marked.
function showHead(all, layer, head) {
  const titled = (maps) => make("div", {}, ...(all.length > 1 ? [make("h3", { textContent: maps.title })] : []), headTable(maps, layer, head));
  $("head").replaceChildren(make("h3", { textContent: `Layer ${layer + 1}, head ${head + 1}` }), make("div", { className: "pair" }, ...all.map(titled)));
  for (const grid of document.querySelectorAll(".grid")) {
    for (const [at, button] of [...grid.children].entries()) button.classList.toggle("chosen", at === layer * all[0].heads + head);
  }
}
