"""Real or fake? A survey of people: built, run, analysed."""
