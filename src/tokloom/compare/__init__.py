"""Methods next to each other on tasks: records, summaries, tables, plots and the report."""
