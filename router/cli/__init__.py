"""The command `glowl`: one file per command, and the supervisor behind `glowl up`. Imports no torch."""
