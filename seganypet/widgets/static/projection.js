// The turning maximum intensity projection. At 0 degrees one sees the patient from the front, at 90 from the left.
// Along a picture's width `s` (mm, to the viewer's right) and towards the viewer `t`, from the middle of what is shown:
//   s = -x cos a - y sin a,  t = y cos a - x sin a        with x to the patient's right, y to the front.

// Geometry of all projections of one scan. `body`: [first, end] of each axis that is shown.
function projectionOf(shape, spacing, body) {
  const [[i0, i1], [j0, j1], [k0, k1]] = body;
  const pixel = Math.max(spacing[0], spacing[1]); // so that no line of sight lies between two voxels
  const span = Math.max((i1 - i0) * spacing[0], (j1 - j0) * spacing[1]);
  const columns = Math.ceil(span / pixel - 1e-6);
  const rows = k1 - k0;
  const [ci, cj] = [(i0 + i1 - 1) / 2, (j0 + j1 - 1) / 2];
  const turn = (degrees) => [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  const across = (i, j, [c, s]) => -(i - ci) * spacing[0] * c - (j - cj) * spacing[1] * s; // mm
  const columnOf = (mm) => Math.floor(mm / pixel + columns / 2);

  // Columns of all upright lines of voxels; -1 beyond the picture.
  const columnsAt = (degrees) => {
    const way = turn(degrees);
    const found = new Int32Array((i1 - i0) * (j1 - j0));
    for (let j = j0, at = 0; j < j1; j++) {
      for (let i = i0; i < i1; i++, at++) {
        const column = columnOf(across(i, j, way));
        found[at] = column >= 0 && column < columns ? column : -1;
      }
    }
    return found;
  };

  return {
    columns, rows, widthMM: columns * pixel,
    // Place of a voxel in the picture, as shares of its width and height from the top left.
    placeOf: ([i, j, k], degrees) => [
      across(i, j, turn(degrees)) / (columns * pixel) + 0.5, 1 - (k - k0 + 0.5) / rows,
    ],
    // The hottest voxels: codes, row by row from the head, `columns` each.
    project: (codes, degrees) => {
      const out = new Uint8Array(columns * rows);
      const lines = columnsAt(degrees);
      for (let k = k0; k < k1; k++) {
        const row = (k1 - 1 - k) * columns;
        for (let j = j0, at = 0; j < j1; j++) {
          let voxel = i0 + shape[0] * (j + shape[1] * k);
          for (let i = i0; i < i1; i++, at++, voxel++) {
            const to = lines[at];
            if (to >= 0 && codes[voxel] > out[row + to]) out[row + to] = codes[voxel];
          }
        }
      }
      return out;
    },
    // The shadow of a mask: 1 inside. `low`, `size` and `has` as in `readMask`.
    shadow: ({ low, size, has }, degrees) => {
      const out = new Uint8Array(columns * rows);
      const way = turn(degrees);
      for (let j = low[1]; j < low[1] + size[1]; j++) {
        for (let i = low[0]; i < low[0] + size[0]; i++) {
          const to = columnOf(across(i, j, way));
          if (to < 0 || to >= columns) continue;
          for (let k = Math.max(low[2], k0); k < Math.min(low[2] + size[2], k1); k++) {
            if (has(i, j, k)) out[(k1 - 1 - k) * columns + to] = 1;
          }
        }
      }
      return out;
    },
    // The hottest voxel within `reach` mm of a place in the picture (shares of width and height), at whatever depth.
    hottest: (codes, [x, y], degrees, reach) => {
      const way = turn(degrees);
      const mm = (x - 0.5) * columns * pixel;
      const row = clamp(Math.floor(k1 - y * rows), k0, k1 - 1);
      const steps = Math.floor(reach / spacing[2]);
      let [best, most, nearest] = [null, -1, Infinity];
      for (let k = Math.max(row - steps, k0); k <= Math.min(row + steps, k1 - 1); k++) {
        for (let j = j0; j < j1; j++) {
          for (let i = i0; i < i1; i++) {
            const aside = Math.abs(across(i, j, way) - mm);
            if (aside > Math.max(reach, pixel / 2 + 1e-6)) continue;
            const code = codes[i + shape[0] * (j + shape[1] * k)];
            const away = Math.hypot(aside, (k - row) * spacing[2]);
            if (code > most || (code === most && away < nearest)) [best, most, nearest] = [[i, j, k], code, away];
          }
        }
      }
      return best;
    },
  };
}
