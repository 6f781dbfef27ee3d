// Pictures under the tokens of a model: what the probe of a layer says covers each, and what really does.
function bytes(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function options(select, names) {
  select.replaceChildren(...names.map((name, i) => new Option(name, i)));
  select.parentElement.hidden = names.length < 2;
}

function look(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const [picture, object, view] = ["picture", "object", "view"].map((name) => box.querySelector(`select.${name}`));
  const [layer, site, said] = ["input", "output", ".told"].map((name) => box.querySelector(name));
  const [frame, image, svg] = [".frame", "img", "svg"].map((name) => box.querySelector(name));
  const now = () => data.pictures[picture.value];
  layer.max = data.sites.length - 1;

  function paint() {
    const one = now(), chosen = one.objects[object.value], seen = [...new Set(one.views)].sort()[view.value];
    const covered = bytes(chosen.covered), told = bytes(chosen.said[layer.value]);
    site.textContent = data.sites[layer.value];
    layer.setAttribute("aria-valuetext", site.textContent);
    let hits = 0, wrong = 0, missed = 0;
    const cells = one.cells.flatMap(([left, top, right, bottom], i) => {
      if (one.views[i] !== seen) return [];
      const yes = told[i] >= data.yes, there = covered[i] >= 127.5;
      hits += yes && there;
      wrong += yes && !there;
      missed += !yes && there;
      const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      const at = { x: left, y: top, width: right - left, height: bottom - top };
      for (const [name, value] of Object.entries(at)) cell.setAttribute(name, value);
      cell.setAttribute("class", `${yes ? "yes" : "no"} ${there ? "there" : ""}`);
      cell.style.fillOpacity = yes ? 0.25 + 0.5 * ((told[i] - data.yes) / (255 - data.yes)) : 0;
      const words = document.createElementNS("http://www.w3.org/2000/svg", "title");
      words.textContent = `token ${i}: the probe says ${yes ? "yes" : "no"}; ${chosen.name} covers ${Math.round(covered[i] / 2.55)} %`;
      cell.append(words);
      return [cell];
    });
    cells.sort((a, b) => a.classList.contains("there") - b.classList.contains("there")); // outlines on top
    svg.replaceChildren(...cells);
    said.textContent = `${chosen.name} at ${site.textContent}: ${hits} tokens found, ${missed} missed, ${wrong} wrong`;
  }

  function open() {
    const one = now();
    image.src = one.uri;
    image.alt = one.name;
    frame.classList.toggle("bare", !one.uri);
    box.querySelector(".gone").textContent = one.uri ? "" : `${one.name} ${one.gone}`;
    options(object, one.objects.map((each) => each.name));
    options(view, [...new Set(one.views)].map((_, i) => `${i + 1}`));
    paint();
  }

  options(picture, data.pictures.map((each) => each.name));
  picture.addEventListener("change", open);
  for (const one of [object, view, layer]) one.addEventListener("input", paint);
  layer.value = layer.max;
  open();
  box.hidden = false;
}

document.querySelectorAll(".viewer").forEach(look);
