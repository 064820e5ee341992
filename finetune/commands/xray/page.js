// The page of `finetune xray`, after parts.js.

const looks = [...(data.before ? [["before", data.before]] : []), ["after", data.after]];
let chosen = Math.min(1, data.after.tokens.length - 1);

const title = (when, look) => (data.before ? `${when === "before" ? "Before" : "After"}: ${look.name}` : look.name);

function drawTokens() {
  $("tokens").replaceChildren(
    ...looks.map(([when, look]) => {
      const known = look.surprise.filter((bits) => bits !== null);
      const sum = known.reduce((total, bits) => total + bits, 0);
      const parts = tokenButtons(look.tokens.map((token) => token.text), look.surprise, chosen, choose);
      const mean = known.length ? `, ${(sum / known.length).toFixed(2)} per token` : "";
      return make("div", { className: when }, make("h3", { textContent: `${title(when, look)}: ${sum.toFixed(1)} bits${mean}` }), make("div", { dir: "ltr" }, ...parts));
    }),
  );
  const token = data.after.tokens[chosen];
  const bits = looks.map(([when, look]) => `${look.surprise[chosen] === null ? "–" : look.surprise[chosen].toFixed(2)} bits${data.before ? ` ${when}` : ""}`);
  $("token").textContent = `Token ${chosen}: “${seen(token.text)}”, id ${token.id}, bytes ${token.bytes || "none"}; ${bits.join(", ")}.`;
}

function drawMerges() {
  $("merges").replaceChildren(
    ...data.merges.map((piece) =>
      make("div", { className: "piece" }, ...piece.steps.map((step) => make("div", {}, ...step.map((part) => make("span", { textContent: seen(part) }))))),
    ),
  );
}

function drawLens() {
  $("lens").replaceChildren(
    ...looks.map(([when, look]) => {
      const head = make("tr", {}, make("td"), ...look.tokens.map((token) => make("th", { scope: "col", textContent: seen(token.text) })));
      const rows = look.lens.map((guesses, layer) =>
        make(
          "tr",
          {},
          make("th", { scope: "row", textContent: layer === 0 ? "embedding" : `layer ${layer}` }),
          ...guesses.map((guess, at) => {
            const said = guess.tokens.map((token, i) => `“${seen(token)}” ${percent(guess.probabilities[i])}`).join(", ");
            const next = guess.next === null ? "" : `; the next token: ${percent(guess.next)}`;
            const cell = make("td", { textContent: seen(guess.tokens[0]), title: said + next, className: at === chosen ? "chosen" : "" });
            return shade(cell, guess.probabilities[0]);
          }),
        ),
      );
      const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.reverse()));
      return make("div", { className: when }, make("h3", { textContent: title(when, look) }), make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `Layers ${when}` }, table));
    }),
  );
}

function drawLabels() {
  if (!data.labels) return;
  $("labels-part").hidden = false;
  const said = data.after.labels.map((p) => p.indexOf(Math.max(...p)));
  let from = said.length;
  while (from > 0 && said[from - 1] === said[said.length - 1]) from -= 1;
  const where = from === 0 ? "already from the embedding" : `from layer ${from} on`;
  $("decides").textContent = `The last token's state, read by the classifier's head after each layer. The model decides for ${data.labels[data.decided]}; ${data.labels[said[said.length - 1]]} is the likeliest label ${where}.`;
  $("labels").replaceChildren(
    ...looks.filter(([, look]) => look.labels).map(([when, look]) => {
      const rows = look.labels.map((probabilities, layer) =>
        make("tr", {}, make("th", { scope: "row", textContent: layer === 0 ? "embedding" : `layer ${layer}` }), ...probabilities.map((p) => shade(make("td", { textContent: percent(p), className: "number" }), p))),
      );
      const head = make("tr", {}, make("td"), ...data.labels.map((label) => make("th", { scope: "col", textContent: label })));
      return make("div", {}, make("h3", { textContent: title(when, look) }), make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows.reverse())));
    }),
  );
}

function weightsOf(look) {
  const raw = Uint8Array.from(atob(look.attention), (character) => character.charCodeAt(0));
  const view = new DataView(raw.buffer);
  const T = look.tokens.length;
  return (layer, head, query, key) => view.getUint16(2 * (((layer * look.heads + head) * T + query) * T + key), true) / 65535;
}

const maps = looks.map(([when, look]) => ({ title: title(when, look), names: look.tokens.map((token) => token.text), layers: look.layers, heads: look.heads, weight: weightsOf(look) }));

function drawHeads() {
  $("heads").replaceChildren(...maps.map((own) => headButtons(own, (layer, head) => showHead(maps, layer, head))));
}

function drawMoved() {
  if (!data.moved) return;
  $("moved-part").hidden = false;
  const most = Math.max(...data.moved.tensors.map((own) => own.share), 1e-12);
  const several = data.moved.tensors.some((own) => own.singular);
  const head = make("tr", {}, ...["Tensor", "Change", "Share", "", ...(several ? ["Singular values of the change"] : [])].map((name) => make("th", { scope: "col", textContent: name })));
  const rows = data.moved.tensors.map((own) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${(8 * own.share) / most}rem`;
    const cells = [own.norm.toPrecision(4), `${(100 * own.share).toFixed(2)} %`].map((text) => make("td", { className: "number", textContent: text }));
    const values = several ? [make("td", { textContent: (own.singular ?? []).map((value) => value.toPrecision(3)).join(" ") })] : [];
    return make("tr", {}, make("th", { scope: "row", textContent: own.name }), ...cells, make("td", {}, bar), ...values);
  });
  $("moved").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
  if (data.moved.left_out.length) $("moved").append(make("p", { className: "soft", textContent: `Not compared: ${data.moved.left_out.join(", ")}` }));
}

function choose(at) {
  chosen = at;
  drawTokens();
  drawLens();
  document.querySelectorAll(".token")[looks.length === 2 ? at + data.before.tokens.length : at].focus();
}

$("text").textContent = data.text;
$("notes").replaceChildren(...data.notes.map((note) => make("li", { textContent: note })));
drawTokens();
drawMerges();
drawLabels();
drawLens();
drawHeads();
drawMoved();
