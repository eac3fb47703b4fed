// Where one is: the part of the address behind '#', such as "#/volumes/7?tab=snapshots". It survives a session's end.
import { createStore, useStore } from './store';

export interface Route {
  /** "/volumes/7" is ["volumes", "7"]; "/" is []. */
  path: string[];
  query: URLSearchParams;
}

export function parseRoute(hash: string): Route {
  const text = hash.replace(/^#/, '');
  const [path = '', query = ''] = text.split(/\?(.*)/s);
  return { path: path.split('/').filter(Boolean).map(safeDecode), query: new URLSearchParams(query) };
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** The address of a page, for links. */
export function linkTo(path: readonly (string | number | bigint)[], query: Record<string, string> = {}): string {
  const filled = Object.entries(query).filter(([, value]) => value !== '');
  const tail = filled.length > 0 ? `?${new URLSearchParams(filled)}` : '';
  return `#/${path.map((part) => encodeURIComponent(String(part))).join('/')}${tail}`;
}

/** The page of what an alert is about: "volume/7" has one of its own. */
export function subjectLink(subject: string): string {
  const [kind = '', id = ''] = subject.split('/');
  if (kind === 'volume' && /^\d+$/.test(id)) return linkTo(['volumes', id]);
  if (kind === 'sds' || kind === 'device' || kind === 'pool') return linkTo(['topology'], { show: subject });
  return linkTo(['health']);
}

const route = createStore<Route>({ path: [], query: new URLSearchParams() });

/** Follows the address from now on. */
export function startRouter(): void {
  const read = () => route.set(parseRoute(location.hash));
  addEventListener('hashchange', read);
  read();
}

export const useRoute = () => useStore(route);

export function goTo(path: readonly (string | number | bigint)[], query: Record<string, string> = {}): void {
  location.hash = linkTo(path, query);
}

/** Changes the query of the page one is on, without a new entry in the browser's history. */
export function setQuery(changes: Record<string, string>): void {
  const { path, query } = parseRoute(location.hash);
  const next = { ...Object.fromEntries(query), ...changes };
  history.replaceState(null, '', linkTo(path, next));
  route.set(parseRoute(location.hash));
}
