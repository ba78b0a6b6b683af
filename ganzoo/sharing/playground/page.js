// What both kinds of page share: files of the page, the worker, messages, elements.

import { fromBase64, through } from "./files.js";

/**
 * What a page needs, as Python writes it to playground.json.
 * @typedef {object} Facts
 * @property {"seeds" | "translation"} kind
 * @property {string} name for the names of files
 * @property {Record<string, number>} parts files to load before the start, with their bytes
 * @property {Record<string, {shape: number[], data: string}>} arrays float32 or int32 in base64
 * @property {number[]} shape channels, height and width of images
 * @property {number} nz
 * @property {string} prior empty if only the latents in `arrays` are known
 * @property {import("./random.js").Stop[]} stops from the least variety to the most
 * @property {string[]} classes names
 * @property {number[] | null} bounds
 * @property {Direction[]} directions
 * @property {{name: string, file: string}[]} examples
 */

/** @typedef {{name: string, from: string, to: string, channels: number, makes: number}} Direction */
/** @typedef {{type: string, data: ArrayLike<number> | BigInt64Array, dims: number[]}} Input */
/** @typedef {{data: Float32Array, dims: number[]}} Output */

/**
 * The element with an id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (found instanceof kind) return found;
  throw new Error(`The page has no ${id}.`);
}

/** @param {string} id */
export const button = (id) => byId(id, HTMLButtonElement);
/** @param {string} id */
export const input = (id) => byId(id, HTMLInputElement);
/** @param {string} id */
export const select = (id) => byId(id, HTMLSelectElement);

/** Tell the visitor what goes on. @param {string} text */
export function say(text) {
  byId("status", HTMLElement).textContent = text;
}

/** Tell the visitor what went wrong. @param {unknown} error */
export function fail(error) {
  byId("problem", HTMLElement).textContent = error instanceof Error ? error.message : `${error}`;
}

/** Let an event start something, and report if it fails. @param {() => unknown} task */
export function doing(task) {
  return async () => {
    byId("problem", HTMLElement).textContent = "";
    try {
      await task();
    } catch (error) {
      fail(error);
    }
  };
}

/**
 * The options of a menu.
 * @param {HTMLSelectElement} menu
 * @param {Iterable<[string, string]>} options values and names
 */
export function fill(menu, options) {
  menu.replaceChildren(...Array.from(options, ([value, name]) => new Option(name, value)));
}

/** A canvas that shows a picture in its own size. @param {HTMLCanvasElement} canvas @param {ImageData} image */
export function draw(canvas, image) {
  if (canvas.width !== image.width || canvas.height !== image.height) {
    canvas.width = image.width;
    canvas.height = image.height;
  }
  canvas.classList.toggle("pixels", image.width < 128);
  canvas.getContext("2d")?.putImageData(image, 0, 0);
}

/** The networks, which run in a worker. */
export class Networks {
  /** @param {Worker} worker */
  constructor(worker) {
    this.worker = worker;
    /** @type {Map<number, {resolve: (found: any) => void, reject: (error: Error) => void}>} */
    this.waiting = new Map();
    this.sent = 0;
    worker.onmessage = ({ data: { id, result, error } }) => {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) waiting?.resolve(result);
      else waiting?.reject(new Error(error));
    };
    worker.onerror = () => fail("The worker of this page could not be started.");
  }

  /** @param {string} job @param {object} given @param {Transferable[]} [transfer] @returns {Promise<any>} */
  ask(job, given, transfer = []) {
    const id = this.sent++;
    this.worker.postMessage({ id, job, given }, transfer);
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  /** Images by a network. @param {string} name @param {Record<string, Input>} inputs @returns {Promise<Output>} */
  run(name, inputs) {
    return this.ask("run", { name, inputs });
  }
}

/**
 * A file of the page: embedded in it, or next to it; unpacked if it is gzip.
 * @param {string} name
 * @param {(bytes: number) => void} [arrived] called as bytes arrive
 */
export async function part(name, arrived = () => {}) {
  const embedded = document.getElementById(`part:${name}`);
  let bytes = fromBase64(embedded?.textContent ?? "");
  if (embedded) {
    embedded.remove();
    arrived(bytes.length);
  } else {
    const response = await fetch(name);
    if (!response.ok || !response.body) {
      throw new Error(`${name} could not be loaded (${response.status}): reload the page.`);
    }
    const [copy, counted] = response.body.tee();
    const whole = new Response(copy).arrayBuffer();
    const reader = counted.getReader();
    for (let read = await reader.read(); !read.done; read = await reader.read()) {
      arrived(read.value.length);
    }
    bytes = new Uint8Array(await whole);
  }
  const zipped = bytes[0] === 0x1f && bytes[1] === 0x8b;
  return zipped ? through(bytes, new DecompressionStream("gzip")) : bytes;
}
