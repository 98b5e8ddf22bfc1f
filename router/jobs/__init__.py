"""Jobs: the record, its state machine in Lua, the event hub, the queue, the merge and the reaper."""
