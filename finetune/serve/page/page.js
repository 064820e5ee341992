"use strict";
// The page of `finetune serve`. Everything from the model or the data is set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const percent = (p) => `${(100 * p).toFixed(p > 0.9995 || p < 0.0005 ? 2 : 1)} %`;
let about = {};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function show(error) {
  const gone = error?.name === "AbortError";
  $("problem").hidden = gone || !error;
  $("problem").textContent = gone || !error ? "" : error.message;
}

async function call(path, body, options = {}) {
  const asked = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, { ...asked, ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("the server does not answer; is it still running?");
  }
  if (!response.ok) {
    const said = await response.json().catch(() => null);
    throw new Error(said?.error?.message ?? `the server answered ${response.status}`);
  }
  return response;
}

const json = async (path, body, options) => (await call(path, body, options)).json();

async function* events(path, body, signal) {
  const reader = (await call(path, body, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

function guarded(action) {
  return async (event) => {
    event?.preventDefault?.();
    show(null);
    try {
      await action(event);
    } catch (error) {
      show(error);
    }
  };
}

function submitOn(textarea, form, enter) {
  textarea.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey || (enter && !event.shiftKey && !event.isComposing))) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}

// ---- a classifier

let predicted = [];
let curve = null;
let moved = null; // the threshold of the slider, where it is not the run's

function ownThreshold(label) {
  if (about.several) return about.thresholds[about.labels.indexOf(label)];
  if (about.labels.length === 2 && about.threshold !== null) return label === about.positive ? about.threshold : 1 - about.threshold;
  return 0.5;
}

function decisionOf(prediction) {
  if (moved === null) return prediction.decision;
  const at = about.labels.indexOf(curve.label);
  const said = prediction.probabilities[at] >= moved;
  if (about.labels.length === 2 && !about.several) return said ? curve.label : about.labels[1 - at];
  return said ? curve.label : `not ${curve.label}`;
}

function drawPredictions() {
  $("predictions").hidden = !predicted.length;
  $("decision-head").textContent = moved === null ? "Decision" : `Decision at ${moved.toFixed(3)}`;
  $("predictions-rows").replaceChildren(
    ...predicted.map(({ text, prediction }) => {
      const why = make("button", { type: "button", textContent: "Why?", "aria-label": `Why ${prediction.label}: ${text.slice(0, 60)}` });
      why.addEventListener("click", guarded(() => explain(text)));
      const sure = make("td", { className: "number" }, make("meter", { min: 0, max: 1, value: prediction.probability, "aria-hidden": "true" }), ` ${percent(prediction.probability)}`);
      sure.title = about.labels.map((label, at) => `${label}: ${percent(prediction.probabilities[at])}`).join("\n");
      return make(
        "tr",
        {},
        make("th", { scope: "row", dir: "auto", textContent: text }),
        make("td", { dir: "auto", textContent: prediction.label || "none" }),
        sure,
        make("td", { dir: "auto", textContent: decisionOf(prediction) || "none" }),
        make("td", {}, why),
      );
    }),
  );
  $("predictions-caption").textContent = `${predicted.length} ${predicted.length === 1 ? "text" : "texts"}`;
}

async function predict() {
  const texts = $("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!texts.length) throw new Error("Type a text first.");
  const found = await json("predict", { texts });
  predicted = texts.map((text, at) => ({ text, prediction: found.predictions[at] }));
  drawPredictions();
}

async function explain(text) {
  const found = await json("explain", { text });
  $("why").hidden = false;
  $("why-title").textContent = `Evidence for ${found.label || "this"}`;
  const most = Math.max(...found.tokens.map(([, shift]) => Math.abs(shift)), 1e-9);
  $("why-tokens").replaceChildren(
    ...found.tokens.map(([token, shift]) => {
      const node = make("span", { textContent: token, title: `${shift >= 0 ? "+" : ""}${shift.toFixed(3)}` });
      node.style.backgroundColor = `rgba(var(${shift >= 0 ? "--for" : "--other"}), ${(0.75 * Math.abs(shift)) / most})`;
      return node;
    }),
  );
  $("why-tokens").hidden = !found.tokens.length;
  const against = found.against ? ` against ${found.against}` : "";
  $("why-legend").textContent = found.tokens.length
    ? `Each token is hidden in turn. Blue: without it, the log-odds of ${found.label}${against} fall; orange: they rise. The strongest moves them by ${most.toFixed(2)}.`
    : "";
  $("why-notes").replaceChildren(...found.notes.map((note) => make("li", { textContent: note })));
  $("why-near").hidden = !found.neighbours.length;
  $("why-rows").replaceChildren(
    ...found.neighbours.map((near) =>
      make("li", { dir: "auto" }, make("strong", { textContent: near.label }), ` ${near.text} `, make("span", { className: "soft", textContent: `(row ${near.row}, cosine ${near.similarity.toFixed(3)})` })),
    ),
  );
}

const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

function drawThreshold() {
  const at = Number($("threshold").value);
  const [said, right] = [curve.said[at], curve.right[at]];
  $("threshold-value").textContent = curve.thresholds[at].toFixed(3);
  $("threshold-said").textContent =
    `Precision ${said ? percent(right / said) : "undefined"} (${right} of ${said} said ${curve.label}), ` +
    `recall ${curve.positives ? percent(right / curve.positives) : "undefined"} (${right} of ${curve.positives}), on ${curve.rows} test rows.`;
  const x = (i) => 30 + (360 * i) / (curve.thresholds.length - 1);
  const y = (value) => 110 - 100 * value;
  const line = (name, values) =>
    svg("polyline", { class: `line ${name}`, points: values.map((value, i) => (value === null ? null : `${x(i)},${y(value)}`)).filter(Boolean).join(" ") });
  const label = (text, px, py, anchor) => Object.assign(svg("text", { x: px, y: py, "text-anchor": anchor }), { textContent: text });
  $("threshold-plot").replaceChildren(
    svg("line", { class: "axis", x1: 30, x2: 390, y1: 110, y2: 110 }),
    svg("line", { class: "axis", x1: 30, x2: 30, y1: 10, y2: 110 }),
    label("0", 30, 123, "middle"), label("1", 390, 123, "middle"), label("threshold", 210, 123, "middle"), label("1", 24, 13, "end"), label("0", 24, 113, "end"),
    line("precision", curve.said.map((count, i) => (count ? curve.right[i] / count : null))),
    line("recall", curve.right.map((count) => (curve.positives ? count / curve.positives : null))),
    svg("line", { class: "now", x1: x(at), x2: x(at), y1: 10, y2: 110 }),
  );
}

async function loadCurve(label) {
  curve = await json(`thresholds?label=${encodeURIComponent(label)}`);
  resetThreshold();
}

function resetThreshold() {
  moved = null;
  $("threshold").value = Math.round(ownThreshold(curve.label) * (curve.thresholds.length - 1));
  drawThreshold();
  drawPredictions();
}

let table = null;

async function sendTable(file) {
  const column = $("table-column").value.trim();
  $("table-state").hidden = false;
  $("table-link").hidden = true;
  $("table-cancel").hidden = false;
  $("table-progress").removeAttribute("value");
  $("table-said").textContent = `Sending ${file.name}`;
  const query = new URLSearchParams({ name: file.name, ...(column && { text: column }) });
  try {
    table = await json(`tables?${query}`, undefined, { method: "POST", body: file });
    const own = table.id;
    while (table?.id === own && table.state === "running") {
      $("table-progress").value = table.rows ? table.done / table.rows : 0;
      $("table-said").textContent = `${table.done.toLocaleString()} of ${table.rows.toLocaleString()} rows`;
      await new Promise((resolve) => setTimeout(resolve, 300));
      if (table?.id === own) table = await json(`tables/${own}`);
    }
    if (table?.id !== own) return;
    if (table.state === "failed") throw new Error(table.message);
    $("table-progress").value = 1;
    $("table-said").textContent = table.message;
    $("table-link").href = `tables/${own}/file`;
    $("table-link").setAttribute("download", table.name);
    $("table-link").hidden = false;
  } catch (error) {
    $("table-state").hidden = true;
    throw error;
  } finally {
    $("table-cancel").hidden = true;
  }
}

async function cancelTable() {
  const { id } = table;
  table = null;
  $("table-state").hidden = true;
  await json(`tables/${id}`, undefined, { method: "DELETE" });
}

function ruleOf() {
  if (about.several) return `Aim ${about.aim}; thresholds: ${about.labels.map((label, at) => `${label} ${about.thresholds[at].toFixed(3)}`).join(", ")}`;
  const parts = [`aim ${about.aim}`];
  if (about.threshold !== null && about.labels.length === 2) parts.push(`${about.positive} from a probability of ${about.threshold.toFixed(3)}`);
  if (about.costs) parts.push("the label with the least expected cost");
  if (about.abstain_below !== null) parts.push(`abstains below ${about.abstain_below.toFixed(3)}`);
  return `Decision: ${parts.join(", ")}`;
}

async function startClassifier() {
  $("rule").textContent = `Labels: ${about.labels.join(", ")}. ${ruleOf()}.`;
  $("predict-form").addEventListener("submit", guarded(predict));
  submitOn($("texts"), $("predict-form"));
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => (event.preventDefault(), drop.classList.add("over")));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", guarded((event) => {
    drop.classList.remove("over");
    return event.dataTransfer.files[0] && sendTable(event.dataTransfer.files[0]);
  }));
  $("table-file").addEventListener("change", guarded(() => $("table-file").files[0] && sendTable($("table-file").files[0])));
  $("table-cancel").addEventListener("click", guarded(cancelTable));
  $("threshold-label").append(...about.labels.map((label) => make("option", { value: label, textContent: label })));
  const first = about.positive ?? about.labels[0];
  $("threshold-label").value = first;
  try {
    await loadCurve(first);
    $("threshold-section").hidden = false;
  } catch {
    return; // a bundle without test rows
  }
  $("threshold").addEventListener("input", () => {
    moved = curve.thresholds[Number($("threshold").value)];
    drawThreshold();
    drawPredictions();
  });
  $("threshold-label").addEventListener("change", guarded(() => loadCurve($("threshold-label").value)));
  $("threshold-back").addEventListener("click", resetThreshold);
}

