// Voxels come in pieces, each asked for when the one before is there: first the whole scan coarsely, then slabs, those
// near the crosshair first. Clicks find room between two pieces, and the view tells how far it is. A CT, which lies on
// its own, finer grid, is asked for once it is to be seen.

const RETRY_MS = 20000; // a message may get lost when a page connects anew

const SCANS = new WeakMap(); // one for each model, whatever number of views it has

async function inflated(view) {
  const stream = new Blob([view]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Writes a coarse piece, the middle one of every `step` voxels along each axis, into the codes of a whole layer.
function spread(codes, coarse, shape, step) {
  const [ni, nj, nk] = shape.map((size) => Math.ceil((size - Math.min(step >> 1, size - 1)) / step));
  const into = (index, count) => Math.min(Math.floor(index / step), count - 1);
  const columns = Int32Array.from({ length: shape[0] }, (_, i) => into(i, ni));
  for (let k = 0, at = 0; k < shape[2]; k++) {
    for (let j = 0; j < shape[1]; j++) {
      const row = ni * (into(j, nj) + nj * into(k, nk));
      for (let i = 0; i < shape[0]; i++, at++) codes[at] = coarse[row + columns[i]];
    }
  }
}

// The numbers of the slabs of a layer, those nearest to slice `k` first.
function slabsNear(k, { count, depth }) {
  const middle = (piece) => (piece - 0.5) * depth;
  return Array.from({ length: count - 1 }, (_, at) => at + 1)
    .sort((one, other) => Math.abs(middle(one) - k) - Math.abs(middle(other) - k));
}

function scanOf(model) {
  if (!SCANS.has(model)) SCANS.set(model, load(model));
  return SCANS.get(model);
}

function load(model) {
  const scan = model.get("scan");
  const codes = {};
  const missing = new Set();
  let total = 0;
  const listeners = new Set();
  let asked = null;
  const want = (name) => {
    if (!scan[name] || codes[name]) return;
    codes[name] = new Uint8Array(scan[name].shape.reduce((product, n) => product * n));
    for (let at = 0; at < scan[name].count; at++) missing.add(`${name} ${at}`);
    total += scan[name].count;
  };
  const wantSeen = () => {
    want("pet");
    if (model.get("blend") > 0) want("ct");
  };
  const next = () => {
    const layers = Object.keys(codes);
    const coarse = layers.find((name) => missing.has(`${name} 0`));
    if (coarse) return [coarse, 0];
    for (const name of layers) {
      const slice = placed(model.get("cursor"), scan[name].matrix)[2];
      const near = slabsNear(slice, scan[name]).find((at) => missing.has(`${name} ${at}`));
      if (near) return [name, near];
    }
    return null;
  };
  const ask = () => {
    clearTimeout(asked);
    const wanted = listeners.size ? next() : null;
    if (!wanted) return;
    try {
      model.send({ call: "piece", layer: wanted[0], number: wanted[1] });
    } catch {
      return; // the kernel is gone; what there is is shown
    }
    asked = setTimeout(ask, RETRY_MS);
  };
  model.on("msg:custom", async ({ piece, layer }, buffers) => {
    if (piece === undefined || !missing.delete(`${layer} ${piece}`)) return;
    const voxels = await inflated(buffers[0]);
    const { step, depth, shape } = scan[layer];
    if (piece > 0) codes[layer].set(voxels, (piece - 1) * depth * shape[0] * shape[1]);
    else if (step === 1) codes[layer].set(voxels);
    else spread(codes[layer], voxels, shape, step);
    ask();
    for (const listener of listeners) listener();
  });
  wantSeen();
  model.on("change:blend", () => {
    const before = total;
    wantSeen();
    if (total === before) return;
    if (missing.size === total - before) ask(); // else a piece is on its way, and its arrival asks for the next
    for (const listener of listeners) listener();
  });
  return {
    codes,
    progress: () => 1 - missing.size / total,
    hasPicture: () => !Object.keys(codes).some((name) => missing.has(`${name} 0`)),
    follow: (listener) => { listeners.add(listener); ask(); return () => listeners.delete(listener); },
  };
}
