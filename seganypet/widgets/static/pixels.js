// What ClickWidget's pictures are made of: the whole scan as 8-bit voxels, so that scrolling and windowing ask nobody;
// masks as bits; the entropy of the network. Indices are those of an array in RAS order, the first one running fastest.
//
// pixels.js, slices.js, controls.js and click.js are joined, in this order, into one module.

const VIEWS = {
  axial: { across: 0, up: 1, through: 2, ends: ["R", "L"] },
  coronal: { across: 0, up: 2, through: 1, ends: ["R", "L"] },
  sagittal: { across: 1, up: 2, through: 0, ends: ["A", "P"] },
};
const UNCERTAIN_COLOUR = [96, 0, 176];
const CT_RANGE = [-160, 240];

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const bytes = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
// Little-endian, as all machines that browsers run on are.
const rgba = ([r, g, b], a) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Square-root coding: fine steps where counts are few, as noise has it.
const root = (x) => Math.sign(x) * Math.sqrt(Math.abs(x));
function decoded({ low, high }) {
  return Float32Array.from({ length: 256 }, (_, code) => {
    const r = root(low) + ((root(high) - root(low)) * code) / 255;
    return Math.sign(r) * r * r;
  });
}
const fraction = (value, [low, high]) => clamp((value - low) / Math.max(high - low, 1e-6), 0, 1);
const hot = (t) => [clamp(3 * t, 0, 1), clamp(3 * t - 1, 0, 1), clamp(3 * t - 2, 0, 1)].map((c) => 255 * c);

