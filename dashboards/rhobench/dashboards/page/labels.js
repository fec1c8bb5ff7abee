// ---- labels: the front first; a label that no place can take without an overlap is left out

const PLACES = [['bottom right', 1, 1], ['top left', -1, -1], ['top right', 1, -1], ['bottom left', -1, 1], ['middle right', 1, 0], ['middle left', -1, 0]];

async function placeLabels(plot) {
  const { xaxis, yaxis } = plot._fullLayout;
  const taken = [];
  const boxes = (point) => ({ left: point.px - 7, right: point.px + 7, top: point.py - 7, bottom: point.py + 7 });
  const traces = plot.data.map((trace, index) => ({ trace, index })).filter(({ trace }) => trace.mode === 'markers+text');
  const points = traces.flatMap(({ trace, index }) =>
    trace.x.map((at, i) => ({ index, i, front: trace.meta === 'front', px: xaxis.d2p(at), py: yaxis.d2p(trace.y[i]), words: trace.customdata[i][0] })));
  taken.push(...points.map(boxes));
  const texts = new Map(traces.map(({ trace, index }) => [index, { text: trace.x.map(() => ''), textposition: trace.x.map(() => 'bottom right') }]));
  const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;
  for (const point of [...points].sort((a, b) => b.front - a.front || a.px - b.px)) {
    const parts = point.words.split(' · ');
    const [longest, shortest] = [parts.slice(0, 2).join(' · '), parts[0]].map((words) => (words.length > 28 ? words.slice(0, 26) + '…' : words));
    const tries = [...PLACES.map((place) => [longest, place]), ...PLACES.map((place) => [shortest, place])];
    for (const [words, [place, dx, dy]] of tries) {
      const width = words.length * 7 + 4;
      const left = dx > 0 ? point.px + 6 : point.px - 6 - width;
      const top = dy === 0 ? point.py - 9 : dy > 0 ? point.py + 3 : point.py - 21;
      const box = { left, right: left + width, top, bottom: top + 18 };
      const own = boxes(point);
      const inside = box.left > -10 && box.right < xaxis._length + 12 && box.top > -10 && box.bottom < yaxis._length + 10;
      if (inside && taken.every((other) => apart(box, other) || (other.left === own.left && other.top === own.top))) {
        taken.push(box);
        texts.get(point.index).text[point.i] = escaped(words);
        texts.get(point.index).textposition[point.i] = place;
        break;
      }
    }
  }
  const indices = [...texts.keys()];
  if (!indices.length) return;
  await Plotly.restyle(plot, { text: indices.map((i) => texts.get(i).text), textposition: indices.map((i) => texts.get(i).textposition) }, indices);
}
