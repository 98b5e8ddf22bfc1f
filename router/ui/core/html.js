// In: nothing. Out: what every view draws with: `html` templates and signals.
import { h, render } from "../vendor/preact.js";
import { useEffect, useMemo, useRef } from "../vendor/hooks.js";
import htm from "../vendor/htm.js";
import { signal, computed, effect, batch, useSignal, useSignalEffect } from "../vendor/signals.js";

export const html = htm.bind(h);
export { h, render, signal, computed, effect, batch, useSignal, useSignalEffect, useEffect, useMemo, useRef };
