// A page of images from seeds: a grid, and one of them large, to change, to walk to, to save.

import { enlarged, fromBase64, picture, png, save } from "./files.js";
import { button, byId, doing, draw, fail, fill, input, say, select } from "./page.js";
import { labelOf, latent, lerp, slerp } from "./random.js";

/** @typedef {import("./page.js").Facts} Facts */
/**
 * What an image is made of, as the visitor sets it.
 * @typedef {object} Look
 * @property {number} seed
 * @property {number} label a class; -1 for the seed's own
 * @property {number} mix another class; -1 for none
 * @property {number} share of that, in [0, 1]
 * @property {number[]} nudge steps along each of the directions
 */
/** @typedef {{z: Float32Array, label: number, embedding?: Float32Array}} Point */

const TILES = 24, AT_ONCE = 4;
const LEG = 1.5; // seconds of a walk from one picture to the next
const FRAMES = 24; // frames of that in a file
const RATE = FRAMES / LEG;
const SIDE = 256; // pixels that small pictures are enlarged to in files
const NEAR = 1e-4; // numbers that differ by less are the same: sines and logarithms are rounded

/** Everything about images that does not depend on the page. */
class Model {
  /** @param {Facts} facts @param {import("./page.js").Networks} networks */
  constructor(facts, networks) {
    this.facts = facts;
    this.networks = networks;
    this.arrays = Object.fromEntries(
      Object.entries(facts.arrays).map(([name, { shape, data }]) => {
        const bytes = fromBase64(data).buffer;
        const numbers = name === "labels" ? new Int32Array(bytes) : new Float32Array(bytes);
        const length = shape[1] ?? 1;
        const rows = Array.from({ length: shape[0] }, (_, i) =>
          Float32Array.from(numbers.subarray(i * length, (i + 1) * length)),
        );
        return [name, rows];
      }),
    );
    this.exact = this.reproduces();
    // Values beyond a limit cannot be drawn again if they cannot be drawn.
    const possible = facts.stops.map((stop, row) => ({ ...stop, row }));
    this.stops = possible.filter((stop) => this.exact || stop.limit === null);
    if (!this.stops.length) {
      this.stops.push({ name: "no limit", limit: null, factor: 1, row: possible.length - 1 });
    }
    this.stop = this.stops.length - 1;
  }

  /** Whether this browser draws the numbers that Python drew for the first seeds. */
  reproduces() {
    const { nz, prior, classes, bounds } = this.facts;
    if (!prior) return false;
    const whole = { name: "", limit: null, factor: 1 };
    return this.arrays.latents.every((row, seed) => {
      const ours = latent(seed, nz, prior, whole);
      const label = this.arrays.labels?.[seed][0];
      if (label !== undefined && label !== labelOf(seed, classes.length, bounds)) return false;
      return row.every((x, i) => Math.abs(x - ours[i]) < NEAR);
    });
  }

  /** @returns {number} the number of seeds that are known */
  get seeds() {
    return this.exact ? 2 ** 32 : this.arrays.latents.length;
  }

  /** The class that a seed has by itself. @param {number} seed */
  labelOf(seed) {
    const { classes, bounds } = this.facts;
    if (!classes.length) return 0;
    return this.exact ? labelOf(seed, classes.length, bounds) : this.arrays.labels[seed][0];
  }

  /** @param {Look} look @returns {Point} */
  point({ seed, label, mix, share, nudge }) {
    const { nz, prior } = this.facts, stop = this.stops[this.stop];
    const z = this.exact
      ? latent(seed, nz, prior, stop)
      : this.arrays.latents[seed].map((x) => x * stop.factor);
    nudge.forEach((step, k) => {
      if (step) this.arrays.directions[k].forEach((x, i) => (z[i] += step * x));
    });
    const own = label < 0 ? this.labelOf(seed) : label;
    const table = this.arrays.embeddings;
    const embedding = mix < 0 ? table?.[own] : lerp(table[own], table[mix], share);
    return { z, label: own, embedding };
  }

