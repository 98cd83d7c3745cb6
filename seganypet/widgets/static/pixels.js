// What pictures are made of: 8-bit voxels of the whole scan, so that scrolling and windowing ask nobody; masks as
// bits; the entropy of the network. Indices are those of an array in RAS order, the first one running fastest.

const UNCERTAIN_COLOUR = [96, 0, 176];
// A perceptual map, viridis, at 0, 1/8, ..., 1.
const VIRIDIS = [
  [68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129], [92, 200, 99],
  [170, 220, 50], [253, 231, 37],
];

// Square-root coding: fine steps where counts are few, as noise has it.
const root = (x) => Math.sign(x) * Math.sqrt(Math.abs(x));
function decoded({ low, high }) {
  return Float32Array.from({ length: 256 }, (_, code) => {
    const r = root(low) + ((root(high) - root(low)) * code) / 255;
    return Math.sign(r) * r * r;
  });
}
const fraction = (value, [low, high]) => clamp((value - low) / Math.max(high - low, 1e-6), 0, 1);
const COLOUR_MAPS = {
  hot: (t) => [3 * t, 3 * t - 1, 3 * t - 2].map((c) => 255 * clamp(c, 0, 1)),
  viridis: (t) => {
    const at = Math.min(Math.floor(8 * t), 7);
    return VIRIDIS[at].map((c, channel) => c + (VIRIDIS[at + 1][channel] - c) * (8 * t - at));
  },
  grey: (t) => Array(3).fill(255 * (1 - t)), // dark where uptake is high
  bright: (t) => Array(3).fill(255 * t), // a CT's
};
// PET over CT: the more uptake, the more of its colour. The hottest is yellow, never the white or grey of a CT.
const fusedColour = (t, blend) => ({ colour: COLOUR_MAPS.hot(0.85 * t), weight: (1 - blend) * Math.min(2.5 * t, 1) });

// Bits of a mask inside its box; `has` says whether a voxel of the scan is in it.
function readMask({ box, bits: view }) {
  const [[i0, j0, k0], [ni, nj, nk], bits] = [box.slice(0, 3), box.slice(3), bytes(view)];
  const has = (i, j, k) => {
    const [a, b, c] = [i - i0, j - j0, k - k0];
    if (a < 0 || b < 0 || c < 0 || a >= ni || b >= nj || c >= nk) return false;
    const at = a + ni * (b + nj * c);
    return Boolean((bits[at >> 3] >> (7 - (at & 7))) & 1);
  };
  return { low: [i0, j0, k0], size: [ni, nj, nk], has };
}

