// The page of an export in HTML, after parts.js, tokenizer.js and gpt.js.

const MOST_SHOWN = 128; // tokens in the maps of attention
const INVISIBLE = /[\u00a0\u00ad\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060\ufeff]/g; // as tables/white_space.py
const BLANK = /[\p{White_Space}\x1c-\x1f]+/gu; // what Python takes for white space
const { about, rule } = data; // rule: how a classifier decides; null for a language model
let tokenizer = null;
let model = null;
let stopped = true;
let shown = { ids: [], surprise: null, chosen: 0 };

const pause = () => new Promise((resume) => setTimeout(resume));
const count = (n) => n.toLocaleString("en");

function load() {
  const text = $("weights").textContent;
  const buffer = Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
  $("weights").remove();
  const { bytes, merges, special, end } = data.tokenizer;
  const pairs = new Uint32Array(buffer.slice(0, 8 * merges));
  tokenizer = Object.assign(new Tokenizer(bytes, pairs, special), { end });
  model = new GPT(data.shape, new Weights(buffer.slice(8 * merges), data.tensors));
}

// Whether this browser computes what was computed when the page was made: the largest relative difference of a logit.
async function check() {
  const found = await logitsOf(data.check.ids);
  const most = Math.max(...data.check.logits.map(Math.abs));
  return Math.max(...data.check.logits.map((logit, at) => Math.abs(found[at] - logit))) / most;
}

// Logits after the last token: of the next token, or of the labels.
async function logitsOf(ids) {
  model.clear();
  const states = await model.read(ids, pause);
  return model.logits(states.subarray(states.length - model.width), model.weights["head.weight"]);
}

// What a classifier reads of a long text: its beginning, or head and tail, or windows that share a quarter.
function piecesOf(ids) {
  const most = rule.max_length;
  const quarter = Math.floor(most / 4);
  if (ids.length <= most || rule.long_texts === "cut") return [ids.slice(0, most)];
  if (rule.long_texts === "head-tail") return [[...ids.slice(0, quarter), ...ids.slice(quarter - most)]];
  const found = [];
  for (let at = 0; at < ids.length - quarter; at += most - quarter) found.push(ids.slice(at, at + most));
  return found;
}

// Logits of the labels, of a text in windows the mean over them. The maps of attention stay those of the first piece.
// None of an empty text.
async function classify(text) {
  const folded = rule.white_space === "fold" ? text.replace(INVISIBLE, (found) => (/\p{White_Space}/u.test(found) ? " " : "")).replace(BLANK, " ").trim() : text;
  const read = tokenizer.encode(folded);
  if (!read.length) return null;
  const pieces = piecesOf(read);
  const sums = new Float64Array(rule.labels.length);
  for (const piece of [...pieces.slice(1), pieces[0]]) {
    (await logitsOf(piece)).forEach((logit, at) => (sums[at] += logit / pieces.length));
  }
  return { ids: pieces[0], logits: [...sums], pieces: pieces.length };
}

// Calibrated probabilities, and which labels are decided on.
function decide(logits) {
  const scaled = logits.map((logit) => logit / rule.temperature);
  if (rule.thresholds) {
    const p = scaled.map((logit) => 1 / (1 + Math.exp(-logit)));
    return { p, decided: p.map((own, at) => own >= rule.thresholds[at]) };
  }
  const most = Math.max(...scaled);
  const odds = scaled.map((logit) => Math.exp(logit - most));
  const sum = odds.reduce((total, odd) => total + odd);
  const p = odds.map((odd) => odd / sum);
  let best = p.indexOf(Math.max(...p));
  if (rule.costs) {
    const costs = p.map((_, said) => p.reduce((total, own, is) => total + own * rule.costs[is][said], 0));
    best = costs.indexOf(Math.min(...costs));
  }
  const positive = rule.labels.indexOf(rule.positive);
  if (positive >= 0 && rule.threshold !== null && p.length === 2) best = p[positive] >= rule.threshold ? positive : 1 - positive;
  return { p, decided: p.map((_, at) => at === best) };
}