  /** Between two points, at t in [0, 1]. @param {Point} a @param {Point} b @param {number} t @returns {Point} */
  between(a, b, t) {
    const embedding = a.embedding && b.embedding && lerp(a.embedding, b.embedding, t);
    return { z: slerp(a.z, b.z, t), label: t < 0.5 ? a.label : b.label, embedding };
  }

  /** @param {Point[]} points */
  async images(points) {
    const n = points.length;
    /** @param {Float32Array[]} rows */
    const stacked = (rows) => {
      const data = new Float32Array(n * rows[0].length);
      rows.forEach((row, i) => data.set(row, i * row.length));
      return { type: "float32", data, dims: [n, rows[0].length] };
    };
    /** @type {Record<string, import("./page.js").Input>} */
    const inputs = { latents: stacked(points.map((point) => point.z)) };
    if (this.arrays.labels) {
      const data = BigInt64Array.from(points, (point) => BigInt(point.label));
      inputs.labels = { type: "int64", data, dims: [n] };
    }
    const embeddings = points.flatMap((point) => point.embedding ?? []);
    if (embeddings.length) inputs.class_embedding = stacked(embeddings);
    if (this.arrays.statistics) {
      const data = this.arrays.statistics[this.stops[this.stop].row];
      inputs.statistics = { type: "float32", data, dims: [data.length] };
    }
    const { data, dims } = await this.networks.run("generator.onnx", inputs);
    return points.map((_, i) => picture(data, dims, i));
  }
}