// ---- a tagger

async function findNames() {
  const text = $("tag-text").value;
  if (!text.trim()) throw new Error("Type a text first.");
  const [names] = (await json("tag", { texts: [text] })).names;
  const letters = Array.from(text); // places are counted in characters, not in UTF-16
  let at = 0;
  const parts = names.flatMap((name) => {
    const before = letters.slice(at, name.start).join("");
    at = name.end;
    const mark = make("mark", { title: percent(name.probability) }, name.text, make("small", { textContent: name.kind }));
    return [before, mark];
  });
  $("tagged").replaceChildren(...parts, letters.slice(at).join(""));
  $("tag-said").textContent = `${names.length || "No"} ${names.length === 1 ? "name" : "names"}`;
  $("tag-names").hidden = !names.length;
  $("tag-rows").replaceChildren(
    ...names.map((name) =>
      make("tr", {}, make("th", { scope: "row", dir: "auto", textContent: name.text }), make("td", { textContent: name.kind }), make("td", { className: "number", textContent: percent(name.probability) })),
    ),
  );
  $("tag-part").hidden = false;
}

function startTagger() {
  $("rule").textContent = `Entity types: ${about.kinds.join(", ")}. Each line is read as a sentence.`;
  $("tag-form").addEventListener("submit", guarded(findNames));
  submitOn($("tag-text"), $("tag-form"));
}

