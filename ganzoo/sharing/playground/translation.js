// A page that translates the visitor's photos, and compares them before and after.

import { picture, png, save, tensorOf, zip } from "./files.js";
import { button, byId, doing, draw, fail, fill, input, part, say, select } from "./page.js";

/** @typedef {{name: string, bitmap: ImageBitmap, before?: ImageData, after?: ImageData}} Photo */

const IMAGE = /\.(avif|bmp|gif|jfif|jpe?g|png|webp)$/i;

/**
 * A photo's pixels on white, and its opacity, with its longer side at most `most` pixels.
 * @param {ImageBitmap} bitmap
 * @param {number} most
 */
function pixels(bitmap, most) {
  const scale = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.max(1, Math.round(n * scale)));
  /** @param {string} ground */
  const laid = (ground) => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error(`The photo is too large for this browser: choose a smaller size.`);
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    return context.getImageData(0, 0, width, height);
  };
  return { colors: laid("white"), opacity: laid("transparent") };
}

/**
 * Every file of what was dropped, folders included, with its path.
 * @param {DataTransfer} dropped
 * @returns {AsyncGenerator<[string, File]>}
 */
async function* filesOf(dropped) {
  /** @param {any} entry @returns {AsyncGenerator<[string, File]>} */
  async function* inside(entry) {
    if (entry.isFile) {
      /** @type {File} */
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      yield [entry.fullPath.slice(1), file];
      return;
    }
    const reader = entry.createReader();
    /** @type {() => Promise<any[]>} */
    const some = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    for (let entries = await some(); entries.length; entries = await some()) {
      for (const each of entries) yield* inside(each);
    }
  }
  // All are asked for at once, for they are gone after the event.
  const items = Array.from(dropped.items, (item) => ({
    entry: item.webkitGetAsEntry(),
    file: item.getAsFile(),
  }));
  for (const { entry, file } of items) {
    if (entry) yield* inside(entry);
    else if (file) yield [file.name, file];
  }
}

