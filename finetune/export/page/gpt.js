// GPT-2's forward pass over int8 weights: each row of a matrix has a scale, activations are Float32.
// Letters as in models/gpt.py: T tokens, C width, H heads, D = C / H, V vocabulary. Keys and values are kept, so that a
// text grows by its new tokens alone.

const CHUNK = 16; // tokens of a pass, between which the page can answer

class Weights {
  // buffer: the tensors one after the other; index: [name, rows, columns] of each, columns 0 for a vector in Float32
  constructor(buffer, index) {
    let at = 0;
    const floats = (count) => new Float32Array(buffer.slice(at, (at += 4 * count)));
    for (const [name, rows, columns] of index) {
      if (!columns) {
        this[name] = floats(rows);
        continue;
      }
      const scale = floats(rows);
      this[name] = { rows, columns, scale, levels: new Int8Array(buffer, at, rows * columns) };
      at += rows * columns;
    }
  }
}

// Row number `row` of a matrix as numbers.
function rowOf(matrix, row, target) {
  const { columns, levels, scale } = matrix;
  for (let i = 0, from = row * columns; i < columns; i++) target[i] = levels[from + i] * scale[row];
  return target;
}

// x (T, C_in) times the matrix (C_out, C_in), plus a bias: (T, C_out). Each row is widened once for all tokens.
function linear(x, T, matrix, bias) {
  const { rows, columns } = matrix;
  const y = new Float32Array(T * rows);
  const row = new Float32Array(columns);
  for (let j = 0; j < rows; j++) {
    rowOf(matrix, j, row);
    const start = bias ? bias[j] : 0;
    for (let t = 0; t < T; t++) {
      const from = t * columns;
      let [even, odd, i] = [start, 0, 0]; // two sums, which a processor adds to side by side
      for (; i + 1 < columns; i += 2) {
        even += row[i] * x[from + i];
        odd += row[i + 1] * x[from + i + 1];
      }
      if (i < columns) even += row[i] * x[from + i];
      y[t * rows + j] = even + odd;
    }
  }
  return y;
}

// (T, C) -> (T, C), each token's numbers normalised (Ba et al. 2016).
function layerNorm(x, T, gain, bias, eps) {
  const C = gain.length;
  const y = new Float32Array(x.length);
  for (let t = 0; t < T; t++) {
    let mean = 0;
    let square = 0;
    for (let i = 0; i < C; i++) mean += x[t * C + i] / C;
    for (let i = 0; i < C; i++) square += (x[t * C + i] - mean) ** 2 / C;
    const factor = 1 / Math.sqrt(square + eps);
    for (let i = 0; i < C; i++) y[t * C + i] = (x[t * C + i] - mean) * factor * gain[i] + bias[i];
  }
  return y;
}

// GELU in its tanh form (Hendrycks and Gimpel 2016), in place.
function gelu(x) {
  for (let i = 0; i < x.length; i++) {
    x[i] = 0.5 * x[i] * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x[i] + 0.044715 * x[i] ** 3)));
  }
  return x;
}

function add(x, y) {
  for (let i = 0; i < x.length; i++) x[i] += y[i];
}

class GPT {
  // shape: {width, layers, heads, context, eps}
  constructor(shape, weights) {
    Object.assign(this, shape);
    this.weights = weights;
    this.clear();
  }

  clear() {
    this.length = 0; // tokens read
    this.keys = Array.from({ length: this.layers }, () => new Float32Array(this.context * this.width));
    this.values = Array.from({ length: this.layers }, () => new Float32Array(this.context * this.width));
    this.maps = Array.from({ length: this.layers * this.heads }, () => []); // of each head, a row of weights per token
  }

  // Read more tokens: their states after the final norm, (T, C). pause: called between parts of a long text.
  async read(ids, pause = async () => {}) {
    const states = new Float32Array(ids.length * this.width);
    for (let at = 0; at < ids.length; at += CHUNK) {
      if (at) await pause();
      states.set(this.extend(ids.slice(at, at + CHUNK)), at * this.width);
    }
    return states;
  }

  extend(ids) {
    const { width: C, weights, length } = this;
    const T = ids.length;
    const x = new Float32Array(T * C);
    const row = new Float32Array(C);
    ids.forEach((id, t) => {
      x.set(rowOf(weights["token_embedding.weight"], id, row), t * C);
      rowOf(weights["position_embedding.weight"], length + t, row);
      for (let i = 0; i < C; i++) x[t * C + i] += row[i];
    });
    for (let layer = 0; layer < this.layers; layer++) {
      const own = (name) => [weights[`blocks.${layer}.${name}.weight`], weights[`blocks.${layer}.${name}.bias`]];
      const attended = this.attend(layer, linear(layerNorm(x, T, ...own("norm_1"), this.eps), T, ...own("attention.qkv")), T);
      add(x, linear(attended, T, ...own("attention.out")));
      const hidden = gelu(linear(layerNorm(x, T, ...own("norm_2"), this.eps), T, ...own("mlp.up")));
      add(x, linear(hidden, T, ...own("mlp.down")));
    }
    this.length += T;
    return layerNorm(x, T, weights["norm.weight"], weights["norm.bias"], this.eps);
  }

  // softmax(Q K^T / sqrt(D)) V in each head, causal (Vaswani et al. 2017, section 3.2): qkv (T, 3 C) -> (T, C).
  attend(layer, qkv, T) {
    const { width: C, heads: H } = this;
    const D = C / H;
    const y = new Float32Array(T * C);
    const keys = this.keys[layer];
    const values = this.values[layer];
    for (let t = 0; t < T; t++) {
      const place = this.length + t;
      keys.set(qkv.subarray(t * 3 * C + C, t * 3 * C + 2 * C), place * C);
      values.set(qkv.subarray(t * 3 * C + 2 * C, t * 3 * C + 3 * C), place * C);
      for (let head = 0; head < H; head++) {
        const weights = new Float32Array(place + 1);
        const query = t * 3 * C + head * D;
        let most = -Infinity;
        for (let key = 0; key <= place; key++) {
          let score = 0;
          for (let i = 0, from = key * C + head * D; i < D; i++) score += qkv[query + i] * keys[from + i];
          weights[key] = score / Math.sqrt(D);
          most = Math.max(most, weights[key]);
        }
        let sum = 0;
        for (let key = 0; key <= place; key++) sum += weights[key] = Math.exp(weights[key] - most);
        for (let key = 0; key <= place; key++) {
          weights[key] /= sum;
          for (let i = 0; i < D; i++) y[t * C + head * D + i] += weights[key] * values[key * C + head * D + i];
        }
        this.maps[layer * H + head].push(weights);
      }
    }
    return y;
  }

  // Logits of the next token after each state, (T, C) -> (T, V), or with a classifier's head (T, K).
  logits(states, matrix = this.weights["token_embedding.weight"]) {
    return linear(states, states.length / this.width, matrix);
  }
}
