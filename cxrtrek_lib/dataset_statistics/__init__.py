"""What the dataset holds and what it gives away: counts, tables, figures, audits (notebook 02)."""
