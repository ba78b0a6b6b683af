// Runs networks away from the page, so that its controls never freeze. One job at a time.

/** @type {any} the module of onnxruntime-web */
let ort;
/** @type {Map<string, any>} */
const sessions = new Map();

/** @type {Record<string, (given: any) => Promise<any>>} */
const JOBS = {
  /** Start the runtime: the address of its module, and the bytes of its WebAssembly. */
  async start({ url, wasm }) {
    ort = await import(url);
    ort.env.wasm.wasmBinary = wasm;
    ort.env.wasm.numThreads = 1; // more would need headers that many servers do not send
  },

  /** Load a network from the bytes of its graph. */
  async load({ name, graph }) {
    // Only errors are logged: it would warn of the class embedding, which may be left out.
    const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
    sessions.set(name, await ort.InferenceSession.create(graph, options));
  },

  /** Run a network; inputs are {type, data, dims} by name. */
  async run({ name, inputs }) {
    /** @type {Record<string, any>} */
    const feeds = {};
    for (const [key, { type, data, dims }] of Object.entries(inputs)) {
      feeds[key] = new ort.Tensor(type, data, dims);
    }
    const { images } = await sessions.get(name).run(feeds);
    return { data: images.data, dims: images.dims };
  },
};

let last = Promise.resolve();
onmessage = ({ data: { id, job, given } }) => {
  last = last.then(async () => {
    try {
      const result = await JOBS[job](given);
      postMessage({ id, result }, { transfer: result ? [result.data.buffer] : [] });
    } catch (error) {
      postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
};
