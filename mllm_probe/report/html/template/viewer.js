// Pictures under the tokens of a model: what the probe of a layer says covers each, where a statement looks, or the
// words that tokens stand for; and what really lies there.
function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function options(select, names) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
  select.parentElement.hidden = names.length < 2;
}

// What is painted of a token, and what is said of it and of the whole: one entry for each kind of map.
const KINDS = {
  probe: {
    alpha: (value, data) => (value >= data.yes ? 0.25 + (0.5 * (value - data.yes)) / (255 - data.yes) : 0),
    style: (value, data) => (value >= data.yes ? "yes" : "no"),
    token: (i, one) => `the probe says ${one.told[i] >= one.data.yes ? "yes" : "no"}${one.covers(i)}`,
    whole(one) {
      const count = (test) => one.seen.filter((i) => test(one.told[i] >= one.data.yes, one.there(i))).length;
      const found = count((yes, there) => yes && there), missed = count((yes, there) => !yes && there);
      return `${found} tokens found, ${missed} missed, ${count((yes, there) => yes && !there)} wrong`;
    },
  },
  attention: {
    alpha: (value) => (0.7 * value) / 255,
    style: () => "yes",
    token: (i, one) => `${Math.round(one.told[i] / 2.55)} % of what the strongest token gets${one.covers(i)}`,
    whole(one) {
      const most = one.seen.reduce((best, i) => (one.told[i] > one.told[best] ? i : best), one.seen[0]);
      return one.told[most] ? `token ${most} gets most${one.covers(most)}` : "no attention on the picture";
    },
  },
  words: {
    alpha: (value) => (value ? 0.5 : 0),
    style: (value) => (value === 255 ? "yes" : value ? "other" : "no"),
    token: (i, one) => `${one.words(i).join(", ") || "not read"}${one.picture.on[i] ? ` (on: ${one.picture.on[i]})` : ""}`,
    whole(one) {
      const count = (value) => one.seen.filter((i) => one.told[i] === value).length;
      return `the nearest word names what lies there at ${count(255)} of ${one.seen.length} tokens, what is elsewhere at ${count(1)}`;
    },
  },
};

function look(box) {
  const data = JSON.parse(box.querySelector("script").textContent), kind = KINDS[data.kind];
  const [picture, object, way, view] = ["picture", "object", "way", "view"].map((name) => box.querySelector(`select.${name}`));
  const [layer, site, said, token] = ["input", "output", ".told", ".token"].map((name) => box.querySelector(name));
  const [frame, image, svg] = [".frame", "img", "svg"].map((name) => box.querySelector(name));
  let one = null, now = null; // what is shown, and the token that is told of
  layer.max = data.sites.length - 1;

  function state() {
    const shown = data.pictures[picture.value], chosen = shown.objects[object.value];
    const number = [...new Set(shown.views)].sort()[view.value], at = way.value * data.sites.length + Number(layer.value);
    const covered = bytes(chosen.covered), there = (i) => covered[i] >= 127.5;
    const near = chosen.words && new DataView(bytes(chosen.words[at]).buffer);
    const words = (i) => Array.from({ length: data.kept }, (_, k) => data.vocabulary[near.getUint16(2 * (i * data.kept + k), true)]).filter((word) => word !== undefined);
    const name = data.kind === "probe" ? chosen.name : "its object";
    const covers = (i) => chosen.there === null ? "" : chosen.there ? `; ${name} covers ${Math.round(covered[i] / 2.55)} % of it` : `; ${name} is not in the picture`;
    const seen = shown.views.flatMap((each, i) => (each === number ? [i] : []));
    return { data, picture: shown, chosen, told: bytes(chosen.said[at]), there, words, covers, seen };
  }

  function point(i) {
    now = one.seen.includes(i) ? i : null;
    for (const cell of svg.children) cell.classList.toggle("now", Number(cell.dataset.token) === now);
    token.textContent = now === null ? "" : `token ${now}: ${kind.token(now, one)}`;
  }

  function cell(i) {
    const [left, top, right, bottom] = one.picture.cells[i];
    const found = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const at = { x: left, y: top, width: right - left, height: bottom - top };
    for (const [name, value] of Object.entries(at)) found.setAttribute(name, value);
    found.setAttribute("class", `${kind.style(one.told[i], data)} ${one.there(i) ? "there" : ""}`);
    found.style.fillOpacity = kind.alpha(one.told[i], data);
    found.dataset.token = i;
    found.addEventListener("pointerenter", () => point(i));
    return found;
  }

  function paint() {
    one = state();
    site.textContent = data.sites[layer.value];
    layer.setAttribute("aria-valuetext", site.textContent);
    const cells = one.seen.map(cell);
    cells.sort((a, b) => a.classList.contains("there") - b.classList.contains("there")); // outlines on top
    svg.replaceChildren(...cells);
    said.textContent = `${object.selectedOptions[0].text} at ${site.textContent}: ${kind.whole(one)}`;
    point(now);
  }

  // From the token that is told of to the nearest one in a direction.
  function step(across, down) {
    const middle = (i) => [0, 1].map((k) => (one.picture.cells[i][k] + one.picture.cells[i][k + 2]) / 2);
    if (now === null) return point(one.seen[0]);
    const [x, y] = middle(now);
    const far = (i) => {
      const [dx, dy] = [middle(i)[0] - x, middle(i)[1] - y], ahead = dx * across + dy * down;
      return ahead > 1e-6 ? ahead + 4 * Math.abs(dx * down + dy * across) : Infinity;
    };
    const next = one.seen.reduce((best, i) => (far(i) < far(best) ? i : best), now);
    point(next);
  }

  function open() {
    const shown = data.pictures[picture.value];
    image.src = shown.uri;
    image.alt = shown.name;
    frame.classList.toggle("bare", !shown.uri);
    box.querySelector(".gone").textContent = shown.uri ? "" : `${shown.name} ${shown.gone}`;
    options(object, shown.objects.map((each) => (each.there === false ? `${each.name} (not in the picture)` : each.name)));
    options(view, [...new Set(shown.views)].map((_, i) => `${i + 1}`));
    now = null;
    paint();
  }

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    if (!ARROWS[event.key]) return;
    event.preventDefault();
    step(...ARROWS[event.key]);
  });
  options(picture, data.pictures.map((each) => each.name));
  options(way, data.ways);
  picture.addEventListener("change", open);
  for (const each of [object, way, view]) each.addEventListener("change", paint);
  layer.addEventListener("input", paint);
  layer.value = layer.max;
  open();
  box.hidden = false;
}

document.querySelectorAll(".viewer").forEach(look);
