// GPT-2's byte-level BPE (Sennrich et al. 2016, over bytes as in Radford et al. 2019), with the ids that tiktoken gives.

// White space is Unicode's property, as in tiktoken's regular expressions: JavaScript's \s counts U+FEFF and not U+0085.
const SPLIT = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+$|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}/gu;

class Tokenizer {
  // bytes: the byte that each of the first 256 ids stands for; merges: pairs of ids, the first of which makes id 256;
  // special: the names of the tokens after these
  constructor(bytes, merges, special) {
    this.parts = bytes.map((byte) => String.fromCharCode(byte)); // a token as a string of its bytes
    for (let at = 0; at < merges.length; at += 2) this.parts.push(this.parts[merges[at]] + this.parts[merges[at + 1]]);
    this.ids = new Map(this.parts.map((part, id) => [part, id]));
    this.special = special;
  }

  // Ids of a text; the names of special tokens in it are read as text.
  encode(text) {
    const utf8 = new TextEncoder();
    const asBytes = (piece) => Array.from(utf8.encode(piece), (byte) => String.fromCharCode(byte)).join("");
    return (text.match(SPLIT) ?? []).flatMap((piece) => this.merge(asBytes(piece)));
  }

  // Ids of a piece, a string of bytes: the neighbours that make the token of the lowest id are joined, the first of equal ones.
  merge(piece) {
    if (this.ids.has(piece)) return [this.ids.get(piece)];
    const parts = [...piece];
    const rank = (at) => this.ids.get(parts[at] + parts[at + 1]) ?? Infinity;
    const ranks = parts.slice(1).map((_, at) => rank(at)); // of each pair of neighbours
    for (;;) {
      let best = 0;
      for (let at = 1; at < ranks.length; at++) if (ranks[at] < ranks[best]) best = at;
      if (!ranks.length || ranks[best] === Infinity) return parts.map((part) => this.ids.get(part));
      parts.splice(best, 2, parts[best] + parts[best + 1]);
      ranks.splice(best, 1);
      if (best > 0) ranks[best - 1] = rank(best - 1);
      if (best < ranks.length) ranks[best] = rank(best);
    }
  }

  // The bytes of ids; special tokens have none.
  bytes(ids) {
    return Uint8Array.from(ids.map((id) => this.parts[id] ?? "").join(""), (character) => character.charCodeAt(0));
  }

  decode(ids) {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes(ids));
  }

  // A token's text; of a part of a character, its bytes.
  label(id) {
    if (id >= this.parts.length) return this.special[id - this.parts.length];
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.bytes([id]));
    } catch {
      return [...this.bytes([id])].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
    }
  }
}
