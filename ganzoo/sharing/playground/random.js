// The random numbers of ganzoo.draws: a seed has the same latent vector and class here as there.

/** @typedef {{name: string, limit: number | null, factor: number}} Stop a truncation */

const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8",
  "905724afe1bc683d", "2c6a0b834d75fe19",
  "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((row) => [...row].map((digit) => parseInt(digit, 16)));
const MASK = (1n << 64n) - 1n;

/**
 * BLAKE2b of 8 bytes (RFC 7693) of text of at most 128 letters of ASCII, as a little-endian number.
 * @param {string} text
 */
export function blake2b(text) {
  const block = new DataView(new ArrayBuffer(128));
  [...text].forEach((letter, i) => block.setUint8(i, letter.charCodeAt(0)));
  const m = Array.from({ length: 16 }, (_, i) => block.getBigUint64(8 * i, true));
  const first = IV[0] ^ 0x01010008n; // one layer, no key, a digest of 8 bytes
  const v = [first, ...IV.slice(1), ...IV];
  v[12] ^= BigInt(text.length);
  v[14] ^= MASK; // the last block
  /** @param {bigint} x @param {bigint} by */
  const turned = (x, by) => (x >> by) | ((x << (64n - by)) & MASK);
  for (let round = 0; round < 12; round++) {
    const order = SIGMA[round % 10];
    for (let i = 0; i < 8; i++) {
      const row = i & 3, by = i >> 2; // four columns, then four diagonals
      const [a, b, c, d] = [0, 1, 2, 3].map((k) => 4 * k + ((row + k * by) & 3));
      v[a] = (v[a] + v[b] + m[order[2 * i]]) & MASK;
      v[d] = turned(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turned(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + m[order[2 * i + 1]]) & MASK;
      v[d] = turned(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turned(v[b] ^ v[c], 63n);
    }
  }
  return first ^ v[0] ^ v[8];
}

/** PyTorch's generator on the CPU: MT19937 (Matsumoto and Nishimura 1998). */
class Generator {
  /** @param {number} seed a sample's */
  constructor(seed) {
    const state = new Uint32Array(624);
    // PyTorch seeds with the low 32 bits alone.
    state[0] = Number((blake2b(`('sample', ${seed})`) >> 1n) & 0xffffffffn);
    for (let i = 1; i < 624; i++) {
      const before = state[i - 1] ^ (state[i - 1] >>> 30);
      state[i] = Math.imul(before, 1812433253) + i;
    }
    this.state = state;
    this.at = 624;
    /** @type {number | null} the second of two normal numbers, which come in pairs */
    this.kept = null;
  }

  /** A number of 32 bits. */
  next() {
    const s = this.state;
    if (this.at === 624) {
      for (let i = 0; i < 624; i++) {
        const y = (s[i] & 0x80000000) | (s[(i + 1) % 624] & 0x7fffffff);
        s[i] = s[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
      }
      this.at = 0;
    }
    let y = s[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  /** U[0, 1) in float32: 24 bits. */
  unit() {
    return (this.next() & 0xffffff) / 2 ** 24;
  }

  /** U[0, 1) in float64: 53 bits of two numbers. */
  wide() {
    const high = this.next() & 0x1fffff;
    return (high * 2 ** 32 + this.next()) / 2 ** 53;
  }

  /** N(0, 1), one by one, as PyTorch draws fewer than 16. */
  normal() {
    if (this.kept !== null) {
      const kept = this.kept;
      this.kept = null;
      return kept;
    }
    const angle = 2 * Math.PI * this.wide();
    const radius = Math.sqrt(-2 * Math.log1p(-this.wide()));
    this.kept = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /**
   * N(0, 1), as PyTorch draws 16 and more: each 16 uniform numbers become eight pairs (Box and
   * Muller 1958), and the last 16 numbers are drawn again unless 16 divides n.
   * @param {number} n
   */
  normals(n) {
    const row = new Float32Array(n);
    if (n < 16) return row.map(() => this.normal());
    for (let i = 0; i < n; i++) row[i] = this.unit();
    /** @param {number} start */
    const pairs = (start) => {
      for (let i = start; i < start + 8; i++) {
        const radius = Math.sqrt(-2 * Math.log(1 - row[i]));
        const angle = 2 * Math.PI * row[i + 8];
        row[i] = radius * Math.cos(angle);
        row[i + 8] = radius * Math.sin(angle);
      }
    };
    for (let start = 0; start + 16 <= n; start += 16) pairs(start);
    if (n % 16) {
      for (let i = n - 16; i < n; i++) row[i] = this.unit();
      pairs(n - 16);
    }
    return row;
  }
}

/** @type {Record<string, (generator: Generator, n: number) => Float32Array>} */
const PRIORS = {
  normal: (generator, n) => generator.normals(n),
  uniform: (generator, n) => new Float32Array(n).map(() => generator.unit() * 2 - 1),
  unit: (generator, n) => new Float32Array(n).map(() => generator.unit()),
  bernoulli: (generator, n) => new Float32Array(n).map(() => generator.next() % 2),
  censored_normal: (generator, n) => generator.normals(n).map((x) => Math.max(0, x)),
};

/**
 * The latent vector of a seed, as `FromSeeds.latents` draws it.
 * @param {number} seed
 * @param {number} nz its length
 * @param {string} prior a name in PRIORS
 * @param {Stop} stop values beyond its limit are drawn again, and all multiplied by its factor
 */
export function latent(seed, nz, prior, stop) {
  const generator = new Generator(seed);
  const row = PRIORS[prior](generator, nz);
  /** @param {number} x */
  const outside = (x) => stop.limit !== null && Math.abs(x) > Math.fround(stop.limit);
  while (row.some(outside)) {
    // A whole vector is drawn for whatever is outside, as in Python.
    PRIORS[prior](generator, nz).forEach((x, i) => outside(row[i]) && (row[i] = x));
  }
  return row.map((x) => x * stop.factor);
}

/**
 * The class of a seed, as `FromSeeds.labels` draws it.
 * @param {number} seed
 * @param {number} classes their number
 * @param {number[] | null} bounds where the share of each class ends; null for equal shares
 */
export function labelOf(seed, classes, bounds) {
  const generator = new Generator(seed + 2 ** 32);
  if (!bounds) return generator.next() % classes;
  const u = generator.unit() * bounds[bounds.length - 1];
  return bounds.findIndex((bound) => u < bound);
}

/**
 * Between two vectors on a great circle, at t in [0, 1]; see `slerp` in ganzoo/pictures/sheets.py.
 * @param {Float32Array} a
 * @param {Float32Array} b
 * @param {number} t
 */
export function slerp(a, b, t) {
  /** @param {Float32Array} x @param {Float32Array} y */
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const cosine = dot(a, b) / Math.max(Math.sqrt(dot(a, a)) * Math.sqrt(dot(b, b)), 1e-12);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const sine = Math.sin(angle);
  if (sine < 1e-6) return lerp(a, b, t);
  const [p, q] = [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return a.map((value, i) => p * value + q * b[i]);
}

/**
 * @param {Float32Array} a
 * @param {Float32Array} b
 * @param {number} t
 */
export function lerp(a, b, t) {
  return a.map((value, i) => value + t * (b[i] - value));
}
