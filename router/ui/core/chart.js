// In: numbers over time. Out: a small chart that is also read as text.
import { html, useEffect, useRef } from "./html.js";
import { language, theme } from "./language.js";
import uPlot from "../vendor/uplot.js";

document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: new URL("../vendor/uplot.css", import.meta.url).href }));
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/**
 * Lines over time.
 * @param {{label: string, times: number[], lines: {label: string, values: (number | null)[]}[], unit?: string}} props of which `times` are unix seconds
 */
export function Lines({ label, times, lines, unit = "" }) {
  const place = useRef(null);
  const plot = useRef(null);
  const shape = `${lines.map((line) => line.label).join()}|${theme.value}|${language.value}`;
  useEffect(() => {
    const colours = ["--chart-1", "--chart-2", "--chart-3"].map(style);
    const text = style("--text-soft");
    const axis = { stroke: text, grid: { stroke: style("--line-soft"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const dashes = [[], [6, 4], [2, 3]];
    const node = place.current;
    const width = () => Math.max(node.clientWidth, 120);
    plot.current = new uPlot({
      width: width(), height: 120, cursor: { show: false }, legend: { show: false },
      // Of a single look uPlot would show the day after it.
      scales: { x: { range: (plotted, low, high) => (plotted.data[0].length === 1 ? [low - 30, low + 30] : [low, high]) }, y: { range: (_, low, high) => [0, Math.max(high ?? 1, 1)] } },
      axes: [{ ...axis, size: 26, space: 80, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB")) }, { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => `${tick}${unit}`) }],
      series: [{}, ...lines.map((line, index) => ({ label: line.label, stroke: colours[index % 3], dash: dashes[index % 3], width: 2, points: { show: (plotted) => plotted.data[0].length < 3 } }))],
    }, [times, ...lines.map((line) => line.values)], node);
    const observer = new ResizeObserver(() => plot.current?.setSize({ width: width(), height: 120 }));
    observer.observe(node);
    return () => { observer.disconnect(); plot.current.destroy(); plot.current = null; };
  }, [shape]);
  useEffect(() => { plot.current?.setData([times, ...lines.map((line) => line.values)]); });
  const said = (value) => (value === undefined ? "–" : `${Number(value.toPrecision(3))}${unit}`);
  const last = lines.map((line) => `${line.label} ${said(line.values.findLast((value) => value !== null))}`).join(", ");
  return html`<figure class="chart"><figcaption>${label} <small>${last}</small></figcaption><div ref=${place} role="img" aria-label=${`${label}: ${last}`}></div></figure>`;
}
