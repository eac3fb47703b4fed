// A value that parts of the page follow. Listeners are called in order, at once, whenever another value is set.
import { useEffect, useState } from 'preact/hooks';

export interface Store<T> {
  get(): T;
  set(next: T): void;
  update(change: (present: T) => T): void;
  /** Calls `listener` after each change, until the returned function is called. */
  subscribe(listener: () => void): () => void;
}

export function createStore<T>(initial: T): Store<T> {
  let value = initial;
  const listeners = new Set<() => void>();
  const store: Store<T> = {
    get: () => value,
    set(next) {
      if (Object.is(next, value)) return;
      value = next;
      for (const listener of [...listeners]) listener();
    },
    update: (change) => store.set(change(value)),
    subscribe(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  return store;
}

/** The part of a store that `select` picks; the component is drawn anew only when that part is another one. */
export function useStore<T, P = T>(store: Store<T>, select: (value: T) => P = (value) => value as unknown as P): P {
  const [, redraw] = useState({});
  const picked = select(store.get());
  useEffect(() => {
    let last = picked;
    const look = () => {
      const next = select(store.get());
      if (Object.is(next, last)) return;
      last = next;
      redraw({});
    };
    look();
    return store.subscribe(look);
    // A new `picked` means that this draw has seen it.
  }, [store, picked]);
  return picked;
}
