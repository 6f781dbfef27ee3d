"use strict";
// Draws the charts that stand in the page as data, one tab each. Until the library is unpacked, and wherever that
// fails, the still figures are what is seen.
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 40rem)");

function themed(layout) {
  const css = getComputedStyle(document.documentElement);
  const [ink, dim, grid, card] = ["--ink", "--dim", "--grid", "--card"].map((name) => css.getPropertyValue(name).trim());
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true, fixedrange: narrow.matches };
  const more = Object.keys(layout).filter((name) => /^[xy]axis\d/.test(name));
  return {
    ...layout,
    ...Object.fromEntries(more.map((name) => [name, { ...axis, ...layout[name] }])),
    xaxis: { ...axis, showgrid: false, ...layout.xaxis },
    yaxis: { ...axis, ...layout.yaxis },
    font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hoverlabel: { bgcolor: card, bordercolor: grid, font: { color: ink }, align: "left" },
    legend: narrow.matches ? { orientation: "h", yref: "container", y: 0, yanchor: "bottom" } : { x: 1.02, y: 1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: dim, activecolor: ink },
    margin: { l: 10, r: 10, t: 20, b: 10 },
  };
}

function draw(plot, chart) {
  const layout = structuredClone(themed(chart.layout));
  return Plotly.react(plot, chart.data, layout, {
    responsive: true,
    displaylogo: false,
    displayModeBar: !narrow.matches,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], // those left out share charts with a server
  });
}

function show(box, charts, number, focus) {
  const plot = box.querySelector(".plot");
  box.querySelectorAll("[role=tab]").forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === number);
    tab.tabIndex = i === number ? 0 : -1;
    if (i === number && focus) tab.focus();
  });
  plot.setAttribute("aria-label", charts[number].name);
  box.chart = charts[number];
  draw(plot, box.chart);
}

function prepare(box) {
  const charts = JSON.parse(box.querySelector("script").textContent);
  const tabs = box.querySelector(".tabs");
  if (charts.length < 2) tabs.remove();
  charts.forEach((chart, i) => {
    const tab = document.createElement("button");
    tab.textContent = chart.name;
    tab.setAttribute("role", "tab");
    tab.addEventListener("click", () => show(box, charts, i));
    tabs.append(tab);
  });
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(box, charts, (charts.indexOf(box.chart) + step + charts.length) % charts.length, true);
  });
  if (charts.length) show(box, charts, 0);
}

// A table that is wider than the screen says so: phones show no scroll bar.
function watch(wide) {
  const tell = () => wide.classList.toggle("more", wide.scrollWidth > wide.clientWidth + 1);
  const seen = new ResizeObserver(tell); // also when a table is unfolded
  for (const one of [wide, ...wide.children]) seen.observe(one);
}

async function unpack() {
  const packed = document.getElementById("library");
  if (!packed || !("DecompressionStream" in window)) return;
  const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  if (!window.Plotly) return;
  document.documentElement.classList.add("live");
  const boxes = [...document.querySelectorAll(".charts")];
  boxes.forEach(prepare);
  const again = () => boxes.forEach((box) => box.chart && draw(box.querySelector(".plot"), box.chart));
  dark.addEventListener("change", again);
  narrow.addEventListener("change", again);
}

document.querySelectorAll(".wide").forEach(watch);
unpack();
