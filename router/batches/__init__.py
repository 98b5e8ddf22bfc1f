"""Files and batches: uploads, the batch record, its state machine in Lua, and the runner that makes jobs of lines."""
