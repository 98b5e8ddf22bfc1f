"""The readable model of the job store: what the Lua scripts say, in Python; a test drives both side by side."""
