// Something that is read from the server and shown: loading, there, or failed (with what was there before).
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { describeError, type Problem } from '../api/errors';

export interface Resource<T> {
  value: T | null;
  problem: Problem | null;
  loading: boolean;
  /** Reads it again; what is there is shown meanwhile. */
  reload(): void;
}

/**
 * Reads by `load` when the component appears, when `key` changes, and whenever `changes` (a subscription) says so.
 * Readings that were overtaken by a newer one are given up.
 */
export function useResource<T>(
  key: string, load: (signal: AbortSignal) => Promise<T>, changes?: (listener: () => void) => () => void,
): Resource<T> {
  const [state, setState] = useState<{ key: string; value: T | null; problem: Problem | null; loading: boolean }>(
    { key, value: null, problem: null, loading: true });
  const loader = useRef(load);
  loader.current = load;
  const running = useRef<AbortController | null>(null);

  const reload = useCallback(() => {
    running.current?.abort();
    const abort = new AbortController();
    running.current = abort;
    setState((now) => (now.key === key ? { ...now, loading: true } : { key, value: null, problem: null, loading: true }));
    loader.current(abort.signal).then(
      (value) => {
        if (!abort.signal.aborted) setState({ key, value, problem: null, loading: false });
      },
      (error: unknown) => {
        if (!abort.signal.aborted) setState((now) => ({ ...now, problem: describeError(error), loading: false }));
      });
  }, [key]);

  useEffect(() => {
    reload();
    const stop = changes?.(reload);
    return () => {
      running.current?.abort();
      stop?.();
    };
    // `changes` is a module's function: it does not change.
  }, [reload]);

  return { value: state.key === key ? state.value : null, problem: state.problem, loading: state.loading, reload };
}
