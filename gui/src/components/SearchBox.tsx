export function SearchBox({ label, value, onChange }: { label: string; value: string; onChange(value: string): void }) {
  return (
    <input type="search" class="search" aria-label={label} placeholder={`${label} ( / )`} value={value} spellcheck={false}
      onInput={(event) => onChange(event.currentTarget.value)} />
  );
}
