// ---- labels: the front first; a label that no place can take without an overlap is left out

// Plotly's name, the direction from the marker, and the number of empty lines between the marker and the label
const PLACES = [
  ['bottom right', 1, 1, 0], ['top left', -1, -1, 0], ['top right', 1, -1, 0], ['bottom left', -1, 1, 0],
  ['middle right', 1, 0, 0], ['middle left', -1, 0, 0],
  ['top right', 1, -1, 1], ['bottom right', 1, 1, 1], ['top left', -1, -1, 1], ['bottom left', -1, 1, 1],
];
const LINE = 16;

// The error bars of y, which a label must not cross
function barBoxes(trace, xaxis, yaxis) {
  if (!trace.error_y) return [];
  return trace.x.map((at, i) => {
    const ends = [trace.y[i] + trace.error_y.array[i], trace.y[i] - trace.error_y.arrayminus[i]].map((y) => yaxis.d2p(y));
    return { left: xaxis.d2p(at) - 4, right: xaxis.d2p(at) + 4, top: Math.min(...ends), bottom: Math.max(...ends) };
  });
}

// The forms of each label, longest first: its first two parts and its first one, where no other label has them
function labelForms(labels) {
  const parts = new Map(labels.map((words) => [words, words.split(' · ')]));
  const counts = new Map();
  const head = (all, number) => all.slice(0, number).join(' · ');
  for (const all of parts.values()) {
    for (const form of new Set([head(all, 2), head(all, 1)])) counts.set(form, (counts.get(form) ?? 0) + 1);
  }
  const forms = new Map();
  for (const [words, all] of parts) {
    const unique = [...new Set([head(all, 2), head(all, 1)])].filter((form) => counts.get(form) === 1);
    forms.set(words, unique.length ? unique : [words]);
  }
  return forms;
}

const cut = (words) => (words.length > 28 ? words.slice(0, 26) + '…' : words);

async function placeLabels(plot) {
  const { xaxis, yaxis } = plot._fullLayout;
  const drawn = [], taken = [];
  const boxes = (point) => ({ left: point.px - 7, right: point.px + 7, top: point.py - 7, bottom: point.py + 7 });
  const traces = plot.data.map((trace, index) => ({ trace, index })).filter(({ trace }) => trace.mode === 'markers+text');
  const points = traces.flatMap(({ trace, index }) =>
    trace.x.map((at, i) => ({ index, i, front: trace.meta === 'front', px: xaxis.d2p(at), py: yaxis.d2p(trace.y[i]), words: trace.customdata[i][0] })));
  const forms = labelForms(points.map(({ words }) => words));
  drawn.push(...points.map(boxes), ...traces.flatMap(({ trace }) => barBoxes(trace, xaxis, yaxis)));
  const texts = new Map(traces.map(({ trace, index }) => [index, { text: trace.x.map(() => ''), textposition: trace.x.map(() => 'bottom right') }]));
  const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;
  for (const point of [...points].sort((a, b) => b.front - a.front || a.px - b.px)) {
    const tries = forms.get(point.words).flatMap((form) => PLACES.map((place) => [cut(form), place]));
    for (const [words, [place, dx, dy, lines]] of tries) {
      const width = words.length * 7 + 4;
      const left = dx > 0 ? point.px + 6 : point.px - 6 - width;
      const away = 3 + lines * LINE;
      const top = dy === 0 ? point.py - 9 : dy > 0 ? point.py + away : point.py - away - 18;
      const box = { left, right: left + width, top, bottom: top + 18 };
      const own = boxes(point);
      const inside = box.left > -10 && box.right < xaxis._length + 12 && box.top > -10 && box.bottom < yaxis._length + 10;
      const clear = drawn.every((other) => apart(box, other) || (other.left === own.left && other.top === own.top));
      // With the empty lines between it and its marker, which markers may be in, but no other label
      const whole = { ...box, top: dy > 0 ? top - lines * LINE : top, bottom: top + 18 + (dy < 0 ? lines * LINE : 0) };
      if (inside && clear && taken.every((other) => apart(whole, other))) {
        taken.push(whole);
        const empty = Array(lines).fill('\u00a0');
        texts.get(point.index).text[point.i] = (dy > 0 ? [...empty, escaped(words)] : [escaped(words), ...empty]).join('<br>');
        texts.get(point.index).textposition[point.i] = place;
        break;
      }
    }
  }
  const indices = [...texts.keys()];
  if (!indices.length) return;
  await Plotly.restyle(plot, { text: indices.map((i) => texts.get(i).text), textposition: indices.map((i) => texts.get(i).textposition) }, indices);
}
