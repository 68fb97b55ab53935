"""How fast Tallybook is, beside the stock `eventsourcing` way and raw sqlite3. `python -m benchmarks` runs it all."""
