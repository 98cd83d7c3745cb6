// What is drawn over a pane's picture: crosshair, marks of prompts, ruler, brush, letters, scale bar. Pixels are those of
// the canvas, `ratio` of them to a CSS pixel.

// What is left and right of a turned projection, to the nearest quarter.
const turnedEnds = (degrees) => [["R", "L"], ["A", "P"], ["L", "R"], ["P", "A"]][Math.round(degrees / 90) % 4];

function strokeTwice(context, path, [under, over], ratio) { // seen on any grey
  for (const [colour, wide] of [[under, 3], [over, 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide * ratio;
    context.stroke(path);
  }
}
function drawCrosshair(context, x, y, width, height, ratio, isDark) {
  const gap = 9 * ratio; // what is clicked stays in sight
  const path = new Path2D();
  for (const [from, to] of [[[0, y], [x - gap, y]], [[x + gap, y], [width, y]], [[x, 0], [x, y - gap]], [[x, y + gap], [x, height]]]) {
    path.moveTo(...from);
    path.lineTo(...to);
  }
  const [black, white] = ["rgba(0, 0, 0, 0.55)", "rgba(255, 255, 255, 0.4)"];
  strokeTwice(context, path, isDark ? [black, "rgba(255, 255, 255, 0.7)"] : [white, black], ratio);
}
// A small disc, of background prompts a cross, in the object's colour; several points are joined by a line.
function drawMark(context, points, foreground, colour, size) {
  const mark = new Path2D();
  const [[x, y]] = points;
  const isLine = points.length > 1;
  if (isLine) points.forEach((point) => mark.lineTo(...point));
  else if (foreground) mark.arc(x, y, size, 0, 2 * Math.PI);
  else {
    for (const slope of [-1, 1]) {
      mark.moveTo(x - size, y - slope * size);
      mark.lineTo(x + size, y + slope * size);
    }
  }
  context.setLineDash(isLine && !foreground ? [3 * size, 2 * size] : []);
  context.lineWidth = size * 1.1;
  context.strokeStyle = "white";
  context.stroke(mark);
  context.lineWidth = size * 0.6;
  context.strokeStyle = context.fillStyle = colour;
  if (foreground && !isLine) context.fill(mark);
  else context.stroke(mark);
  context.setLineDash([]);
}
function drawRuler(context, [x, y], [u, v], mm, ratio) {
  const path = new Path2D();
  path.moveTo(x, y);
  path.lineTo(u, v);
  const length = Math.hypot(u - x, v - y) || 1;
  const [across, down] = [((v - y) / length) * 4 * ratio, (-(u - x) / length) * 4 * ratio];
  for (const [a, b] of [[x, y], [u, v]]) {
    path.moveTo(a - across, b - down);
    path.lineTo(a + across, b + down);
  }
  strokeTwice(context, path, ["white", "black"], 1.5 * ratio);
  drawText(context, `${mm.toFixed(1)} mm`, (x + u) / 2 + 6 * ratio, (y + v) / 2 - 6 * ratio, ratio, ["white", "black"]);
}
function drawDraft(context, { tool, foreground }, points, colour, radius, ratio) {
  if (tool === "ruler") return; // is drawn with its length
  const path = new Path2D();
  const [[x, y], [u, v]] = [points[0], points[points.length - 1]];
  if (tool === "box") path.rect(Math.min(x, u), Math.min(y, v), Math.abs(u - x), Math.abs(v - y));
  else points.forEach((point) => path.lineTo(...point));
  if (tool === "lasso") path.closePath();
  if (tool === "brush" || tool === "eraser") {
    path.lineTo(u + 0.01, v); // a dot
    Object.assign(context, { lineCap: "round", lineJoin: "round", lineWidth: Math.max(2 * radius, 2), globalAlpha: 0.5 });
    context.strokeStyle = tool === "eraser" ? "white" : colour;
    context.stroke(path);
    Object.assign(context, { lineCap: "butt", lineJoin: "miter", globalAlpha: 1 });
    return;
  }
  context.setLineDash(foreground ? [] : [6 * ratio, 4 * ratio]);
  strokeTwice(context, path, ["white", colour], 1.5 * ratio);
  context.setLineDash([]);
}
// How large a brush is; one of no size paints a voxel.
function drawRing(context, [x, y], radius, ratio) {
  const path = new Path2D();
  path.arc(x, y, Math.max(radius, 2 * ratio), 0, 2 * Math.PI);
  strokeTwice(context, path, ["white", "black"], ratio);
}
function drawText(context, text, x, y, ratio, [under, over], align = "left") {
  const font = `600 ${12 * ratio}px system-ui, sans-serif`;
  Object.assign(context, { font, lineWidth: 3 * ratio, lineJoin: "round", strokeStyle: under, textAlign: align });
  context.strokeText(text, x, y);
  context.fillStyle = over;
  context.fillText(text, x, y);
}
function drawLetters(context, [left, right], width, height, ratio, tones) {
  drawText(context, left, 5 * ratio, height / 2, ratio, tones);
  drawText(context, right, width - 5 * ratio, height / 2, ratio, tones, "right");
}
function drawScaleBar(context, widthMM, width, height, ratio, tones) {
  const mm = scaleBarMM(widthMM);
  const [x, y, length] = [8 * ratio, height - 8 * ratio, (mm / widthMM) * width];
  const path = new Path2D();
  path.moveTo(x, y);
  path.lineTo(x + length, y);
  strokeTwice(context, path, tones, 1.6 * ratio);
  drawText(context, mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, x, y - 5 * ratio, ratio, tones);
}
