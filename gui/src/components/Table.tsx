// A table that sorts, and shows many rows a page at a time, so that a thousand rows cost what fifty do.
import type { ComponentChildren } from 'preact';
import { useMemo, useState } from 'preact/hooks';

export interface Column<T> {
  id: string;
  head: string;
  cell(row: T): ComponentChildren;
  /** By what it is sorted; without it the column is not. */
  sort?(row: T): string | number | bigint;
  align?: 'right';
}

export interface Selection {
  chosen: ReadonlySet<string>;
  onChange(chosen: ReadonlySet<string>): void;
}

interface Props<T> {
  caption: string;
  columns: Column<T>[];
  rows: readonly T[];
  keyOf(row: T): string;
  sortedBy?: string;
  descending?: boolean;
  selection?: Selection;
  /** What a row's checkbox is called. */
  nameOf?(row: T): string;
  empty?: ComponentChildren;
  pageSize?: number;
}

function compare(a: string | number | bigint, b: string | number | bigint): number {
  if (typeof a === 'string' && typeof b === 'string') return collator.compare(a, b);
  return a < b ? -1 : a > b ? 1 : 0;
}
const collator = new Intl.Collator('en', { numeric: true });

export function Table<T>({ caption, columns, rows, keyOf, sortedBy, descending = false, selection, nameOf, empty, pageSize = 50 }: Props<T>) {
  const [order, setOrder] = useState({ by: sortedBy ?? '', descending });
  const [wanted, setPage] = useState(0);
  const sorted = useMemo(() => {
    const column = columns.find(({ id }) => id === order.by);
    if (!column?.sort) return rows;
    const keyed = rows.map((row) => ({ row, key: column.sort?.(row) ?? '' }));
    keyed.sort((a, b) => compare(a.key, b.key) * (order.descending ? -1 : 1));
    return keyed.map(({ row }) => row);
    // Columns are made anew at each draw; what they sort by stays.
  }, [rows, order]);
  const pages = Math.max(1, Math.ceil(sorted.length / pageSize));
  const page = Math.min(wanted, pages - 1);
  const shown = sorted.slice(page * pageSize, (page + 1) * pageSize);
  if (rows.length === 0) return <>{empty}</>;

  const choose = (keys: string[], on: boolean) => {
    const next = new Set(selection?.chosen);
    for (const key of keys) on ? next.add(key) : next.delete(key);
    selection?.onChange(next);
  };
  const keys = shown.map(keyOf);
  const allChosen = selection !== undefined && keys.every((key) => selection.chosen.has(key));

  return (
    <div class="table-box">
      {/* Roles are said because small screens lay rows out as cards, and browsers then forget what they are. */}
      <table role="table">
        <caption class="hidden">{caption}</caption>
        <thead role="rowgroup">
          <tr role="row">
            {selection && (
              <th role="columnheader" scope="col" class="choose">
                <input type="checkbox" aria-label="Choose all on this page" checked={allChosen}
                  onChange={(event) => choose(keys, event.currentTarget.checked)} />
              </th>
            )}
            {columns.map((column) => {
              const active = order.by === column.id;
              return (
                <th key={column.id} role="columnheader" scope="col" class={column.align ?? ''}
                  aria-sort={active ? (order.descending ? 'descending' : 'ascending') : undefined}>
                  {column.sort ? (
                    <button type="button" class="sort" onClick={() =>
                      setOrder({ by: column.id, descending: active && !order.descending })}>
                      {column.head}<span aria-hidden="true">{active ? (order.descending ? ' ▾' : ' ▴') : ''}</span>
                    </button>
                  ) : column.head}
                </th>
              );
            })}
          </tr>
        </thead>
        <tbody role="rowgroup">
          {shown.map((row) => {
            const key = keyOf(row);
            return (
              <tr key={key} role="row" class={selection?.chosen.has(key) ? 'chosen' : ''}>
                {selection && (
                  <td role="cell" class="choose">
                    <input type="checkbox" aria-label={`Choose ${nameOf?.(row) ?? key}`} checked={selection.chosen.has(key)}
                      onChange={(event) => choose([key], event.currentTarget.checked)} />
                  </td>
                )}
                {columns.map((column) => (
                  <td key={column.id} role="cell" data-label={column.head} class={column.align ?? ''}>
                    <span class="cell">{column.cell(row)}</span>
                  </td>
                ))}
              </tr>
            );
          })}
        </tbody>
      </table>
      {pages > 1 && (
        <nav class="pager" aria-label={`Pages of ${caption}`}>
          <button type="button" disabled={page === 0} onClick={() => setPage(page - 1)}>Previous</button>
          <span role="status">{page * pageSize + 1}–{Math.min(sorted.length, (page + 1) * pageSize)} of {sorted.length.toLocaleString('en-US')}</span>
          <button type="button" disabled={page === pages - 1} onClick={() => setPage(page + 1)}>Next</button>
        </nav>
      )}
    </div>
  );
}
