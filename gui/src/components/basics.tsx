// Small pieces that every page is made of.
import type { ComponentChildren } from 'preact';
import type { Problem } from '../api/errors';
import { useNow } from '../store/clock';
import type { Resource } from '../store/resource';
import { formatAge, formatBytes, formatPercent, formatTime } from './format';

/** How long ago something was; the moment itself in a tooltip. */
export function Age({ ms, never = 'never' }: { ms: bigint | number; never?: string }) {
  const now = useNow(Math.abs(Date.now() - Number(ms)) < 120_000 ? 1 : 30);
  if (Number(ms) === 0) return <span class="muted">{never}</span>;
  return <time dateTime={new Date(Number(ms)).toISOString()} title={formatTime(ms)}>{formatAge(ms, now)}</time>;
}

export type Tone = 'ok' | 'info' | 'warning' | 'error' | 'critical' | 'neutral';

/** A state: its letter and colour say the same as its word. */
export function Badge({ tone, children, letter }: { tone: Tone; children: ComponentChildren; letter?: string }) {
  return (
    <span class={`badge ${tone}`}>
      <span class="letter" aria-hidden="true">{letter ?? letters[tone]}</span>{children}
    </span>
  );
}

const letters: Record<Tone, string> = { ok: '✓', info: 'i', warning: '!', error: '!', critical: '‼', neutral: '–' };

export function ProblemBox({ problem, onRetry }: { problem: Problem; onRetry?: () => void }) {
  return (
    <div class="problem" role="alert">
      <p><strong>{problem.message}</strong></p>
      {problem.remedy && <p>{problem.remedy}</p>}
      {problem.reason && <p class="code">{problem.reason}</p>}
      {onRetry && <button type="button" onClick={onRetry}>Try again</button>}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return <div class="empty"><p class="empty-title">{title}</p>{children && <div>{children}</div>}</div>;
}

/** Grey lines in the place of what is being read. */
export function Skeleton({ lines = 4 }: { lines?: number }) {
  return (
    <div class="skeleton" role="status">
      <span class="hidden">Loading</span>
      {Array.from({ length: lines }, (_, index) => <span key={index} class="skeleton-line" />)}
    </div>
  );
}

/** What a resource holds, or why not, or that it is on its way. */
export function Loaded<T>({ of, lines, children }: {
  of: Resource<T>; lines?: number; children: (value: T) => ComponentChildren;
}) {
  return (
    <>
      {of.problem && <ProblemBox problem={of.problem} onRetry={of.reload} />}
      {of.value !== null ? children(of.value) : !of.problem && <Skeleton lines={lines} />}
    </>
  );
}

export interface Part {
  label: string;
  value: number;
  kind: string;
}

/** A whole in parts, as a bar; the words say the same. */
export function StackedBar({ parts, whole, label }: { parts: Part[]; whole: number; label: string }) {
  const text = parts.map((part) => `${part.label} ${formatBytes(part.value)} (${formatPercent(part.value, whole)})`).join(', ');
  return (
    <div class="bar" role="img" aria-label={`${label}: ${text} of ${formatBytes(whole)}`}>
      {parts.map((part) => (
        <span key={part.label} class={`bar-part ${part.kind}`} title={`${part.label} ${formatBytes(part.value)}`}
          style={{ width: `${whole > 0 ? Math.min(100, (100 * part.value) / whole) : 0}%` }} />
      ))}
    </div>
  );
}

export function Progress({ percent, label }: { percent: number | null; label: string }) {
  const value = percent === null ? undefined : Math.max(0, Math.min(100, percent));
  return (
    <div class="progress" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100}
      aria-valuenow={value === undefined ? undefined : Math.round(value)}>
      <span class={value === undefined ? 'progress-unknown' : ''} style={{ width: `${value ?? 100}%` }} />
    </div>
  );
}

/** A page's head: what it is, and what can be done. */
export function PageHead({ title, children, trail }: {
  title: ComponentChildren; children?: ComponentChildren; trail?: { label: string; href: string };
}) {
  return (
    <header class="page-head">
      <div>
        {trail && <a class="trail" href={trail.href}>{trail.label}</a>}
        <h1 tabIndex={-1}>{title}</h1>
      </div>
      {children && <div class="actions">{children}</div>}
    </header>
  );
}

export function Panel({ title, children, actions, class: extra = '' }: {
  title: ComponentChildren; children: ComponentChildren; actions?: ComponentChildren; class?: string;
}) {
  return (
    <section class={`panel ${extra}`}>
      <header class="panel-head"><h2>{title}</h2>{actions && <div class="actions">{actions}</div>}</header>
      {children}
    </section>
  );
}

/** Names and values, as a description list. */
export function Facts({ facts }: { facts: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
    </dl>
  );
}

export function Tabs({ tabs, current, label }: { tabs: { id: string; label: string; href: string }[]; current: string; label: string }) {
  return (
    <nav class="tabs" aria-label={label}>
      {tabs.map((tab) => (
        <a key={tab.id} href={tab.href} aria-current={tab.id === current ? 'page' : undefined}>{tab.label}</a>
      ))}
    </nav>
  );
}
