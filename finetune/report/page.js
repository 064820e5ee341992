// Comfort for a page that reads wholly without it: tables sort and filter, pictures enlarge. Nothing is loaded, and text
// enters the page as text alone.
"use strict";

const LONG = 24; // rows from which a table has a filter
const SCALE = { GB: 1000, MB: 1, h: 3600, min: 60, s: 1 };
const NEXT = { ascending: "descending", descending: "" }; // aria-sort after a press, "" being the order of the page
const collator = new Intl.Collator("en", { numeric: true });

function create(tag, properties) {
  return Object.assign(document.createElement(tag), properties);
}

// The number that a cell begins with, as shown: "98.7 % (97.1 % to 99.4 %)", "p < 0.001", "1,234", "3 min 20 s".
function numberOf(text) {
  const plain = text.trim().replace(/\u2212/g, "-").replace(/(\d),(?=\d)/g, "$1");
  const parts = [...plain.matchAll(/([\d.]+)\s(GB|MB|h|min|s)(?![a-z])/g)];
  if (parts.length) return parts.reduce((sum, [, number, unit]) => sum + number * SCALE[unit], 0);
  const found = plain.match(/^(?:p\s*[<=]\s*)?([-+]?[\d.]+(?:e[-+]?\d+)?)/i);
  return found ? Number(found[1]) : NaN;
}

// Cells without a number come last in both directions.
function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    if (heading.tagName !== "TH") return;
    const numbers = heading.classList.contains("number");
    const button = create("button", { type: "button" });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const order = NEXT[heading.getAttribute("aria-sort")] ?? "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      const text = (row) => row.cells[column].textContent;
      const known = (row) => !numbers || !Number.isNaN(numberOf(text(row)));
      const compare = numbers ? (a, b) => numberOf(a) - numberOf(b) : collator.compare;
      const sorted = original.filter(known).sort((one, other) => compare(text(one), text(other)));
      if (order) heading.setAttribute("aria-sort", order);
      if (order === "descending") sorted.reverse();
      body.append(...(order ? [...sorted, ...original.filter((row) => !known(row))] : original));
    });
  });
}

function makeFilterable(table) {
  const rows = [...table.tBodies[0].rows];
  const status = create("span", { role: "status" });
  const input = create("input", { type: "search", autocomplete: "off" });
  const label = create("label", { className: "filter" });
  input.setAttribute("aria-label", `Filter the rows of the table: ${table.caption.textContent}`);
  label.append("Filter rows: ", input, " ", status);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    rows.forEach((row) => {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    status.textContent = shown < rows.length ? `${shown} of ${rows.length} rows` : "";
  });
  table.closest(".scroll").before(label);
}

function makeEnlargeable(figure, dialog) {
  const image = figure.querySelector(".plot img");
  const title = figure.querySelector("figcaption strong").textContent;
  const button = create("button", { type: "button", className: "enlarge", textContent: "Enlarge" });
  button.setAttribute("aria-label", `Enlarge: ${title}`);
  button.setAttribute("aria-haspopup", "dialog");
  const open = () => {
    dialog.replaceChildren(create("button", { type: "button", textContent: "Close" }), image.cloneNode());
    dialog.firstChild.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-label", title);
    dialog.showModal();
  };
  button.addEventListener("click", open);
  image.addEventListener("click", open);
  image.classList.add("enlargeable");
  figure.querySelector("figcaption").append(button);
}

for (const table of document.querySelectorAll("table")) {
  const rows = table.tBodies[0].rows.length;
  if (table.tHead && rows > 2) makeSortable(table);
  if (rows >= LONG) makeFilterable(table);
}
const dialog = create("dialog", {});
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
document.body.append(dialog);
document.querySelectorAll("figure").forEach((figure) => makeEnlargeable(figure, dialog));
