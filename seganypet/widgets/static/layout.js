// Where the panes go: of several arrangements the one whose pictures are largest.

const GAP_PX = 8;
const PANEL_PX = 290; // the list of objects needs it
const BELOW_PX = 26; // a slider under each picture
const REST = "minmax(0, 1fr)"; // a column that takes what is left
const MAX_PX_PER_MM = 4; // of tiny scans: larger pixels show no more

// `size`: what is shown of the patient, in mm: [across, front to back, feet to head]. `only`: name of a pane that
// fills everything, or null. Returns the CSS grid's areas, rows and columns, where "panel" is the list of objects and "below"
// what stands under the pictures, and each pane's size in CSS pixels.
function arrange({ width, height, size: [wide, deep, tall], only = null }) {
  const round = Math.max(wide, deep); // the projection, from whichever side
  const mm = { axial: [wide, deep], coronal: [wide, tall], sagittal: [deep, tall], mip: [round, tall] };
  const at = (scale, axialScale) => Object.fromEntries(Object.entries(mm).map(([name, [w, t]]) => {
    const pxPerMM = clamp(name === "axial" ? axialScale : scale, 0.02, MAX_PX_PER_MM);
    return [name, [Math.floor(w * pxPerMM), Math.floor(t * pxPerMM)]];
  }));
  const broad = width >= 2.4 * PANEL_PX;
  // Columns as wide as the widest of their panes: what stands below must not widen them.
  const columns = (panes, ...names) => names.map((column) => (column === "rest" ? REST
    : `${Math.max(...column.split(" ").map((name) => panes[name][0]))}px`)).join(" ");
  if (only) {
    const room = broad ? width - PANEL_PX - GAP_PX : width;
    const [w, t] = mm[only];
    const scale = Math.min(room / w, (height - BELOW_PX) / t, 2 * MAX_PX_PER_MM);
    const panes = { [only]: [Math.floor(w * scale), Math.floor(t * scale)] };
    return broad ? { areas: `"${only} panel" "below panel"`, rows: "auto 1fr", columns: columns(panes, only, "rest"), panes }
      : { areas: `"${only}" "panel" "below"`, rows: "auto", columns: REST, panes };
  }
  const three = wide + deep + round;
  const found = [];
  // A list that is longer than the pictures stands beside what is below them, not between.
  const add = (areas, names, panes, rows = "auto auto 1fr") => found.push({ areas, rows, columns: columns(panes, ...names), panes });
  if (broad) {
    const beside = Math.min(width - PANEL_PX, (width * three) / (three + 1.2 * wide)) - 3 * GAP_PX; // axial is the largest
    const scale = Math.min(beside / three, (height - BELOW_PX) / tall, MAX_PX_PER_MM);
    const left = width - scale * three - 3 * GAP_PX;
    const panes = at(scale, Math.min(left / wide, (0.62 * height) / deep));
    add('"axial coronal sagittal mip" "panel coronal sagittal mip" "panel below below below"',
      ["rest", "coronal", "sagittal", "mip"], panes, `${panes.axial[1] + BELOW_PX}px auto 1fr`);
    const room = width - PANEL_PX - 2 * GAP_PX;
    const half = height / 2 - BELOW_PX - GAP_PX;
    const even = Math.min(room / (round + round), half / tall);
    add('"axial coronal panel" "sagittal mip panel" "below below panel"', ["axial sagittal", "coronal mip", "rest"],
      at(even, Math.min((even * round) / wide, half / deep)));
  }
  if (width < 3.4 * PANEL_PX) { // else the list would be far from what is clicked
    const half = height / 2 - BELOW_PX - GAP_PX;
    const even = Math.min((width - GAP_PX) / (2 * round), half / tall);
    add('"axial coronal" "sagittal mip" "panel panel" "below below"', ["axial sagittal", "rest"], at(even, even), "auto");
  }
  if (!broad) {
    const stack = Math.max(height, 0.95 * width); // two rows in a low window are scrolled
    const scale = Math.min((width - 2 * GAP_PX) / three, (0.62 * stack - BELOW_PX) / tall);
    const panes = at(scale, Math.min((scale * (wide + deep)) / wide, (0.38 * stack - BELOW_PX) / deep));
    const isRoomy = width - panes.coronal[0] - panes.sagittal[0] - 2 * GAP_PX >= PANEL_PX; // for the list
    if (isRoomy) add('"axial axial panel" "coronal sagittal mip" "below below below"', ["coronal", "sagittal", "rest"], panes, "auto");
    else {
      add('"axial axial axial" "coronal sagittal mip" "panel panel panel" "below below below"', ["coronal", "sagittal", "rest"],
        at(scale, Math.min(width / wide, (0.55 * stack - BELOW_PX) / deep)), "auto");
    }
  }
  const area = ({ panes }) => Object.values(panes).reduce((sum, [w, t]) => sum + w * t, 0);
  return found.reduce((best, one) => (area(one) > 1.05 * area(best) ? one : best));
}

// Length of a scale bar, in mm: a round number, about a fifth of a picture's width.
function scaleBarMM(widthMM) {
  const rounds = [1, 2, 5, 10, 20, 50, 100, 200, 500];
  return rounds.filter((mm) => mm <= widthMM / 3).pop() ?? 1;
}
