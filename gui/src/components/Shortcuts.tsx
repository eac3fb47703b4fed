// Keyboard shortcuts, and the dialog that lists them.
import { useEffect } from 'preact/hooks';
import { goTo } from '../store/router';
import { Dialog } from './Dialog';
import { entries } from './Shell';

/** How long the letter after "g" is waited for. */
const waitMs = 1500;

export function useShortcuts(active: boolean, onHelp: () => void): void {
  useEffect(() => {
    if (!active) return;
    let leaderAt = 0;
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
      if (target.matches('input, select, textarea')) return;
      const entry = entries.find(({ key }) => key === event.key);
      if (entry && Date.now() - leaderAt < waitMs) {
        event.preventDefault();
        goTo(entry.path === '' ? [] : [entry.path]);
        leaderAt = 0;
      } else if (event.key === 'g') {
        leaderAt = Date.now();
      } else if (event.key === '/') {
        const search = document.querySelector<HTMLInputElement>('input[type=search]');
        if (!search) return;
        event.preventDefault();
        search.focus();
      } else if (event.key === '?') {
        onHelp();
      }
    };
    addEventListener('keydown', press);
    return () => removeEventListener('keydown', press);
  }, [active]);
}

export function Shortcuts({ onClose }: { onClose(): void }) {
  return (
    <Dialog title="Keyboard shortcuts" onClose={onClose}>
      <div class="dialog-body">
        <table class="plain">
          <caption class="hidden">Keyboard shortcuts</caption>
          <thead><tr><th scope="col">Keys</th><th scope="col">What they do</th></tr></thead>
          <tbody>
            <tr><td><kbd>/</kbd></td><td>To the search of the page</td></tr>
            <tr><td><kbd>?</kbd></td><td>This list</td></tr>
            <tr><td><kbd>Esc</kbd></td><td>Closes a dialog</td></tr>
            {entries.map((entry) => (
              <tr key={entry.key}><td><kbd>g</kbd> <kbd>{entry.key}</kbd></td><td>To {entry.label}</td></tr>
            ))}
          </tbody>
        </table>
      </div>
      <footer class="dialog-foot"><button type="button" class="primary" onClick={onClose}>Close</button></footer>
    </Dialog>
  );
}
