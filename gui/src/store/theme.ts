// Light or dark: as the system says, or as this browser was told.
import { createStore, useStore } from './store';

export type Theme = 'system' | 'light' | 'dark';
const key = 'tessera-theme';

const theme = createStore<Theme>('system');

const dark = matchMedia('(prefers-color-scheme: dark)');

/** Takes up what this browser was told last, and follows the system where it was told nothing. */
export function startTheme(): void {
  dark.addEventListener('change', () => apply(theme.get()));
  const kept = localStorage.getItem(key);
  apply(kept === 'light' || kept === 'dark' ? kept : 'system');
}

export function setTheme(next: Theme): void {
  if (next === 'system') localStorage.removeItem(key);
  else localStorage.setItem(key, next);
  apply(next);
}

function apply(next: Theme): void {
  document.documentElement.dataset['theme'] = next === 'system' ? (dark.matches ? 'dark' : 'light') : next;
  theme.set(next);
}

export const useTheme = () => useStore(theme);

/** Calls `listener` whenever colours may have changed. */
export function onThemeChange(listener: () => void): () => void {
  dark.addEventListener('change', listener);
  const stop = theme.subscribe(listener);
  return () => {
    dark.removeEventListener('change', listener);
    stop();
  };
}
