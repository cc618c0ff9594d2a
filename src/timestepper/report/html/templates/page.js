"use strict";
// Draws each plot when it comes near the window, in the colours of the style sheet.

const drawn = new Set();
// plotly's own choice has one that sends the plot to a server.
const BUTTONS = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];

function theme() {
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const axis = {
    gridcolor: value("--line"), linecolor: value("--line"), zerolinecolor: value("--soft"),
    zeroline: false, ticks: "outside", tickcolor: value("--line"), automargin: true,
    title: { standoff: 8, font: { size: 13 } },
  };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: value("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
      hoverlabel: {
        bgcolor: value("--hover"), bordercolor: value("--soft"), font: { color: value("--ink") },
        namelength: -1,
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: value("--soft"), activecolor: value("--link") },
      xaxis: axis, yaxis: axis,
      coloraxis: { colorbar: { outlinewidth: 0, tickcolor: value("--soft") } },
      annotationdefaults: { font: { color: value("--ink"), size: 12 }, showarrow: false },
      sliderdefaults: {
        bgcolor: value("--raised"), activebgcolor: value("--link"), bordercolor: value("--soft"),
        tickcolor: value("--soft"), font: { color: value("--ink") },
        currentvalue: { font: { color: value("--ink"), size: 13 } },
      },
    },
  };
}

// The legend stands below the plot; its height follows from its labels' widths.
const pen = document.createElement("canvas").getContext("2d");
function legendHeight(traces, width) {
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const widths = traces.filter((trace) => trace.showlegend !== false)
    .map((trace) => pen.measureText(trace.name ?? "").width + 50);
  // plotly gives all entries of a legend the width of the longest.
  const columns = Math.max(1, Math.floor(width / Math.max(1, ...widths)));
  return 19 * Math.ceil(widths.length / columns) + 10;
}

function arranged(place, figure) {
  const width = place.clientWidth;
  const own = figure.layout;
  const legend = own.showlegend ? legendHeight(figure.data, width) : 0;
  const height = Number(place.dataset.height) + legend;
  place.style.height = `${height}px`;
  const margin = { l: 46, r: 12, t: 10, b: 48, ...own.margin };
  margin.b += legend;
  return {
    ...own, template: theme(), width, height, margin,
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0, xanchor: "left" },
  };
}

async function draw(place) {
  const figure = JSON.parse(place.nextElementSibling.textContent);
  place.figure = figure;
  await Plotly.newPlot(place, {
    data: figure.data, layout: arranged(place, figure), frames: figure.frames ?? [],
    config: { displaylogo: false, modeBarButtons: BUTTONS, typesetMath: false },
  });
  drawn.add(place);
  place.dataset.drawn = "";
}

function arrange(place) {
  const { template, width, height, margin } = arranged(place, place.figure);
  Plotly.relayout(place, { template, width, height, margin });
}

const places = [...document.querySelectorAll(".drawing")];
const near = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    near.unobserve(entry.target);
    draw(entry.target);
  }
}, { rootMargin: "400px" });
places.forEach((place) => near.observe(place));
// A page doesn't know its width on paper beforehand; the style sheet has one that fits on all.
window.addEventListener("beforeprint", () => {
  document.documentElement.classList.add("printed");
  drawn.forEach(arrange);
  for (const place of places.filter((one) => !drawn.has(one))) {
    near.unobserve(place);
    draw(place);
  }
});
window.addEventListener("afterprint", () => {
  document.documentElement.classList.remove("printed");
  drawn.forEach(arrange);
});

let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === lastWidth) return; // a phone's address bar
  lastWidth = window.innerWidth;
  drawn.forEach(arrange);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(arrange));

// A page that is kept fresh during a training; not while somebody is reading a detail of it.
const seconds = Number(document.body.dataset.refresh);
if (seconds) {
  let touched = 0;
  for (const kind of ["pointermove", "pointerdown", "touchmove", "wheel", "keydown"]) {
    window.addEventListener(kind, () => { touched = Date.now(); });
  }
  setInterval(() => {
    if (!document.hidden && Date.now() - touched > 1000 * seconds) location.reload();
  }, 1000 * seconds);
}
