"""Everything that redis keeps of Glowl, in one file, and back again."""
