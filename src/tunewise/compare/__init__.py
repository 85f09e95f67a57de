"""Which one: paired table, recommendation, report. No torch in here."""
