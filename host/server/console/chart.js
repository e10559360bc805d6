// A chart of series over time. Its numbers are in a table beside it, for those who cannot see it.

import uPlot from "./vendor/uplot.js";
import { html, useEffect, useRef, useState } from "./ui.js";

const HEIGHT = 170;
const TICK = 70;
// All values are integers.
const STEPS = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** Counts the changes of the colours, so that charts are drawn again: a canvas knows no variables. */
export function useColours() {
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const change = () => setTurn((old) => old + 1);
    const root = new MutationObserver(change);
    root.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const system = matchMedia("(prefers-color-scheme: dark)");
    system.addEventListener("change", change);
    return () => {
      root.disconnect();
      system.removeEventListener("change", change);
    };
  }, []);
  return turn;
}

function options(figure, series, format, width) {
  const colour = (element) => getComputedStyle(element).color;
  const [text, line] = [colour(figure), colour(figure.querySelector(".chart-line"))];
  const marks = [...figure.querySelectorAll("figcaption .swatch")];
  const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { drag: { x: false, y: false }, y: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { y: { range: (_, least, most) => [0, most > 0 ? most * 1.05 : 1] } },
    axes: [
      { ...axis, values: [[3600, "{HH}:{mm}"], [60, "{HH}:{mm}"], [1, "{HH}:{mm}:{ss}"]].map(([step, text]) => (
        [step, text, null, null, null, null, null, null, 1])) },
      { ...axis, size: TICK, space: 40, incrs: STEPS, values: (_, ticks) => ticks.map(format) },
    ],
    series: [{}, ...series.map((one, place) => ({
      label: one.label, stroke: colour(marks[place]), width: 2, dash: place > 0 ? [6, 3] : undefined, points: { show: true, size: 4 },
    }))],
  };
}

/**
 * A chart of `series`, `[{label, values}]`, at `times` in milliseconds. `format` writes a value, and
 * `summary` is what the chart says in a sentence.
 */
export function Chart({ title, times, series, format, summary, colours }) {
  const figure = useRef(null);
  const plot = useRef(null);
  const data = [times.map((at) => at / 1000), ...series.map((one) => one.values)];
  useEffect(() => {
    const place = figure.current.querySelector(".plot");
    const width = () => Math.max(200, Math.floor(place.clientWidth));
    plot.current = new uPlot(options(figure.current, series, format, width()), data, place);
    const resized = new ResizeObserver(() => plot.current?.setSize({ width: width(), height: HEIGHT }));
    resized.observe(place);
    return () => {
      resized.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [colours]);
  useEffect(() => plot.current?.setData(data), [times, series]);
  return html`<figure class="chart" ref=${figure}>
    <figcaption><strong>${title}</strong><span class="chart-line"></span>${series.length > 1 && series.map((one, place) => html`
      <span class=${`legend swatch-${place}`}><span class=${`swatch swatch-${place}`} aria-hidden="true"></span>${one.label}</span>`)}
      ${series.length === 1 && html`<span class="swatch swatch-0" aria-hidden="true" hidden></span>`}</figcaption>
    <div class="plot" role="img" aria-label=${summary}></div>
  </figure>`;
}
