"""Who asked for what, and when: a log that shows it when a line of it was changed or taken out."""
