// The drawing as a file of its own: an SVG that carries its look with it.

const SVG = 'http://www.w3.org/2000/svg';

export const asFile = async (graph) => {
  const copy = graph.cloneNode(true);
  const look = document.createElementNS(SVG, 'style');
  look.textContent = await (await fetch('/map/graph.css')).text();
  copy.setAttribute('xmlns', SVG);
  copy.setAttribute('class', 'graph');
  copy.removeAttribute('style');
  copy.removeAttribute('id');
  const [, , width, height] = copy.getAttribute('viewBox').split(' ');
  copy.setAttribute('width', width);
  copy.setAttribute('height', height);
  for (const element of copy.querySelectorAll('[tabindex], [role], [data-id]')) ['tabindex', 'role', 'data-id', 'aria-label'].forEach((name) => element.removeAttribute(name));
  copy.querySelectorAll('.hit, .ring').forEach((element) => element.remove());
  const ground = document.createElementNS(SVG, 'rect');
  for (const [name, value] of [['width', width], ['height', height], ['rx', '10'], ['fill', 'var(--ground)']]) ground.setAttribute(name, value);
  copy.prepend(look, ground);
  return new XMLSerializer().serializeToString(copy);
};

export const save = async (graph) => {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([await asFile(graph)], { type: 'image/svg+xml' }));
  link.download = 'service-map.svg';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
};
