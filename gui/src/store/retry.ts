// "Try now" of the notice that the stream is lost.
let retry = () => {};

export function setRetry(next: () => void): void {
  retry = next;
}

export const retryStream = () => retry();
