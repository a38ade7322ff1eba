// Where everything goes: columns from left to right by the longest path, order within a column by the mean place of
// neighbours. The same nodes and links always give the same places. Pure.

const SIZES = { workload: [184, 46], service: [224, 66], backends: [212, 34], via: [0, 14] };
const ROW = 19;
const GAP_X = 196;
const GAP_Y = 20;
const MARGIN = 28;
const TOP = 46;
const SWEEPS = 8;

const height = (node) => SIZES[node.kind][1] + (node.rows > 0 ? node.rows * ROW + 6 : 0);

// Links that lead back in a circle are left out of the layers.
const forwardLinks = (ids, links) => {
  const out = Map.groupBy(links, (link) => link.from);
  const state = new Map();
  const forward = new Set();
  const visit = (start) => {
    const path = [[start, 0]];
    state.set(start, 'open');
    while (path.length > 0) {
      const top = path.at(-1);
      const next = (out.get(top[0]) ?? [])[top[1]];
      top[1] += 1;
      if (next === undefined) {
        state.set(top[0], 'done');
        path.pop();
      } else if (state.get(next.to) !== 'open') {
        forward.add(next);
        if (!state.has(next.to)) {
          state.set(next.to, 'open');
          path.push([next.to, 0]);
        }
      }
    }
  };
  ids.forEach((id) => state.has(id) || visit(id));
  return [...forward];
};

const layersOf = (nodes, links) => {
  const layer = new Map(nodes.map((node) => [node.id, node.kind === 'workload' ? 0 : 1]));
  for (const node of nodes) if (node.kind === 'backends') layer.set(node.id, 2);
  // Each round settles at least one more layer.
  for (let round = 0, moved = true; moved && round <= nodes.length; round += 1) {
    moved = false;
    for (const { from, to } of links) {
      if (layer.get(to) < layer.get(from) + 1) {
        layer.set(to, layer.get(from) + 1);
        moved = true;
      }
    }
  }
  // Who is nobody's target stands just before the nearest of its own.
  const entered = new Set(links.map((link) => link.to));
  for (const [from, its] of Map.groupBy(links, (link) => link.from)) {
    if (!entered.has(from)) layer.set(from, Math.min(...its.map((link) => layer.get(link.to))) - 1);
  }
  return layer;
};

// A link over several columns is led through those between by points that take room as nodes do.
const lead = (links, layer, columns) => {
  const parts = [];
  const vias = new Map();
  for (const { id, from, to } of links) {
    let last = from;
    for (let at = layer.get(from) + 1; at < layer.get(to); at += 1) {
      const point = { id: `${id} ${at}`, kind: 'via', rows: 0 };
      (columns[at] ??= []).push(point);
      vias.set(id, [...(vias.get(id) ?? []), point.id]);
      parts.push({ from: last, to: point.id });
      last = point.id;
    }
    parts.push({ from: last, to });
  }
  return { parts, vias };
};

const mean = (numbers) => numbers.reduce((total, number) => total + number, 0) / numbers.length;

// `nodes` are `{id, kind, rows}`, `links` `{id, kind, from, to}`. Gives places, columns and the size of it all. A fallback
// stands among the other services, wherever its own clients put it.
export const layout = (nodes, links) => {
  const sorted = [...nodes].sort((one, other) => (one.id < other.id ? -1 : 1));
  const ordered = links.filter((link) => link.kind !== 'fallback').sort((one, other) => (one.id < other.id ? -1 : 1));
  const forward = forwardLinks(sorted.map((node) => node.id), ordered);
  const layer = layersOf(sorted, forward);
  const columns = [];
  for (const node of sorted) (columns[layer.get(node.id)] ??= []).push(node);
  const beside = new Map(links.filter((link) => link.kind === 'fallback').map((link) => [link.to, link.from]));
  const { parts, vias } = lead(forward, layer, columns);
  const filled = columns.filter(Boolean);
  const near = new Map(filled.flat().map((node) => [node.id, { left: [], right: [] }]));
  for (const { from, to } of parts) {
    near.get(to).left.push(from);
    near.get(from).right.push(to);
  }
  order(filled, near, beside);
  return place(filled, near, vias);
};

const order = (columns, near, beside) => {
  const rank = new Map();
  const settle = (column) => column.forEach((node, index) => rank.set(node.id, index / column.length));
  columns.forEach(settle);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const side = sweep % 2 === 0 ? 'left' : 'right';
    for (const column of sweep % 2 === 0 ? columns : [...columns].reverse()) {
      const wish = new Map(column.map((node) => {
        const others = near.get(node.id)[side];
        if (others.length > 0) return [node.id, mean(others.map((id) => rank.get(id)))];
        // A fallback without clients stands below the service it is for.
        if (side === 'left' && rank.has(beside.get(node.id))) return [node.id, rank.get(beside.get(node.id)) + 1e-3];
        // What is linked to nothing goes to the bottom.
        const isAlone = near.get(node.id).left.length + near.get(node.id).right.length === 0;
        return [node.id, isAlone ? 2 : rank.get(node.id)];
      }));
      column.sort((one, other) => wish.get(one.id) - wish.get(other.id) || (one.id < other.id ? -1 : 1));
      settle(column);
    }
  }
};

const place = (columns, near, vias) => {
  const places = new Map();
  let x = MARGIN;
  const headings = [];
  for (const column of columns) {
    const width = Math.max(...column.map((node) => SIZES[node.kind][0]));
    let y = TOP;
    for (const node of column) {
      places.set(node.id, { x, y, width, height: height(node) });
      y += height(node) + GAP_Y;
    }
    for (const node of column) if (node.kind === 'via') places.get(node.id).width = width;
    headings.push({ x, kinds: new Set(column.map((node) => node.kind).filter((kind) => kind !== 'via')) });
    x += width + GAP_X;
  }
  for (let round = 0; round < SWEEPS; round += 1) {
    for (const column of round % 2 === 0 ? columns : [...columns].reverse()) align(column, places, near);
  }
  const bottom = Math.max(TOP, ...[...places.values()].map((at) => at.y + at.height));
  const top = Math.min(...[...places.values()].map((at) => at.y), Infinity);
  if (top !== Infinity) for (const at of places.values()) at.y += TOP - top;
  const led = new Map([...vias].map(([id, points]) => [id, points.map((point) => places.get(point))]));
  return { places, vias: led, headings, width: Math.max(x - GAP_X + MARGIN, 480), height: Math.max(bottom - (top === Infinity ? 0 : top) + TOP + MARGIN, 220) };
};

// Moves each node towards its neighbours as far as those above and below leave room.
const align = (column, places, near) => {
  const middle = (id) => places.get(id).y + places.get(id).height / 2;
  const wishes = column.map((node) => {
    const { left, right } = near.get(node.id);
    const at = places.get(node.id);
    const others = [...left, ...right];
    return others.length > 0 ? mean(others.map(middle)) - at.height / 2 : at.y;
  });
  // Down from the top, then up from the bottom, and the mean of both: nobody is pushed to one side.
  const down = [];
  column.forEach((node, index) => {
    const above = index > 0 ? down[index - 1] + places.get(column[index - 1].id).height + GAP_Y : -Infinity;
    down.push(Math.max(wishes[index], above));
  });
  const up = [...wishes];
  for (let index = column.length - 1; index >= 0; index -= 1) {
    const below = index + 1 < column.length ? up[index + 1] - places.get(column[index].id).height - GAP_Y : Infinity;
    up[index] = Math.min(wishes[index], below);
  }
  column.forEach((node, index) => {
    places.get(node.id).y = (down[index] + up[index]) / 2;
  });
};
