// The same for a shell: lines to copy.
import { useState } from 'preact/hooks';
import { grpcurl } from '../api/commands';
import type { Call } from '../api/actions/action';

/** So many calls are written out; the rest is like them. */
const shown = 3;

export function Commands({ calls }: { calls: Call[] | null }) {
  const tls = location.protocol === 'https:';
  const lines = (calls ?? []).slice(0, shown);
  const grpcurls = lines.map(({ method, request }) => grpcurl(method, request, tls));
  const more = (calls?.length ?? 0) - lines.length;
  return (
    <details class="commands" open>
      <summary>The same by command</summary>
      {calls === null ? <p class="hint">Fill the form in, and the commands stand here.</p> : (
        <>
          <CommandLine label="tessera" lines={lines.map(({ cli }) => cli)} />
          <CommandLine label="grpcurl" lines={grpcurls} />
          {more > 0 && <p class="hint">And {more} more like these.</p>}
        </>
      )}
    </details>
  );
}

export function CommandLine({ label, lines }: { label: string; lines: string[] }) {
  const [copied, setCopied] = useState(false);
  const text = lines.join('\n');
  const copy = () => {
    void navigator.clipboard?.writeText(text).then(() => {
      setCopied(true);
      setTimeout(() => setCopied(false), 2000);
    });
  };
  return (
    <div class="command">
      <code tabIndex={0} role="region" aria-label={`${label} command`} data-command={label}>{text}</code>
      {/* Browsers give the clipboard to secure pages only. */}
      {navigator.clipboard && (
        <button type="button" class="quiet" onClick={copy} aria-label={`Copy ${label} command`}>{copied ? 'Copied' : 'Copy'}</button>
      )}
    </div>
  );
}
