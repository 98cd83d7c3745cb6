// Geometry of what is drawn by hand, in voxels in RAS order.

// A path without the voxels that a straight line through its neighbours holds anyway, and without repeats.
function simplified(path) {
  const kept = [];
  for (const voxel of path) {
    const [before, last] = [kept.at(-2), kept.at(-1)];
    const step = (from, to) => to.map((x, axis) => x - from[axis]);
    if (last && step(last, voxel).every((x) => x === 0)) continue;
    if (before && String(step(before, last)) === String(step(last, voxel))) kept.pop();
    kept.push(voxel);
  }
  return kept;
}

// The range of intensities after the mouse was dragged, in pixels to the right and down. Upwards shows more of what is
// faint: of a PET the upper end sinks and the lower one stays; of a CT the level sinks, and to the right the window widens.
function draggedRange([low, high], right, down, { low: least, high: most }, isCT) {
  if (!isCT) return [low, clamp(low + (high - low) * 2 ** (down / 120), low + 0.1, Math.max(most, high))];
  const half = clamp(((high - low) / 2) * 2 ** (right / 120), 0.5, most - least);
  const level = clamp((low + high) / 2 + (down * half) / 120, least, most);
  return [level - half, level + half];
}

// What a finished drawing asks Python for: [command, fields]; null if it is nothing yet. `toIJK` maps RAS to the file.
function strokeCommand(tool, path, view, { toIJK, ijkAxis, foreground, radiusMM }) {
  const path_ijk = simplified(path).map(toIJK);
  if (!path_ijk.length) return null;
  if (tool === "brush" || tool === "eraser") {
    const axis = ijkAxis(view.through);
    return ["paint", { path_ijk, axis, radius_mm: radiusMM, foreground: tool === "brush" }];
  }
  if (tool === "scribble") return ["prompt", { prompt: { kind: "scribble", path_ijk, foreground } }];
  if (tool === "lasso") {
    return path_ijk.length < 3 ? null : ["prompt", { prompt: { kind: "lasso", path_ijk, foreground } }];
  }
  const ends = [path[0], path[path.length - 1]].map(toIJK);
  const [low_ijk, high_ijk] = [Math.min, Math.max].map((pick) => [0, 1, 2].map((axis) => pick(ends[0][axis], ends[1][axis])));
  if ([view.across, view.up].some((axis) => path[0][axis] === path[path.length - 1][axis])) return null; // no area
  return ["prompt", { prompt: { kind: "box", low_ijk, high_ijk, foreground } }];
}
