// The attacker by one threshold: shares to the right of each edge of the bins, and the line that accuses a given share of others.

// Shares of `counts` to the right of each edge.
function tails(counts) {
  const total = counts.reduce((sum, count) => sum + count, 0), shares = [1];
  let below = 0;
  for (const count of counts) shares.push(1 - (below += count) / total);
  return shares;
}

// The line that accuses the share `fpr`: between the last edge that accuses as many and the next one.
function attacked(edges, { members, others }, fpr) {
  const found = tails(members), accused = tails(others);
  const j = accused.findLastIndex((share) => share >= fpr);
  const part = j + 1 < accused.length ? (accused[j] - fpr) / (accused[j] - accused[j + 1]) : 0;
  const between = (values) => values[j] + (part ? part * (values[j + 1] - values[j]) : 0);
  return { threshold: between(edges), found: between(found), accused: between(accused), curve: [accused, found] };
}

// The share of others that a line at this logit accuses.
function accusedAt(edges, others, logit) {
  const accused = tails(others), last = edges.length - 1;
  if (logit <= edges[0]) return 1;
  if (logit >= edges[last]) return 0;
  const j = edges.findLastIndex((edge) => edge <= logit);
  return accused[j] + ((logit - edges[j]) / (edges[j + 1] - edges[j])) * (accused[j + 1] - accused[j]);
}
