// A list that is read a page at a time, as far as somebody asks for.
import { useEffect, useRef, useState } from 'preact/hooks';
import { describeError, type Problem } from '../api/errors';

export interface Paged<T> {
  items: T[] | null;
  problem: Problem | null;
  loading: boolean;
  more: boolean;
  loadMore(): void;
  reload(): void;
}

type State<T> = { items: T[] | null; next: string; problem: Problem | null; loading: boolean };

export function usePaged<T>(
  key: string, read: (pageToken: string, signal: AbortSignal) => Promise<{ items: T[]; nextPageToken: string }>,
  changes?: (listener: () => void) => () => void,
): Paged<T> {
  const [state, setState] = useState<State<T>>({ items: null, next: '', problem: null, loading: true });
  const running = useRef<AbortController | null>(null);
  const fetchPage = (pageToken: string, before: T[]) => {
    running.current?.abort();
    const abort = new AbortController();
    running.current = abort;
    setState((now) => ({ ...now, loading: true }));
    read(pageToken, abort.signal).then(
      ({ items, nextPageToken }) => {
        if (!abort.signal.aborted) setState({ items: [...before, ...items], next: nextPageToken, problem: null, loading: false });
      },
      (error: unknown) => {
        if (!abort.signal.aborted) setState((now) => ({ ...now, problem: describeError(error), loading: false }));
      });
  };
  const reload = () => fetchPage('', []);
  useEffect(() => {
    reload();
    const stop = changes?.(reload);
    return () => {
      running.current?.abort();
      stop?.();
    };
    // `read` is made anew at each draw; its conditions are in the key.
  }, [key]);
  return { ...state, more: state.next !== '', loadMore: () => fetchPage(state.next, state.items ?? []), reload };
}
