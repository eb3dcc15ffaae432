"""From files to rows: sources make Records, views and templates make text, text becomes token ids,
ids become rows."""