// Paints slices of one widget's scan, and its projection.
function createPainter(model) {
  const scan = model.get("scan");
  const { shape, body } = scan;
  const stride = [1, shape[0], shape[0] * shape[1]];
  const { codes } = scanOf(model); // its CT is there once it is to be seen
  const petValues = decoded(scan.pet);
  const ctValues = scan.ct && decoded(scan.ct);
  const projection = projectionOf(shape, scan.spacing, scan.body);
  let [palette, fused, ctGrey] = [[], [], []]; // colours of the codes: PET alone, and over CT

  // ---- pictures of what is shown of the body: one pixel a voxel, head or front up, the highest index across at the left
  const mapName = () => (scan.unit === "HU" ? "bright" : model.get("colour_map"));
  const makePalette = () => {
    const range = model.get("intensity_range");
    const shares = Array.from(petValues, (value) => fraction(value, range));
    palette = Uint32Array.from(shares, (t) => rgba(COLOUR_MAPS[mapName()](t), 255));
    const over = shares.map((t) => fusedColour(t, model.get("blend")));
    fused = Float32Array.from(over.flatMap(({ colour, weight }) => [...colour.map((c) => c * weight), 1 - weight]));
    ctGrey = ctValues && Float32Array.from(ctValues, (value) => 255 * fraction(value, model.get("ct_range")));
  };
  const image = (width, height, paint) => {
    const canvas = h("canvas", { width, height });
    const context = canvas.getContext("2d");
    const data = context.createImageData(width, height);
    paint(new Uint32Array(data.data.buffer), width, height);
    context.putImageData(data, 0, 0);
    return canvas;
  };
  const slice = (view, depth, wanted) => (codes.ct && model.get("blend") > 0 ? fusedSlice(view, depth, wanted) : petSlice(view, depth));
  const sliceImage = (view, [na, nu], paint) => {
    const [[a0, a1], [u0, u1]] = [body[view.across], body[view.up]];
    return image((a1 - a0) * na, (u1 - u0) * nu, (out, width, height) => paint(out, width, height, a1, u1));
  };
  const petSlice = (view, depth) => sliceImage(view, [1, 1], (out, width, height, left, top) => {
    for (let y = 0, at = 0; y < height; y++) {
      let voxel = depth * stride[view.through] + (top - 1 - y) * stride[view.up] + (left - 1) * stride[view.across];
      for (let x = 0; x < width; x++, voxel -= stride[view.across], at++) out[at] = palette[codes.pet[voxel]];
    }
  });
  // As many pixels a voxel of the PET as the CT has voxels there, but no more than are `wanted` on the screen.
  const fineness = scan.ct && [0, 1, 2].map((axis) => clamp(Math.round(Math.hypot(...scan.ct.matrix.map((row) => row[axis]))), 1, 8));
  const fusedSlice = (view, depth, wanted) => {
    const [na, nu] = [view.across, view.up].map((axis, at) => clamp(Math.ceil(wanted[at]), 1, fineness[axis]));
    const [ni, nj, nk] = scan.ct.shape;
    const step = scan.ct.matrix.map((row) => -row[view.across] / na); // of the CT's indices, a pixel to the right
    return sliceImage(view, [na, nu], (out, width, height, left, top) => {
      const start = [0, 0, 0];
      start[view.through] = depth;
      start[view.across] = left - 0.5 - 0.5 / na;
      for (let y = 0, at = 0; y < height; y++) {
        start[view.up] = top - 0.5 - (y + 0.5) / nu;
        let [i, j, k] = placed(start, scan.ct.matrix);
        let voxel = depth * stride[view.through] + Math.round(start[view.up]) * stride[view.up] + left * stride[view.across];
        let [red, green, blue, rest] = [0, 0, 0, 1];
        for (let x = 0; x < width; x++, at++, i += step[0], j += step[1], k += step[2]) {
          if (x % na === 0) {
            voxel -= stride[view.across];
            const from = 4 * codes.pet[voxel];
            red = fused[from];
            green = fused[from + 1];
            blue = fused[from + 2];
            rest = fused[from + 3];
          }
          const inside = i >= -0.5 && j >= -0.5 && k >= -0.5 && i < ni - 0.5 && j < nj - 0.5 && k < nk - 0.5;
          const near = ((i + 0.5) | 0) + ni * (((j + 0.5) | 0) + nj * ((k + 0.5) | 0));
          const grey = inside ? ctGrey[codes.ct[near]] * rest : 0;
          out[at] = 0xff000000 | ((grey + blue) << 16) | ((grey + green) << 8) | (grey + red);
        }
      }
    });
  };
  const overlay = (view, depth) => sliceImage(view, [1, 1], (out, width, height, left, top) => {
    const pixel = (a, u) => (top - 1 - u) * width + (left - 1 - a);
    const [[a0, a1], [u0, u1]] = [body[view.across], body[view.up]];
    if (model.get("bare")) return;
    const voxel = [0, 0, 0];
    voxel[view.through] = depth;
    const opacity = model.get("opacity");
    for (const { colour, low, size, has } of masks) {
      if (depth < low[view.through] || depth >= low[view.through] + size[view.through]) continue;
      const fill = rgba(rgb(colour), 255 * opacity);
      const edge = rgba(rgb(colour), opacity ? 255 : 0);
      const inside = (a, u) => { voxel[view.across] = a; voxel[view.up] = u; return has(...voxel); };
      for (let u = Math.max(low[view.up], u0); u < Math.min(low[view.up] + size[view.up], u1); u++) {
        for (let a = Math.max(low[view.across], a0); a < Math.min(low[view.across] + size[view.across], a1); a++) {
          if (!inside(a, u)) continue;
          const deep = inside(a - 1, u) && inside(a + 1, u) && inside(a, u - 1) && inside(a, u + 1);
          out[pixel(a, u)] = deep ? fill : edge;
        }
      }
    }
    const uncertainty = model.get("uncertainty");
    if (!uncertainty.voxels) return;
    const [low, size, entropy] = [uncertainty.box.slice(0, 3), uncertainty.box.slice(3), bytes(uncertainty.voxels)];
    const into = depth - low[view.through];
    if (into < 0 || into >= size[view.through]) return;
    const jump = [1, size[0], size[0] * size[1]];
    for (let u = 0; u < size[view.up]; u++) {
      for (let a = 0; a < size[view.across]; a++) {
        const e = entropy[into * jump[view.through] + u * jump[view.up] + a * jump[view.across]];
        const [across, up] = [a + low[view.across], u + low[view.up]];
        const isShown = across >= a0 && across < a1 && up >= u0 && up < u1;
        if (e > 25 && isShown) out[pixel(across, up)] = rgba(UNCERTAIN_COLOUR, 0.8 * e);
      }
    }
  });
  const known = new Map(); // masks by version: most of many objects stay as they are when one is clicked
  let masks = [];
  const readMasks = () => {
    const objects = model.get("objects").filter((object) => object.bits);
    const versions = objects.map((object) => object.version);
    for (const version of known.keys()) if (!versions.includes(version)) known.delete(version);
    for (const object of objects) if (!known.has(object.version)) known.set(object.version, { ...readMask(object), shadows: new Map() });
    masks = objects.filter((object) => !object.hidden).map(({ version, colour }) => ({ ...known.get(version), colour }));
  };

  // ---- the projection: codes by angle, until other voxels arrive
  const turned = new Map();
  const projected = (degrees) => image(projection.columns, projection.rows, (out) => {
    if (!turned.has(degrees)) turned.set(degrees, projection.project(codes.pet, degrees));
    const found = turned.get(degrees);
    for (let at = 0; at < out.length; at++) out[at] = palette[found[at]];
  });
  const shadows = (degrees) => image(projection.columns, projection.rows, (out, width) => {
    if (model.get("bare")) return;
    const opacity = model.get("opacity");
    for (const mask of masks) {
      if (!mask.shadows.has(degrees)) mask.shadows.set(degrees, projection.shadow(mask, degrees));
      const shadow = mask.shadows.get(degrees);
      const [fill, edge] = [0.6 * opacity, opacity ? 1 : 0].map((share) => rgba(rgb(mask.colour), 255 * share));
      for (let at = 0; at < out.length; at++) {
        if (shadow[at]) out[at] = shadow[at - 1] && shadow[at + 1] && shadow[at - width] && shadow[at + width] ? fill : edge;
      }
    }
  });

  makePalette();
  readMasks();
  return {
    makePalette, readMasks, projection,
    // Whether air is drawn dark.
    isDark: (view) => mapName() !== "grey" || (view !== "mip" && Boolean(codes.ct) && model.get("blend") > 0),
    forget: () => turned.clear(), // other voxels have arrived
    // `wanted`: pixels a voxel that the screen shows, across and up.
    base: (view, depth, wanted) => (view === "mip" ? projected(depth) : slice(VIEWS[view], depth, wanted)),
    over: (view, depth) => (view === "mip" ? shadows(depth) : overlay(VIEWS[view], depth)),
    hottest: (place, degrees, reach) => projection.hottest(codes.pet, place, degrees, reach),
    // As the codes tell it, until the kernel says more: text, with what they cannot tell.
    valueAt: (cursor) => {
      const code = codes.pet[cursor.reduce((sum, index, axis) => sum + index * stride[axis], 0)];
      const isCut = code === 255 || (code === 0 && scan.unit === "HU");
      return isCut ? `${code ? "\u2265" : "\u2264"} ${digits(petValues[code])}` : `\u2248 ${petValues[code].toPrecision(2)}`;
    },
  };
}