/** @param {Facts} facts @param {import("./page.js").Networks} networks */
export async function seedsPage(facts, networks) {
  const model = new Model(facts, networks);
  const scale = Math.max(1, Math.floor(SIDE / Math.max(facts.shape[1], facts.shape[2])));
  const nudges = (model.arrays.directions ?? []).map((_, k) => input(`nudge${k}`));
  const [grid, large] = [byId("grid", HTMLElement), byId("large", HTMLCanvasElement)];
  const tiles = Array.from({ length: Math.min(TILES, model.seeds) }, tile);
  grid.replaceChildren(...tiles.map(({ frame }) => frame));

  /** @type {Look} */
  const look = { seed: 0, label: -1, mix: -1, share: 0, nudge: nudges.map(() => 0) };
  /** @type {Look[]} */
  let walk = [];
  let first = 0, playing = false;

  function tile() {
    const frame = document.createElement("button");
    const [canvas, name] = [document.createElement("canvas"), document.createElement("span")];
    [canvas.width, canvas.height] = [facts.shape[2], facts.shape[1]];
    frame.append(canvas, name);
    frame.className = "tile";
    frame.type = "button";
    return { frame, canvas, name };
  }

  /** The class of a look, in words. @param {Look} of */
  function classOf(of) {
    if (!facts.classes.length) return "";
    const own = facts.classes[of.label < 0 ? model.labelOf(of.seed) : of.label];
    return of.mix < 0 ? own : `${own} and ${facts.classes[of.mix]}`;
  }

  let drawn = 0;
  async function drawGrid() {
    const mine = ++drawn;
    grid.setAttribute("aria-busy", "true");
    const looks = tiles.map((_, i) => ({ ...look, seed: first + i, nudge: [] }));
    tiles.forEach(({ frame, name }, i) => {
      const { seed } = looks[i];
      name.textContent = `${seed}`;
      frame.setAttribute("aria-label", [`Picture ${seed}`, classOf(looks[i])].filter(Boolean).join(", "));
      frame.setAttribute("aria-pressed", String(seed === look.seed));
    });
    for (let start = 0; start < looks.length && mine === drawn; start += AT_ONCE) {
      const images = await model.images(looks.slice(start, start + AT_ONCE).map((l) => model.point(l)));
      if (mine !== drawn) return;
      images.forEach((image, i) => draw(tiles[start + i].canvas, image));
      if (!start) performance.mark("first image");
    }
    grid.setAttribute("aria-busy", "false");
  }

  let wanted = 0;
  async function drawLarge() {
    playing = false;
    button("walk").textContent = "Play";
    const mine = ++wanted;
    const [image] = await model.images([model.point(look)]);
    if (mine !== wanted) return;
    draw(large, image);
    const of = classOf(look);
    byId("chosen", HTMLElement).textContent = `Picture ${look.seed}${of && `: ${of}`}`;
    large.setAttribute("aria-label", `Picture ${look.seed}, large${of && `: ${of}`}`);
    large.dataset.drawn = String(mine);
  }

  const drawAll = () => Promise.all([drawGrid(), drawLarge()]);

  /** @param {number} seed */
  function choose(seed) {
    look.seed = seed;
    look.nudge.fill(0);
    nudges.forEach((slider) => (slider.value = "0"));
    tiles.forEach(({ frame }, i) => frame.setAttribute("aria-pressed", String(first + i === seed)));
    return drawLarge();
  }

  /** Show the pictures from a seed on. @param {number} seed */
  function turn(seed) {
    first = Math.max(0, Math.min(seed, model.seeds - tiles.length));
    button("earlier").disabled = first === 0;
    button("later").disabled = first + tiles.length >= model.seeds;
    choose(Math.max(first, Math.min(seed, model.seeds - 1))).catch(fail);
    return drawGrid();
  }

  // -- all pictures -------------------------------------------------------------------------------

  tiles.forEach(({ frame }, i) => {
    frame.onclick = doing(() => {
      large.scrollIntoView({ block: "nearest" });
      return choose(first + i);
    });
  });
  button("later").onclick = doing(() => turn(first + tiles.length));
  button("earlier").onclick = doing(() => turn(first - tiles.length));
  byId("go", HTMLFormElement).onsubmit = (event) => {
    event.preventDefault();
    doing(() => turn(Math.floor(Number(input("number").value))))();
  };
  input("number").max = String(model.seeds - 1);
  if (!model.exact) {
    byId("known", HTMLElement).textContent =
      `Only pictures 0 to ${model.seeds - 1} can be shown: this page cannot draw the random ` +
      "numbers of this model, and these came with it.";
  }
  const variety = input("variety");
  variety.max = String(model.stops.length - 1);
  variety.value = variety.max;
  byId("varieties", HTMLElement).hidden = model.stops.length < 2;
  const named = () => {
    const { name } = model.stops[model.stop];
    variety.setAttribute("aria-valuetext", name === "no limit" ? "everything" : `truncation ${name}`);
    byId("stop", HTMLElement).textContent = name === "no limit" ? "no truncation" : `truncation ${name}`;
  };
  named();
  variety.oninput = doing(() => {
    model.stop = Number(variety.value);
    named();
    return drawAll();
  });

  byId("classes", HTMLElement).hidden = !facts.classes.length;
  byId("mixing", HTMLElement).hidden = !model.arrays.embeddings;
  /** @returns {[string, string][]} */
  const classes = () => facts.classes.map((name, i) => [`${i}`, name]);
  fill(select("label"), [["-1", "Any of them"], ...classes()]);
  fill(select("mix"), [["-1", "Nothing"], ...classes()]);
  for (const id of ["label", "mix", "share"]) {
    byId(id, HTMLElement).oninput = doing(() => {
      look.label = Number(select("label").value);
      look.mix = Number(select("mix").value);
      look.share = Number(input("share").value) / 100;
      input("share").disabled = look.mix < 0;
      return drawAll();
    });
  }

  // -- one picture --------------------------------------------------------------------------------

  nudges.forEach((slider, k) => {
    slider.oninput = doing(() => {
      look.nudge[k] = Number(slider.value);
      return drawLarge();
    });
  });
  button("reset").onclick = doing(() => choose(look.seed));
  button("save").onclick = doing(async () => {
    const [image] = await model.images([model.point(look)]);
    save(await png([enlarged(image, scale)]), `${facts.name}-${look.seed}.png`);
  });

  // -- a walk -------------------------------------------------------------------------------------

  function listWalk() {
    const stops = walk.map((stop, i) => {
      const { frame, canvas } = tile();
      frame.setAttribute("aria-label", `Take picture ${stop.seed} out of the walk`);
      frame.title = "Take out";
      frame.onclick = doing(() => {
        walk.splice(i, 1);
        return listWalk();
      });
      const item = document.createElement("li");
      item.append(frame);
      return { item, canvas };
    });
    byId("stops", HTMLElement).replaceChildren(...stops.map(({ item }) => item));
    const buttons = ["walk", "apng", "video"].map(button);
    buttons.forEach((each) => (each.disabled = walk.length < 2));
    if (!walk.length) return;
    return model.images(walk.map((stop) => model.point(stop))).then((images) => {
      images.forEach((image, i) => draw(stops[i].canvas, image));
    });
  }

  /** The point of a walk at a position, counted in legs. @param {number} position */
  function on(position) {
    const leg = Math.floor(position) % walk.length;
    const [a, b] = [walk[leg], walk[(leg + 1) % walk.length]].map((stop) => model.point(stop));
    return model.between(a, b, position % 1);
  }

  button("add").onclick = doing(() => {
    walk.push({ ...look, nudge: [...look.nudge] });
    return listWalk();
  });
  button("walk").onclick = doing(async () => {
    if (playing) return drawLarge();
    playing = true;
    large.scrollIntoView({ block: "nearest" });
    const mine = ++wanted;
    button("walk").textContent = "Stop";
    byId("chosen", HTMLElement).textContent = "A walk";
    const start = performance.now();
    for (let frames = 1; playing && mine === wanted && walk.length > 1; frames++) {
      const seconds = (performance.now() - start) / 1000;
      const [image] = await model.images([on(seconds / LEG)]);
      if (mine !== wanted) return;
      draw(large, image);
      large.dataset.frames = String(frames);
      if (seconds > 1) {
        byId("pace", HTMLElement).textContent = `${Math.round(frames / seconds)} pictures per second`;
      }
      await new Promise(requestAnimationFrame);
    }
  });

  async function* frames() {
    for (let i = 0; i < walk.length * FRAMES; i++) {
      say(`Drawing the walk: ${i + 1} of ${walk.length * FRAMES} pictures`);
      const [image] = await model.images([on(i / FRAMES)]);
      yield enlarged(image, scale);
    }
    say("");
  }

  button("apng").onclick = doing(async () => {
    const all = [];
    for await (const frame of frames()) all.push(frame);
    save(await png(all, RATE), `${facts.name}-walk.png`);
  });

  const kinds = ["video/webm;codecs=vp9", "video/webm", "video/mp4"];
  const kind = kinds.find((each) => "MediaRecorder" in window && MediaRecorder.isTypeSupported(each));
  button("video").hidden = !kind;
  button("video").onclick = doing(async () => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [facts.shape[2] * scale, facts.shape[1] * scale];
    canvas.getContext("2d"); // a stream needs one
    const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: kind, videoBitsPerSecond: 8e6 });
    /** @type {Blob[]} */
    const recorded = [];
    recorder.ondataavailable = ({ data }) => recorded.push(data);
    const ended = new Promise((resolve) => (recorder.onstop = resolve));
    recorder.start();
    for await (const frame of frames()) {
      const wait = new Promise((resolve) => setTimeout(resolve, 1000 / RATE));
      draw(canvas, frame);
      await wait;
    }
    recorder.stop();
    await ended;
    const ending = kind?.startsWith("video/mp4") ? "mp4" : "webm";
    save(new Blob(recorded, { type: kind }), `${facts.name}-walk.${ending}`);
  });

  await turn(0);
  walk = [0, 1, 2, 3].filter((i) => i < model.seeds).map((seed) => ({ ...look, seed, nudge: [] }));
  await listWalk();
}
