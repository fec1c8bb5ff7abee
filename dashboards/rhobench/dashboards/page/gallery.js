// ---- kept tokens, detections and attention on validation images, at each ρ

const gallery = { image: 0, point: 0 };
const CLASS_COLORS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9'];

const bytesOf = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const rhoWords = (point) => (point.rho === null ? 'dense' : `ρ = ${+point.rho.toPrecision(3)}`);

function loaded(jpeg) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = fail;
    image.src = 'data:image/jpeg;base64,' + jpeg;
  });
}

function canvasOf(id, image) {
  const canvas = $(id);
  const scale = Math.max(1, Math.round(480 / Math.max(image.width, image.height)));
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  const pen = canvas.getContext('2d');
  pen.imageSmoothingEnabled = scale === 1;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  return [canvas, pen];
}

// Paints a colour over every cell of the map, with the opacity that `shade` returns for its value.
function overlay([canvas, pen], point, cells, color, shade) {
  const [width, height] = [canvas.width / point.columns, canvas.height / point.rows];
  pen.fillStyle = color;
  cells.forEach((cell, i) => {
    pen.globalAlpha = shade(cell);
    pen.fillRect(Math.floor((i % point.columns) * width), Math.floor(Math.floor(i / point.columns) * height), Math.ceil(width), Math.ceil(height));
  });
  pen.globalAlpha = 1;
}

function drawBoxes([canvas, pen], objects) {
  const names = [...new Set(DATA.gallery.flatMap((entry) => entry.points.flatMap((point) => point.objects.map((object) => object.name))))].sort();
  pen.lineWidth = 3;
  pen.font = '600 13px Inter, system-ui, sans-serif';
  for (const { name, score, box } of [...objects].reverse()) {
    const [x0, y0, x1, y1] = box.map((side, i) => side * (i % 2 ? canvas.height : canvas.width));
    const words = `${name} ${score.toFixed(2)}`;
    pen.strokeStyle = pen.fillStyle = CLASS_COLORS[names.indexOf(name) % CLASS_COLORS.length];
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    const top = y0 > 18 ? y0 - 18 : Math.max(y0, 0);
    pen.fillRect(x0, top, pen.measureText(words).width + 8, 18);
    pen.fillStyle = '#ffffff';
    pen.fillText(words, x0 + 4, top + 13);
  }
}

async function drawGallery() {
  const entry = DATA.gallery[gallery.image];
  const point = entry.points[Math.min(gallery.point, entry.points.length - 1)];
  const image = await loaded(entry.jpeg);
  const share = (100 * point.updated) / point.tokens;
  overlay(canvasOf('#kept', image), point, bytesOf(point.kept), '#0d1117', (levels) => 0.82 * (1 - Math.min(levels, point.levels) / point.levels));
  drawBoxes(canvasOf('#found', image), point.objects);
  const attention = $('#attention').closest('figure');
  attention.hidden = point.attention === null;
  if (point.attention !== null) {
    const parts = canvasOf('#attention', image);
    parts[1].fillStyle = 'rgb(13 17 23 / 55%)';
    parts[1].fillRect(0, 0, parts[0].width, parts[0].height);
    overlay(parts, point, bytesOf(point.attention), '#ffb84d', (cell) => Math.sqrt(cell / 255) * 0.9);
  }
  $('#gallery output').textContent = `${rhoWords(point)}: ${point.updated.toLocaleString('en')} of ${point.tokens.toLocaleString('en')} tokens updated (${share.toFixed(0)} %), ${counted(point.objects.length, 'object')}`;
  $('#gallery-run').replaceChildren('Model of ', runLink(point.run_id));
  const words = `${rhoWords(point)}, image ${entry.image_id}`;
  for (const [id, what] of [['#kept', 'updated tokens'], ['#found', 'detections'], ['#attention', 'attention of the decoder']]) $(id).setAttribute('aria-label', `${what}, ${words}`);
  $('#gallery-rho').setAttribute('aria-valuetext', rhoWords(point));
}

function setUpGallery() {
  $('#gallery').hidden = DATA.gallery.length === 0;
  if (!DATA.gallery.length) return;
  const slider = $('#gallery-rho');
  const select = $('#gallery-image');
  DATA.gallery.forEach((entry, i) => select.append(element('option', String(entry.image_id), [], { value: i })));
  const fit = () => { slider.max = DATA.gallery[gallery.image].points.length - 1; slider.disabled = slider.max === '0'; };
  fit();
  slider.value = gallery.point;
  slider.oninput = () => { gallery.point = +slider.value; inTurn(drawGallery); };
  select.onchange = () => { gallery.image = +select.value; fit(); inTurn(drawGallery); };
  return inTurn(drawGallery);
}