// Paints slices of one widget's scan, and its projection.
function createPainter(model) {
  const scan = model.get("scan");
  const shape = scan.shape;
  const stride = [1, shape[0], shape[0] * shape[1]];
  const pet = bytes(scan.pet.voxels);
  const ct = scan.ct && bytes(scan.ct.voxels);
  const petValues = decoded(scan.pet);
  const ctValues = scan.ct && decoded(scan.ct);
  const isCT = scan.unit === "HU";
  let [palette, fused] = [[], []]; // colours of the codes: PET alone, and over CT

  // ---- pictures: one pixel a voxel, head or front up, the highest index across at the left
  const makePalette = () => {
    const range = model.get("intensity_range");
    const greys = Array.from(petValues, (value) => (isCT ? fraction(value, range) : 1 - fraction(value, range)));
    palette = Uint32Array.from(greys, (t) => rgba([255 * t, 255 * t, 255 * t], 255));
    if (ct) fused = Array.from(petValues, (value) => hot(fraction(value, range)));
  };
  const ctGrey = ctValues && Float32Array.from(ctValues, (value) => 255 * fraction(value, CT_RANGE));
  const image = (view, paint) => {
    const canvas = h("canvas", { width: shape[view.across], height: shape[view.up] });
    const context = canvas.getContext("2d");
    const data = context.createImageData(canvas.width, canvas.height);
    paint(new Uint32Array(data.data.buffer), canvas.width, canvas.height);
    context.putImageData(data, 0, 0);
    return canvas;
  };
  const slice = (view, depth) => image(view, (out, width, height) => {
    const blend = ct ? model.get("blend") : 0;
    const mixed = [0, 0, 0];
    let at = 0;
    for (let row = height - 1; row >= 0; row--) {
      let voxel = depth * stride[view.through] + row * stride[view.up] + (width - 1) * stride[view.across];
      for (let column = 0; column < width; column++, voxel -= stride[view.across], at++) {
        if (blend === 0) { out[at] = palette[pet[voxel]]; continue; }
        const colour = fused[pet[voxel]];
        for (let c = 0; c < 3; c++) mixed[c] = Math.min(ctGrey[ct[voxel]] * blend + colour[c] * (1 - blend), 255);
        out[at] = rgba(mixed, 255);
      }
    }
  });
  const overlay = (view, depth, outlines, uncertainty) => image(view, (out, width, height) => {
    const voxel = [0, 0, 0];
    voxel[view.through] = depth;
    const opacity = model.get("opacity");
    for (const { colour, low, size, has } of outlines) {
      if (depth < low[view.through] || depth >= low[view.through] + size[view.through]) continue;
      const fill = rgba(rgb(colour), 255 * opacity);
      const edge = rgba(rgb(colour), opacity ? 255 : 0);
      const inside = (a, u) => { voxel[view.across] = a; voxel[view.up] = u; return has(...voxel); };
      for (let u = low[view.up]; u < low[view.up] + size[view.up]; u++) {
        for (let a = low[view.across]; a < low[view.across] + size[view.across]; a++) {
          if (!inside(a, u)) continue;
          const deep = inside(a - 1, u) && inside(a + 1, u) && inside(a, u - 1) && inside(a, u + 1);
          out[(height - 1 - u) * width + (width - 1 - a)] = deep ? fill : edge;
        }
      }
    }
    if (!uncertainty.voxels) return;
    const [low, size, entropy] = [uncertainty.box.slice(0, 3), uncertainty.box.slice(3), bytes(uncertainty.voxels)];
    const into = depth - low[view.through];
    if (into < 0 || into >= size[view.through]) return;
    const jump = [1, size[0], size[0] * size[1]];
    for (let u = 0; u < size[view.up]; u++) {
      for (let a = 0; a < size[view.across]; a++) {
        const e = entropy[into * jump[view.through] + u * jump[view.up] + a * jump[view.across]];
        const at = (height - 1 - u - low[view.up]) * width + (width - 1 - a - low[view.across]);
        if (e > 25) out[at] = rgba(UNCERTAIN_COLOUR, 0.8 * e);
      }
    }
  });
  const known = new Map(); // masks by version: most of many objects stay as they are when one is clicked
  const readMask = ({ version, box, bits: view }) => {
    if (known.has(version)) return known.get(version);
    const [[i0, j0, k0], [ni, nj, nk], bits] = [box.slice(0, 3), box.slice(3), bytes(view)];
    const bit = (at) => (bits[at >> 3] >> (7 - (at & 7))) & 1;
    const front = new Uint8Array(ni * nk); // as seen from the front, for the strip
    for (let at = 0; at < ni * nj * nk; at++) if (bit(at)) front[(at % ni) + ni * Math.floor(at / (ni * nj))] = 1;
    const outside = (i, k) => i < i0 || k < k0 || i >= i0 + ni || k >= k0 + nk;
    known.set(version, {
      slices: {
        low: [i0, j0, k0], size: [ni, nj, nk],
        has: (i, j, k) => !outside(i, k) && j >= j0 && j < j0 + nj && bit(i - i0 + ni * (j - j0 + nj * (k - k0))),
      },
      strip: { low: [i0, 0, k0], size: [ni, 1, nk], has: (i, _, k) => !outside(i, k) && front[i - i0 + ni * (k - k0)] },
    });
    return known.get(version);
  };
  let masks = [];
  const readMasks = () => {
    const objects = model.get("objects").filter((object) => object.bits);
    const versions = objects.map((object) => object.version);
    for (const version of known.keys()) if (!versions.includes(version)) known.delete(version);
    const shown = objects.filter((object) => !object.hidden);
    masks = shown.map((object) => ({ ...readMask(object), colour: object.colour }));
  };
  const outlines = (kind) => masks.map((mask) => ({ ...mask[kind], colour: mask.colour }));

  // The strip: the hottest voxel on each line from front to back.
  const hottest = new Uint8Array(shape[0] * shape[2]);
  const depthOf = new Uint16Array(hottest.length);
  for (let k = 0, at = 0; k < shape[2]; k++) {
    for (let j = 0; j < shape[1]; j++) {
      for (let i = 0; i < shape[0]; i++, at++) {
        const to = i + shape[0] * k;
        if (pet[at] > hottest[to]) { hottest[to] = pet[at]; depthOf[to] = j; }
      }
    }
  }
  const projection = () => image(VIEWS.coronal, (out, width, height) => {
    for (let at = 0; at < out.length; at++) {
      out[at] = palette[hottest[width - 1 - (at % width) + width * (height - 1 - Math.floor(at / width))]];
    }
  });

  makePalette();
  readMasks();
  return {
    makePalette, readMasks,
    base: (view) => (view === "mip" ? projection() : slice(VIEWS[view], model.get("cursor")[VIEWS[view].through])),
    over: (view) => (view === "mip" ? overlay(VIEWS.coronal, 0, outlines("strip"), {})
      : overlay(VIEWS[view], model.get("cursor")[VIEWS[view].through], outlines("slices"), model.get("uncertainty"))),
    depthOf: (i, k) => depthOf[i + shape[0] * k], // where the projection's voxel lies, from back to front
    valueAt: (cursor) => petValues[pet[cursor.reduce((sum, index, axis) => sum + index * stride[axis], 0)]],
  };
}