/** @param {import("./page.js").Facts} facts @param {import("./page.js").Networks} networks */
export async function translationPage(facts, networks) {
  /** @type {Photo[]} */
  const photos = [];
  /** @type {Photo | null} */
  let shown = null;
  let run = 0; // number of the newest direction and size
  /** @type {Promise<unknown>} */
  let queue = Promise.resolve();
  const [before, after] = ["before", "after"].map((id) => byId(id, HTMLCanvasElement));
  const list = byId("photos", HTMLElement), line = input("line");
  const direction = () => facts.directions[select("direction").selectedIndex];
  fill(select("direction"), facts.directions.map(({ name, from, to }) => [name, `${from} to ${to}`]));

  /** @param {Photo | null} photo */
  function show(photo) {
    shown = photo;
    byId("compare", HTMLElement).hidden = !photo;
    list.hidden = photos.length < 2;
    Array.from(list.children, (item, i) =>
      item.firstElementChild?.setAttribute("aria-pressed", String(photos[i] === photo)),
    );
    button("save").disabled = !photo?.after;
    button("all").disabled = !photos.some((each) => each.after);
    if (!photo) return;
    byId("name", HTMLElement).textContent = photo.name;
    if (photo.before) draw(before, photo.before);
    after.classList.toggle("waiting", !photo.after);
    if (photo.after) draw(after, photo.after);
    before.setAttribute("aria-label", `${photo.name} before`);
    after.setAttribute("aria-label", `${photo.name} after`);
  }

  /** @param {Photo} photo */
  async function translate(photo) {
    const { name, channels, makes } = direction(), mine = run;
    const { colors, opacity } = pixels(photo.bitmap, Number(select("size").value));
    photo.before = colors;
    photo.after = undefined;
    if (!shown || shown === photo) show(photo);
    const { data, dims } = await networks.run(`${name}.onnx`, { source: tensorOf(colors, channels) });
    if (mine !== run) return;
    const image = picture(data, dims);
    if (makes !== 2 && makes !== 4) {
      // Transparency is kept, as `ganzoo.translate` does.
      for (let i = 3; i < image.data.length; i += 4) image.data[i] = opacity.data[i];
    }
    photo.after = image;
    show(shown ?? photo);
  }

  /** Translate photos one after the other. @param {Photo[]} some */
  function enqueue(some) {
    const mine = run;
    const tasks = some.map((photo, i) => async () => {
      if (mine !== run || !photos.includes(photo)) return;
      say(some.length > 1 ? `Translating ${i + 1} of ${some.length}: ${photo.name}` : "Translating…");
      try {
        await translate(photo);
      } catch (error) {
        fail(`${photo.name} could not be translated: choose a smaller size. (${error})`);
      }
      if (i === some.length - 1) say("");
    });
    for (const task of tasks) queue = queue.then(task);
    return queue;
  }

  /** @param {string} name @param {ImageBitmap} bitmap */
  function add(name, bitmap) {
    const taken = new Set(photos.map((photo) => photo.name));
    let free = name;
    for (let n = 2; taken.has(free); n++) free = name.replace(/(\.[^./]*)?$/, ` (${n})$1`);
    const photo = { name: free, bitmap };
    photos.push(photo);
    const [item, frame, small] = ["li", "button", "canvas"].map((tag) => document.createElement(tag));
    frame.className = "tile";
    frame.setAttribute("aria-label", free);
    frame.title = free;
    frame.onclick = () => show(photo);
    frame.append(small);
    item.append(frame);
    draw(/** @type {HTMLCanvasElement} */ (small), pixels(bitmap, 96).colors);
    list.append(item);
    return photo;
  }

  /** @param {Iterable<[string, Blob]> | AsyncIterable<[string, Blob]>} files */
  async function take(files) {
    const [added, bad] = [/** @type {Photo[]} */ ([]), /** @type {string[]} */ ([])];
    for await (const [name, file] of files) {
      if (!IMAGE.test(name)) {
        bad.push(name);
        continue;
      }
      try {
        // Color profiles are not applied, as in training; EXIF orientation is.
        added.push(add(name, await createImageBitmap(file, { colorSpaceConversion: "none" })));
      } catch {
        bad.push(name);
      }
    }
    if (bad.length) fail(`Not images that this browser can open: ${bad.join(", ")}`);
    if (!added.length) return;
    show(added[0]);
    await enqueue(added);
  }

  // -- where photos come from ---------------------------------------------------------------------

  for (const id of ["file", "folder"]) {
    const chooser = input(id);
    button(`choose-${id}`).onclick = () => chooser.click();
    chooser.onchange = doing(async () => {
      const files = Array.from(chooser.files ?? []);
      await take(files.map((file) => [file.webkitRelativePath || file.name, file]));
      chooser.value = "";
    });
  }
  button("choose-folder").hidden = !("webkitdirectory" in input("folder"));
  const zone = byId("drop", HTMLElement);
  document.ondragover = (event) => {
    event.preventDefault();
    zone.classList.add("over");
  };
  document.ondragleave = () => zone.classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    const dropped = event.dataTransfer;
    if (dropped) doing(() => take(filesOf(dropped)))();
  };

  const video = byId("video", HTMLVideoElement);
  /** @type {MediaStream | null} */
  let stream = null;
  let taken = 0;
  button("camera").hidden = !navigator.mediaDevices;
  button("camera").onclick = doing(async () => {
    const on = stream;
    on?.getTracks().forEach((track) => track.stop());
    stream = on ? null : await navigator.mediaDevices.getUserMedia({ video: true });
    video.srcObject = stream;
    button("camera").textContent = stream ? "Close the camera" : "Use the camera";
    byId("live", HTMLElement).hidden = !stream;
    if (stream) await video.play();
  });
  button("shoot").onclick = doing(async () => {
    const photo = add(`camera-${++taken}.png`, await createImageBitmap(video));
    show(photo);
    await enqueue([photo]);
  });
  for (const { name, file } of facts.examples) {
    const bytes = /** @type {BlobPart} */ (await part(file));
    add(name, await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" }));
  }

  // -- what is done with them ---------------------------------------------------------------------

  for (const id of ["direction", "size"]) {
    select(id).onchange = doing(() => {
      run++;
      for (const photo of photos) photo.after = undefined;
      return enqueue([...photos]);
    });
  }
  const slide = () => byId("compare", HTMLElement).style.setProperty("--line", `${line.value}%`);
  line.oninput = slide;
  slide();
  byId("pair", HTMLElement).onpointermove = (event) => {
    if (event.pointerType === "mouse" && !event.buttons) return;
    const { left, width } = after.getBoundingClientRect();
    line.value = String((100 * (event.clientX - left)) / width);
    slide();
  };
  byId("pair", HTMLElement).onpointerdown = byId("pair", HTMLElement).onpointermove;

  /** The name of a result: a PNG. @param {string} name */
  const result = (name) => name.replace(/(\.[^./]*)?$/, ".png");
  button("save").onclick = doing(async () => {
    if (shown?.after) save(await png([shown.after]), result(shown.name.replaceAll("/", "-")));
  });
  button("all").onclick = doing(async () => {
    /** @type {Map<string, Uint8Array>} */
    const files = new Map();
    for (const { name, after: image } of photos) {
      if (!image) continue;
      const free = files.has(result(name)) ? `${name}.png` : result(name);
      files.set(free, new Uint8Array(await (await png([image])).arrayBuffer()));
    }
    save(zip(files), `${facts.name}-${direction().name}.zip`);
  });
  button("clear").onclick = () => {
    photos.length = 0;
    list.replaceChildren();
    show(null);
  };
  if (photos.length) show(photos[0]);
  enqueue([...photos]);
}
