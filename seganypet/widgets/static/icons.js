// Icons of the controls, drawn on a grid of 16 x 16; the words beside them or the control's label say the same.

const ICONS = { // what is stroked, then what is filled
  point: ["M8 1v4M8 11v4M1 8h4M11 8h4", "M8 6a2 2 0 1 0 .01 0z"],
  scribble: ["M2 11c2-8 4-8 5-3s3 5 4 1 2-4 3-3"],
  box: ["M2.5 3.5h11v9h-11z"],
  lasso: ["M8 2.5c3.5 0 6 1.6 6 4s-2.5 4-6 4-6-1.6-6-4 2.5-4 6-4zM5 10c-1.5 1.5 1 2 .5 4"],
  brush: ["M13.5 2.5 7.5 9M7 8.5c-2-.5-3.5 1-3.5 2.5S3 13 2 13.5c3 .7 6 0 6.3-2.5.1-1-.3-2-1.3-2.5z"],
  eraser: ["M5.5 13.5h8M9.5 2.5l4 4-7 7h-2l-3-3zM5.5 6.5l4 4"],
  sphere: ["M8 2a6 6 0 1 0 .01 0zM2 8c0 3 12 3 12 0"],
  ruler: ["M1.5 10.5l9-9 4 4-9 9zM4 8l2 2M6.5 5.5l1.5 1.5M9 3l2 2"],
  window: ["M8 2a6 6 0 1 0 .01 0z", "M8 2a6 6 0 0 1 0 12z"],
  look: ["M1 8c2-3.5 4.5-5 7-5s5 1.5 7 5c-2 3.5-4.5 5-7 5s-5-1.5-7-5z", "M8 6a2 2 0 1 0 .01 0z"],
  hidden: ["M1 8c2-3.5 4.5-5 7-5s5 1.5 7 5c-2 3.5-4.5 5-7 5s-5-1.5-7-5zM3 14 13 2"],
  undo: ["M6 3 2.5 6.5 6 10M3 6.5h6.5a4 4 0 0 1 0 7H7"],
  redo: ["M10 3l3.5 3.5L10 10M13 6.5H6.5a4 4 0 0 0 0 7H9"],
  locked: ["M5 7.5V5a3 3 0 0 1 6 0v2.5", "M3.5 7h9v7h-9z"],
  unlocked: ["M5 7.5V5a3 3 0 0 1 5.8-1M3.5 7.5h9v6h-9z"],
  remove: ["M4 4l8 8M12 4l-8 8"],
  play: ["", "M4.5 2.5v11l9-5.5z"],
  pause: ["", "M4 3h3v10H4zM9 3h3v10H9z"],
  enlarge: ["M9.5 2.5h4v4M6.5 13.5h-4v-4M13.5 2.5 9 7M2.5 13.5 7 9"],
};

function icon(name) {
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const [stroked, filled] = ICONS[name];
  const svg = draw("svg", { viewBox: "0 0 16 16", class: "sap-icon", "aria-hidden": "true" });
  if (stroked) svg.append(draw("path", { d: stroked, fill: "none", stroke: "currentColor" }));
  if (filled) svg.append(draw("path", { d: filled, fill: "currentColor" }));
  return svg;
}
