"""The front of Glowl: api, dispatch, jobs, tasks, webhooks and the command line. No torch below this line."""