// ---- a model that writes

const SETTINGS = [
  ["temperature", "Temperature (0: greedy)", { min: 0, max: 100, step: 0.05 }],
  ["top_k", "Top-k", { min: 1, step: 1 }],
  ["top_p", "Top-p", { min: 0.01, max: 1, step: 0.01 }],
  ["min_p", "Min-p", { min: 0, max: 1, step: 0.01 }],
  ["repetition_penalty", "Repetition penalty", { min: 0.1, max: 10, step: 0.05 }],
  ["max_tokens", "New tokens", { min: 1, step: 1 }],
  ["seed", "Seed", { min: 0, step: 1 }],
];

function addSettings(fieldset, defaults) {
  for (const [name, label, limits] of SETTINGS) {
    fieldset.append(make("label", {}, label, make("input", { type: "number", name, value: defaults[name] ?? "", ...limits })));
  }
}

function settingsOf(fieldset, ...without) {
  const values = {};
  for (const input of fieldset.querySelectorAll("input")) {
    if (input.value !== "" && !without.includes(input.name)) values[input.name] = Number(input.value);
  }
  return values;
}

function streaming(stop, go, state) {
  let running = null;
  stop.addEventListener("click", () => running?.abort());
  return async (path, body, take) => {
    running?.abort();
    const own = (running = new AbortController());
    stop.disabled = false;
    go.disabled = true;
    state.textContent = "writing";
    let reason = "";
    try {
      for await (const event of events(path, { ...body, stream: true }, own.signal)) {
        for (const choice of event.choices) {
          take(choice.text ?? choice.delta?.content ?? "");
          reason = choice.finish_reason ?? reason;
        }
        if (event.notes) show(new Error(event.notes.join(" ")));
      }
      state.textContent = reason === "length" ? "finished at the token limit" : "finished";
    } catch (error) {
      state.textContent = error.name === "AbortError" ? "stopped" : "";
      throw error;
    } finally {
      stop.disabled = true;
      go.disabled = false;
    }
  };
}

