"""The GLM-4.6V-Flash engine, on transformers' own model classes."""
