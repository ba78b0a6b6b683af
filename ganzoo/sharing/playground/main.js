// The start of the page: loads everything with a progress bar, then shows one of the two kinds.

import { byId, fail, Networks, part, say } from "./page.js";
import { seedsPage } from "./seeds.js";
import { translationPage } from "./translation.js";

/** @typedef {import("./page.js").Facts} Facts */

const RUNTIME = "ort.wasm.bundle.min.mjs", WASM = "ort.wasm.gz", WORKER = "worker.js";

/**
 * The address of a script: next to the page, or of what is embedded. Pages that are opened as files
 * may start a worker from a blob but not import one there; data they may import.
 * @param {string} name
 * @param {boolean} imported
 */
async function script(name, imported) {
  if (!document.getElementById(`part:${name}`)) return new URL(name, document.baseURI).href;
  const text = /** @type {BlobPart} */ (await part(name));
  const blob = new Blob([text], { type: "text/javascript" });
  if (!imported) return URL.createObjectURL(blob);
  const reader = new FileReader();
  const read = new Promise((resolve) => (reader.onload = resolve));
  reader.readAsDataURL(blob);
  await read;
  return String(reader.result);
}

async function start() {
  const needed = ["WebAssembly", "Worker", "CompressionStream", "DecompressionStream"];
  if (needed.some((name) => !(name in window))) {
    throw new Error("This browser is too old for this page: use a current one.");
  }
  say("Loading…");
  /** @type {Facts} */
  const facts = JSON.parse(new TextDecoder().decode(await part("playground.json")));
  const bar = byId("loading", HTMLProgressElement);
  const total = Object.values(facts.parts).reduce((sum, bytes) => sum + bytes, 0);
  let arrived = 0;
  /** @param {number} bytes */
  const count = (bytes) => {
    arrived += bytes;
    bar.value = Math.min(1, arrived / total);
    const [now, all] = [arrived, total].map((n) => (n / 2 ** 20).toFixed(1));
    say(`Loading the network and the program that runs it: ${now} of ${all} MB`);
  };
  const files = Object.keys(facts.parts).map(
    /** @returns {Promise<[string, Uint8Array]>} */ async (name) => [name, await part(name, count)],
  );
  const networks = new Networks(new Worker(await script(WORKER, false)));
  const url = await script(RUNTIME, true);
  const graphs = new Map(await Promise.all(files));
  const wasm = graphs.get(WASM);
  graphs.delete(WASM);
  say("Starting…");
  await networks.ask("start", { url, wasm });
  for (const [name, graph] of graphs) await networks.ask("load", { name, graph });
  bar.hidden = true;
  say("");
  byId("play", HTMLElement).hidden = false;
  await (facts.kind === "seeds" ? seedsPage : translationPage)(facts, networks);
  document.body.dataset.ready = "yes";
}

start().catch(fail);
