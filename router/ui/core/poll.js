// In: something to ask for. Out: it is asked for every few seconds, while the page is in view and the view is shown.
import { signal, useEffect } from "./html.js";
import { ApiError } from "./api.js";

/**
 * @template T
 * @param {() => Promise<T>} ask
 * @returns {{value: {value: T | null}, problem: {value: string}, now: () => Promise<void>}}
 */
export function polled(ask) {
  const value = signal(/** @type {any} */ (null));
  const problem = signal("");
  const now = async () => {
    try {
      value.value = await ask();
      problem.value = "";
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      problem.value = error.message;
    }
  };
  return { value, problem, now };
}

/** Ask for it as long as the component is drawn. */
export function usePolled(source, everyMs, parts = []) {
  useEffect(() => {
    let isLeft = false;
    let timer = 0;
    const round = async () => {
      if (document.visibilityState === "visible") await source.now();
      if (!isLeft) timer = setTimeout(() => void round(), everyMs);
    };
    void round();
    return () => { isLeft = true; clearTimeout(timer); };
  }, parts);
}
