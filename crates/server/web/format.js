// Figures for people, as the command line prints them.

function scaled(value, base, units) {
  let power = 0;
  // 999.5 would print as 1000: the next unit says it better.
  while (value >= base * 0.9995 && power + 1 < units.length) {
    value /= base;
    power += 1;
  }
  if (power === 0) return `${Math.round(value)} ${units[0]}`;
  return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${units[power]}`;
}

/** `6.80 GB`: decimal units. */
export const bytes = (value) => scaled(value, 1000, ["B", "kB", "MB", "GB", "TB", "PB"]);

/** `40.1 MiB`: binary units, for page tables. */
export const bytesBinary = (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]);

/** `12,345`. */
export const grouped = (value) => Math.round(value).toLocaleString("en-US");

/** `5.21`, `52.1`, `521`: a rate with three digits. */
export function rate(value) {
  if (!Number.isFinite(value)) return "0";
  return value.toFixed(value === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2);
}

/** `31 %`. */
export const percent = (share) => `${Math.round(100 * Math.min(Math.max(share, 0), 9.99))} %`;

/** `0.42 s`, `12.3 s`, `2 min 05 s`. */
export function seconds(value) {
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 120) return `${value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${String(Math.floor(value % 60)).padStart(2, "0")} s`;
}

/** `1 token`, `2 tokens`. */
export const plural = (count, word) => `${grouped(count)} ${word}${count === 1 ? "" : "s"}`;
