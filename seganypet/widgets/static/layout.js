// Where the panes go: of several arrangements the one whose pictures are largest.

const GAP_PX = 8;
const PANEL_PX = 290; // the list of objects needs it
const BELOW_PX = 26; // a slider under each picture
const REST = "minmax(0, 1fr)"; // a column that takes what is left
const MAX_PX_PER_MM = 4; // of tiny scans: larger pixels show no more

// `size`: what is shown of the patient, in mm: [across, front to back, feet to head]. `only`: name of a pane that
// fills everything, or null. Returns the CSS grid's areas and
// columns, where "panel" is the list of objects, and each pane's size in CSS pixels.
function arrange({ width, height, size: [wide, deep, tall], only = null }) {
  const round = Math.max(wide, deep); // the projection, from whichever side
  const mm = { axial: [wide, deep], coronal: [wide, tall], sagittal: [deep, tall], mip: [round, tall] };
  const at = (scale, axialScale) => Object.fromEntries(Object.entries(mm).map(([name, [w, t]]) => {
    const pxPerMM = clamp(name === "axial" ? axialScale : scale, 0.02, MAX_PX_PER_MM);
    return [name, [Math.floor(w * pxPerMM), Math.floor(t * pxPerMM)]];
  }));
  const broad = width >= 2.4 * PANEL_PX;
  if (only) {
    const room = broad ? width - PANEL_PX - GAP_PX : width;
    const [w, t] = mm[only];
    const scale = Math.min(room / w, (height - BELOW_PX) / t, 2 * MAX_PX_PER_MM);
    const panes = { [only]: [Math.floor(w * scale), Math.floor(t * scale)] };
    return broad ? { areas: `"${only} panel"`, columns: `auto ${REST}`, panes } : { areas: `"${only}" "panel"`, columns: REST, panes };
  }
  const three = wide + deep + round;
  const found = [];
  if (broad) {
    const beside = Math.min(width - PANEL_PX, (width * three) / (three + 0.8 * wide)) - 3 * GAP_PX; // axial not dwarfed
    const scale = Math.min(beside / three, (height - BELOW_PX) / tall, MAX_PX_PER_MM);
    const left = width - scale * three - 3 * GAP_PX;
    found.push({ areas: '"axial coronal sagittal mip" "panel coronal sagittal mip"', columns: `${REST} auto auto auto`,
      panes: at(scale, Math.min(left / wide, (0.62 * height) / deep)) });
    const room = width - PANEL_PX - 2 * GAP_PX;
    const half = height / 2 - BELOW_PX - GAP_PX;
    const even = Math.min(room / (round + round), half / tall);
    found.push({ areas: '"axial coronal panel" "sagittal mip panel"', columns: `auto auto ${REST}`,
      panes: at(even, Math.min((even * round) / wide, half / deep)) });
  } else {
    const half = height / 2 - BELOW_PX - GAP_PX;
    const even = Math.min((width - GAP_PX) / (2 * round), half / tall);
    found.push({ areas: '"axial coronal" "sagittal mip" "panel panel"', columns: `${REST} ${REST}`, panes: at(even, even) });
    const scale = Math.min((width - 2 * GAP_PX) / three, (height - BELOW_PX) / tall);
    found.push({ areas: '"axial axial panel" "coronal sagittal mip"', columns: `auto auto ${REST}`,
      panes: at(scale, Math.min((scale * (wide + deep)) / wide, (0.5 * height) / deep)) });
  }
  const area = ({ panes }) => Object.values(panes).reduce((sum, [w, t]) => sum + w * t, 0);
  return found.reduce((best, one) => (area(one) > 1.05 * area(best) ? one : best));
}

// Length of a scale bar, in mm: a round number, about a fifth of a picture's width.
function scaleBarMM(widthMM) {
  const rounds = [1, 2, 5, 10, 20, 50, 100, 200, 500];
  return rounds.filter((mm) => mm <= widthMM / 3).pop() ?? 1;
}
