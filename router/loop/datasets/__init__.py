"""Data sets out of kept exchanges. The form of the folder is `engines.dataset_format`, for both sides."""
