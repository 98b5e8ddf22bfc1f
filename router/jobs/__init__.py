"""Jobs: the record and its transitions, the events of a job, and the queues that workers take tickets from."""
