"""What the engines' answers amount to: comparing and merging them. Pure functions: no redis, no engine."""
