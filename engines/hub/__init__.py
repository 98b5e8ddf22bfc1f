"""Models from the Hugging Face hub or ModelScope: found, downloaded, verified; without torch."""
