"""The routes: one file per part of the API; none imports another."""