async function showLabels(text) {
  const found = await classify(text);
  $("state").textContent = found ? "" : "The text is empty.";
  if (!found) return;
  const { ids, logits, pieces } = found;
  const { p, decided } = decide(logits);
  const said = rule.labels.filter((_, at) => decided[at]);
  const best = decided.indexOf(true);
  const abstains = rule.abstain_below !== null && best >= 0 && p[best] < rule.abstain_below;
  const order = p.map((_, at) => at).sort((a, b) => p[b] - p[a]);
  const rows = order.map((at) =>
    make("tr", {}, make("th", { scope: "row", textContent: rule.labels[at] }), shade(make("td", { className: "number", textContent: p[at].toFixed(4) }), p[at])),
  );
  const why = rule.thresholds
    ? "A text may have several labels, each with its own threshold."
    : rule.costs ? "The label with the least expected cost." : rule.threshold !== null && rule.positive !== null ? `${rule.positive} from a probability of ${rule.threshold.toFixed(4)}.` : "The likeliest label.";
  $("answer").replaceChildren(
    make("p", { className: "answer", textContent: abstains ? `no decision (${said[0]} is not sure enough)` : said.join("; ") || "no label" }),
    make("p", { className: "soft", textContent: why + (pieces > 1 ? ` The mean over ${pieces} windows of the text.` : "") }),
    make("table", { id: "labels" }, make("tbody", {}, ...rows)),
  );
  $("answer").hidden = false;
  show(ids, null);
}

function pick(logits, temperature) {
  let best = 0;
  for (let at = 1; at < logits.length; at++) if (logits[at] > logits[best]) best = at;
  if (!temperature) return best;
  const odds = Float64Array.from(logits, (logit) => Math.exp((logit - logits[best]) / temperature));
  let left = Math.random() * odds.reduce((total, odd) => total + odd);
  for (let at = 0; at < odds.length; at++) if ((left -= odds[at]) <= 0) return at;
  return best;
}

// Bits of a token, the negative logarithm of the probability that the logits gave it.
function bitsOf(logits, from, size, id) {
  let most = -Infinity;
  for (let at = from; at < from + size; at++) most = Math.max(most, logits[at]);
  let sum = 0;
  for (let at = from; at < from + size; at++) sum += Math.exp(logits[at] - most);
  return (Math.log(sum) + most - logits[from + id]) / Math.LN2;
}

// Read the ids, and write on: ids, bits of each token, and why it ended. wrote(new ids): called after each token.
async function write(prompt, newTokens, temperature, wrote) {
  model.clear();
  const V = model.weights["token_embedding.weight"].rows;
  const ids = [...prompt];
  const surprise = [null];
  let logits = null;
  for (let at = 0; at < prompt.length; at += CHUNK) {
    const chunk = prompt.slice(at, at + CHUNK);
    const all = model.logits(await model.read(chunk));
    chunk.forEach((_, t) => at + t + 1 < prompt.length && surprise.push(bitsOf(all, t * V, V, prompt[at + t + 1])));
    logits = all.slice((chunk.length - 1) * V);
    await pause();
    if (stopped) return { ids: ids.slice(0, at + chunk.length), surprise: surprise.slice(0, at + chunk.length), why: "stopped" };
  }
  for (let made = 0; made < newTokens; made++) {
    const token = pick(logits, temperature);
    if (token === tokenizer.end) return { ids, surprise, why: "the end of the text" };
    ids.push(token);
    surprise.push(bitsOf(logits, 0, V, token));
    if (wrote(ids.slice(prompt.length))) return { ids, surprise, why: "the end of the answer" };
    if (stopped) return { ids, surprise, why: "stopped" };
    if (ids.length > model.context) return { ids, surprise, why: `the context of ${model.context} tokens is full` };
    if (made + 1 < newTokens) logits = model.logits(await model.read([token]));
    await pause();
  }
  return { ids, surprise, why: "" };
}

