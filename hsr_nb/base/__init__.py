"""The ground that everybody stands on: errors, whole files, provenance, commands, moments, random streams, pictures."""
