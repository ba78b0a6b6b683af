// Pixels and files: tensors as pictures, PNG and its animations, zip archives, downloads.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** CRC-32 of PNG and zip. @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/**
 * Image `index` of float [N, C, H, W] in [-1, 1] as a picture; see `grids.grid` for the channels.
 * @param {Float32Array} data
 * @param {readonly number[]} dims
 * @param {number} [index]
 */
export function picture(data, dims, index = 0) {
  const [, channels, height, width] = dims;
  const size = height * width, start = index * channels * size;
  const out = new ImageData(width, height);
  const planes = channels < 3 ? [0, 0, 0] : [0, 1, 2];
  if (channels === 4) planes.push(3);
  else out.data.fill(255);
  planes.forEach((plane, k) => {
    for (let i = 0; i < size; i++) {
      // Uint8ClampedArray rounds and clips as `to_uint8` does.
      out.data[4 * i + k] = data[start + plane * size + i] * 127.5 + 127.5;
    }
  });
  return out;
}

/**
 * Pixels of a picture as float [1, channels, H, W] in [-1, 1]: colors, or luminance (ITU-R 601 as
 * Pillow computes it).
 * @param {ImageData} image
 * @param {number} channels
 */
export function tensorOf(image, channels) {
  const size = image.width * image.height, pixels = image.data;
  const data = new Float32Array(channels * size);
  for (let i = 0; i < size; i++) {
    const [r, g, b] = [pixels[4 * i], pixels[4 * i + 1], pixels[4 * i + 2]];
    const values = channels < 3 ? [(r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16] : [r, g, b];
    values.forEach((value, k) => (data[k * size + i] = value / 127.5 - 1));
  }
  return { type: "float32", data, dims: [1, channels, image.height, image.width] };
}

/** Each pixel as a square of `scale` x `scale`. @param {ImageData} image @param {number} scale */
export function enlarged(image, scale) {
  if (scale === 1) return image;
  const out = new ImageData(image.width * scale, image.height * scale);
  const [from, to] = [new Uint32Array(image.data.buffer), new Uint32Array(out.data.buffer)];
  for (let y = 0; y < out.height; y++) {
    const row = Math.floor(y / scale) * image.width;
    for (let x = 0; x < out.width; x++) to[y * out.width + x] = from[row + Math.floor(x / scale)];
  }
  return out;
}

/** @param {...(number | string | Uint8Array)} parts numbers of 32 bits, ASCII, bytes */
function joined(...parts) {
  const bytes = parts.map((part) => {
    if (typeof part === "string") return new TextEncoder().encode(part);
    if (typeof part !== "number") return part;
    return Uint8Array.of(part >>> 24, part >>> 16, part >>> 8, part);
  });
  const all = new Uint8Array(bytes.reduce((sum, part) => sum + part.length, 0));
  bytes.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

/** @param {Uint8Array} bytes @param {CompressionStream | DecompressionStream} by */
export async function through(bytes, by) {
  const stream = new Blob([/** @type {BlobPart} */ (bytes)]).stream().pipeThrough(by);
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** The zlib stream of a picture's rows, RGBA, without filters. @param {ImageData} image */
function packed(image) {
  const length = 4 * image.width;
  const rows = new Uint8Array((length + 1) * image.height);
  for (let y = 0; y < image.height; y++) {
    rows.set(image.data.subarray(y * length, (y + 1) * length), y * (length + 1) + 1);
  }
  return through(rows, new CompressionStream("deflate"));
}

/**
 * A PNG; of several pictures an animation that repeats forever (the specification of APNG, which
 * is part of PNG since its third edition).
 * @param {ImageData[]} frames all of one size
 * @param {number} [rate] frames per second
 */
export async function png(frames, rate = 30) {
  /** @param {string} name @param {...(number | string | Uint8Array)} parts */
  const chunk = (name, ...parts) => {
    const body = joined(name, ...parts);
    return joined(body.length - 4, body, crc32(body));
  };
  const { width, height } = frames[0];
  const rgba = Uint8Array.of(8, 6, 0, 0, 0); // 8 bits, color type 6
  const chunks = [joined(0x89504e47, 0x0d0a1a0a), chunk("IHDR", width, height, rgba)];
  if (frames.length > 1) chunks.push(chunk("acTL", frames.length, 0));
  let number = 0; // chunks of the animation are numbered
  for (const [i, frame] of frames.entries()) {
    const data = await packed(frame);
    if (frames.length > 1) {
      const delay = Uint8Array.of(0, 1, rate >> 8, rate, 0, 0);
      chunks.push(chunk("fcTL", number++, width, height, 0, 0, delay));
    }
    chunks.push(i ? chunk("fdAT", number++, data) : chunk("IDAT", data));
  }
  chunks.push(chunk("IEND"));
  return new Blob(/** @type {BlobPart[]} */ (chunks), { type: "image/png" });
}

/** A zip archive, uncompressed. @param {Map<string, Uint8Array>} files by their paths */
export function zip(files) {
  /** @param {...number[]} fields numbers with their lengths in bytes, little-endian */
  const record = (...fields) =>
    Uint8Array.from(
      fields.flatMap(([n, size]) => Array.from({ length: size }, (_, i) => (n >>> (8 * i)) & 255)),
    );
  /** @type {{body: Uint8Array[], index: Uint8Array[]}} */
  const { body, index } = { body: [], index: [] };
  let at = 0, indexed = 0;
  for (const [name, data] of files) {
    const path = new TextEncoder().encode(name);
    // Version 2.0, names in UTF-8, stored, 1 January 1980.
    const shared = record(
      [20, 2], [0x800, 2], [0, 2], [0, 2], [33, 2], [crc32(data), 4], [data.length, 4],
      [data.length, 4], [path.length, 2], [0, 2],
    );
    const entry = joined(record([0x04034b50, 4]), shared, path, data);
    const rest = record([0, 2], [0, 2], [0, 2], [0, 4], [at, 4]);
    const listed = joined(record([0x02014b50, 4], [20, 2]), shared, rest, path);
    body.push(entry);
    index.push(listed);
    at += entry.length;
    indexed += listed.length;
  }
  const n = files.size;
  const end = record(
    [0x06054b50, 4], [0, 2], [0, 2], [n, 2], [n, 2], [indexed, 4], [at, 4], [0, 2],
  );
  const parts = /** @type {BlobPart[]} */ ([...body, ...index, end]);
  return new Blob(parts, { type: "application/zip" });
}

/** Hand a file to the visitor. @param {Blob} file @param {string} name */
export function save(file, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** The bytes of text in base64. @param {string} text */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