async function showText(text) {
  const asked = data.prompt && $("prompt").checked;
  const prompt = asked ? tokenizer.encode(data.prompt.join(text)) : [tokenizer.end, ...tokenizer.encode(text)];
  if (prompt.length > model.context) {
    $("state").textContent = `${count(prompt.length)} tokens are more than the model's context of ${count(model.context)}: cut the text.`;
    return;
  }
  const made = make("span");
  $("written").replaceChildren(make("span", { className: "soft", textContent: asked ? "" : text }), made);
  $("written").hidden = false;
  const stops = asked ? data.stop : [];
  const { ids, surprise, why } = await write(prompt, Number($("new-tokens").value), Number($("temperature").value), (own) => {
    const said = tokenizer.decode(own).replace(/\ufffd{1,3}$/, ""); // a character whose bytes are not all there
    const at = Math.min(...stops.map((stop) => said.indexOf(stop)).filter((found) => found >= 0), Infinity);
    made.textContent = asked ? said.slice(0, at).trimStart() : said.slice(0, at);
    return at < Infinity;
  });
  const written = ids.length - Math.min(prompt.length, ids.length);
  $("state").textContent = `${count(written)} new ${written === 1 ? "token" : "tokens"}${why && `; ${why}`}.`;
  show(ids, surprise);
}

function show(ids, surprise) {
  const most = Math.min(ids.length, MOST_SHOWN, model.maps[0].length);
  shown = { ids: ids.slice(0, MOST_SHOWN), surprise, chosen: Math.min(1, ids.length - 1) };
  const maps = {
    title: `${model.layers} layers of ${model.heads} heads`,
    names: ids.slice(0, most).map((id) => tokenizer.label(id)),
    layers: model.layers,
    heads: model.heads,
    weight: (layer, head, query, key) => model.maps[layer * model.heads + head][query][key],
  };
  const cut = ids.length > MOST_SHOWN ? ` Shown are the first ${MOST_SHOWN}.` : "";
  const known = (surprise ?? []).filter((bits) => bits !== null);
  const mean = known.reduce((total, bits) => total + bits, 0) / Math.max(known.length, 1);
  $("tokens-note").textContent = surprise
    ? `A stronger colour means more surprise, in bits: the negative logarithm of the probability that the model gave the token; ${mean.toFixed(2)} bits per token.${cut}`
    : `What the model reads: ${count(ids.length)} tokens.${cut}`;
  $("inside").hidden = false;
  showTokens();
  $("heads").replaceChildren(headButtons(maps, (layer, head) => showHead([maps], layer, head)));
  $("head").replaceChildren();
}

function showTokens() {
  const { ids, surprise, chosen } = shown;
  $("tokens").replaceChildren(...tokenButtons(ids.map((id) => tokenizer.label(id)), surprise, chosen, (at) => {
    shown.chosen = at;
    showTokens();
    $("tokens").children[at].focus();
  }));
  const bits = surprise && surprise[chosen] !== null ? `, ${surprise[chosen].toFixed(2)} bits` : "";
  $("token").textContent = `Token ${chosen}: “${seen(tokenizer.label(ids[chosen]))}”, id ${ids[chosen]}${bits}.`;
}

async function run(event) {
  event.preventDefault();
  if (!stopped) return;
  const text = $("text").value;
  stopped = false;
  $("go").disabled = true;
  $("stop").disabled = false;
  $("state").textContent = "Reading.";
  await pause();
  try {
    await (rule ? showLabels(text) : showText(text));
  } finally {
    stopped = true;
    $("go").disabled = false;
    $("stop").disabled = true;
  }
}

async function begin() {
  $("kind").textContent = `${about.kind}, ${count(about.int8_bytes)} bytes of int8 weights`;
  $("cost").textContent = about.cost_said;
  $("writing").hidden = $("stop").hidden = Boolean(rule);
  $("prompt-part").hidden = !data.prompt;
  $("go").textContent = rule ? "Classify" : "Write";
  $("tokens-title").textContent = rule ? "Tokens" : "Tokens and surprise";
  await pause();
  load();
  const difference = await check();
  const right = difference < 1e-3;
  $("check").textContent = right
    ? `This browser computes the same logits as when the page was made (largest relative difference ${difference.toExponential(1)}).`
    : `This browser does not compute the same logits as when the page was made (relative difference ${difference.toExponential(1)}): do not trust its output.`;
  $("check").className = right ? "soft" : "warning";
  $("go").disabled = false;
}

$("form").addEventListener("submit", run);
$("stop").addEventListener("click", () => (stopped = true));
$("text").addEventListener("keydown", (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && run(event));
const ready = begin();