async function nextToken() {
  const asked = { prompt: $("prompt").value, ...settingsOf($("write-settings"), "max_tokens", "seed") };
  const { tokens } = await json("next", asked);
  $("next-section").hidden = false;
  const most = Math.max(...tokens.map((own) => Math.max(own.probability, own.chosen)), 1e-9);
  $("next-tokens").replaceChildren(
    ...tokens.map((own) => {
      const button = make("button", { type: "button", textContent: JSON.stringify(own.token).slice(1, -1) || " ", title: "Add it to the text" });
      button.addEventListener("click", guarded(() => {
        $("prompt").value += own.token;
        return nextToken();
      }));
      const bars = [own.probability, own.chosen].map((p) => {
        const bar = make("i");
        bar.style.width = `${(100 * p) / most}%`;
        return bar;
      });
      return make("li", {}, button, make("div", { className: "bar", "aria-hidden": "true" }, ...bars), make("span", { textContent: `${percent(own.probability)} → ${percent(own.chosen)}` }));
    }),
  );
}

function startWriter() {
  addSettings($("write-settings"), { temperature: 0.8, top_k: 50, max_tokens: 60, seed: 0 });
  const write = streaming($("write-stop"), $("write-go"), $("write-state"));
  $("write-form").addEventListener("submit", guarded(async () => {
    const prompt = $("prompt").value;
    const written = make("span");
    $("written").replaceChildren(make("span", { className: "prompt", textContent: prompt }), written);
    $("written").hidden = false;
    await write("v1/completions", { model: about.name, prompt, ...settingsOf($("write-settings")) }, (text) => written.append(text));
  }));
  $("write-next").addEventListener("click", guarded(nextToken));
  submitOn($("prompt"), $("write-form"));
}

function startChat() {
  addSettings($("chat-settings"), { temperature: 0 });
  if (!about.remembers) $("rule").textContent = "This run's prompt style keeps no history: each message is answered on its own.";
  const write = streaming($("chat-stop"), $("chat-go"), $("chat-state"));
  let messages = [];
  $("chat-form").addEventListener("submit", guarded(async () => {
    const content = $("question").value.trim();
    if (!content) return;
    if (!about.remembers) messages = [];
    messages.push({ role: "user", content });
    const said = make("span");
    $("chat-log").append(
      make("div", { className: "said user", dir: "auto" }, make("b", { textContent: "you" }), content),
      make("div", { className: "said", dir: "auto" }, make("b", { textContent: about.name }), said),
    );
    $("question").value = "";
    try {
      await write("v1/chat/completions", { model: about.name, messages, ...settingsOf($("chat-settings")) }, (text) => {
        said.append(text);
        $("chat-log").scrollTop = $("chat-log").scrollHeight;
      });
    } finally {
      messages.push({ role: "assistant", content: said.textContent.trim() });
      if (!said.textContent) said.textContent = "(no answer)";
    }
  }));
  $("chat-clear").addEventListener("click", () => {
    messages = [];
    $("chat-log").replaceChildren();
  });
  submitOn($("question"), $("chat-form"), true);
}

// ---- source to target

function startSeq2seq() {
  $("beams").value = about.beams;
  $("source-form").addEventListener("submit", guarded(async () => {
    $("source-state").textContent = "writing";
    try {
      const found = await json("write", { source: $("source").value, beams: Number($("beams").value) || 1 });
      $("target-part").hidden = false;
      $("target").textContent = found.target || "(nothing)";
      $("source-notes").replaceChildren(...found.notes.map((note) => make("li", { textContent: note })));
      drawAttention(found.attention);
    } finally {
      $("source-state").textContent = "";
    }
  }));
  submitOn($("source"), $("source-form"));
}

function drawAttention({ source_tokens, target_tokens, weights }) {
  const head = make("tr", {}, make("td"), ...source_tokens.map((token) => make("th", { scope: "col", textContent: token })));
  const rows = target_tokens.map((token, row) =>
    make("tr", {}, make("th", { scope: "row", textContent: token }), ...weights[row].map((weight, column) => {
      const cell = make("td", { title: `${token} → ${source_tokens[column]}: ${weight.toFixed(3)}`, "aria-label": weight.toFixed(2) });
      cell.style.backgroundColor = `rgba(var(--for), ${Math.sqrt(weight)})`;
      return cell;
    })),
  );
  $("attention").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

// ---- the page

async function start() {
  about = await json("about");
  document.title = `${about.name}: finetune serve`;
  $("name").textContent = about.name;
  $("kind").textContent = about.kind;
  $("version").textContent = about.version;
  const part = about.labels ? "classifier" : about.kinds ? "tagger" : about.beams ? "seq2seq" : about.chat ? "chat" : "writer";
  $(part).hidden = false;
  if (about.chat) $("writer").hidden = false;
  if (about.labels) await startClassifier();
  else if (about.kinds) startTagger();
  else if (about.beams) startSeq2seq();
  else {
    if (about.chat) startChat();
    startWriter();
  }
}

guarded(start)();
