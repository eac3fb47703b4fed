// The server's wall clock as far as the page knows it, so that ages are right on a machine whose clock is not.
import { createStore, useStore } from './store';

let offset = 0;
const tick = createStore(Date.now());

/** What the server's clock showed just now. */
export function noteServerTime(now: bigint): void {
  if (now > 0n) offset = Number(now) - Date.now();
}

export const serverNow = () => Date.now() + offset;

/** Moves ages on each second while the page can be seen. */
export function startClock(): void {
  setInterval(() => {
    if (!document.hidden) tick.set(Date.now());
  }, 1000);
}

/** Now by the server's clock; the component is drawn anew once in `seconds`. */
export function useNow(seconds = 1): number {
  const step = useStore(tick, (value) => Math.floor(value / (1000 * seconds)));
  return step >= 0 ? serverNow() : 0;
}
